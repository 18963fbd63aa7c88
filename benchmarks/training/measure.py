"""Measures what a result still lacks of its plan, and saves after each figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from benchmarks.common.results import Json
from benchmarks.training.plan import Plan
from inverseform_fast.bench.measure import compare_losses, compare_steps, largest
from inverseform_fast.bench.setting import PROVIDERS


def measure(plan: Plan, result: Json, rounds: int, save: Callable[[], None]) -> None:
    """Add to the result what it does not have yet, and save it after each figure."""
    fast = [provider for provider in PROVIDERS if provider not in plan.slow]
    _steps(plan, result, fast, rounds, save)
    _scaling(plan, result, fast, rounds, save)
    _largest_batches(plan, result, fast, save)


def _steps(plan: Plan, result: Json, fast: list[str], rounds: int, save: Callable[[], None]) -> None:
    done = {step["name"] for step in result["steps"]}
    for index, (name, setting) in enumerate(plan.settings.items()):
        if name in done:
            continue
        print(name, flush=True)
        providers = fast if index else list(PROVIDERS)
        losses, steps = compare_losses(setting, providers, rounds), compare_steps(setting, providers, rounds)
        for loss, step in zip(losses, steps, strict=True):
            if loss["status"].startswith("wrong"):
                step["status"] = loss["status"]  # the time of a step with a wrong loss means nothing
        result["steps"].append({"name": name, "setting": asdict(setting), "steps": steps, "losses": losses})
        save()


def _scaling(plan: Plan, result: Json, fast: list[str], rounds: int, save: Callable[[], None]) -> None:
    done = {(point["axis"], point["x"]) for point in result["scaling"]}
    for axis, x, setting in plan.scaling():
        if (axis, x) in done:
            continue
        print(f"{axis}: {x:g}", flush=True)
        losses = compare_losses(setting, fast, rounds)
        times = {loss["provider"]: loss["ms"] for loss in losses if loss["status"] == "measured"}
        result["scaling"].append({"axis": axis, "x": x, "setting": asdict(setting), "ms": times})
        save()


def _largest_batches(plan: Plan, result: Json, fast: list[str], save: Callable[[], None]) -> None:
    runs = {step["provider"] for step in result["steps"][0]["steps"] if step["status"] == "measured"}
    for provider in fast:
        if provider in runs and provider not in result["largest"]["batch"]:
            print(f"largest batch: {provider}", flush=True)
            result["largest"]["batch"][provider] = largest(plan.largest, provider, plan.memory)
            save()
