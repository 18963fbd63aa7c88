"""Measures what a result still lacks of its plan, and saves after each figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.common.results import Json
from benchmarks.training.plan import Plan
from inverseform_fast.bench.measure import compare_losses, compare_steps, largest
from inverseform_fast.bench.setting import PROVIDERS, Setting


def measure(plan: Plan, result: Json, rounds: int, save: Callable[[], None]) -> None:
    """Add to the result what it does not have yet, and save it after each figure."""
    fast = [provider for provider in PROVIDERS if provider not in plan.slow]
    _steps(plan, result, fast, rounds, save)
    _scaling(plan, result, fast, rounds, save)
    _largest_batches(plan, result, fast, save)
    _slow_providers(plan, result, rounds, save)


def _steps(plan: Plan, result: Json, fast: list[str], rounds: int, save: Callable[[], None]) -> None:
    done = {step["name"] for step in result["steps"]}
    for name, setting in plan.settings.items():
        if name not in done:
            print(name, flush=True)
            rows = _compared(setting, fast, rounds)
            result["steps"].append({"name": name, "setting": asdict(setting), **rows})
            save()


def _slow_providers(plan: Plan, result: Json, rounds: int, save: Callable[[], None]) -> None:
    """Measure the slow providers in the first setting, beside the reference, which judges whether they are right."""
    first, setting = result["steps"][0], next(iter(plan.settings.values()))
    if {row["provider"] for row in first["steps"]} == set(PROVIDERS):
        return
    print(f"{first['name']}: {', '.join(plan.slow)}", flush=True)
    rows = _compared(setting, dict.fromkeys(("reference", *plan.slow)), rounds)
    for kind, found in rows.items():
        known = {row["provider"]: row for row in [*found, *first[kind]]}
        first[kind] = [known[provider] for provider in PROVIDERS]
    save()


def _compared(setting: Setting, providers: Iterable[str], rounds: int) -> dict[str, list[Any]]:
    losses = compare_losses(setting, list(providers), rounds)
    steps = compare_steps(setting, list(providers), rounds)
    for loss, step in zip(losses, steps, strict=True):
        if loss["status"].startswith("wrong"):
            step["status"] = loss["status"]  # the time of a step with a wrong loss means nothing
    return {"steps": steps, "losses": losses}


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
