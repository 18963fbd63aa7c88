"""What the loss costs in a training step: ``python -m benchmarks.bench_training --out FILE.json``.

Whole steps, the loss alone, the largest batch and how the loss scales, under every provider that the machine can run.
The file is written after each figure, so that what is stopped loses nothing, and goes on where it was stopped. ``make
docs`` turns it into docs/measured/benchmarks.md. One setting of your own: ``inverseform-fast bench``.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import gpu, schema
from benchmarks.so3_speed import cpu
from inverseform_fast.bench.measure import compare_losses, compare_steps, largest
from inverseform_fast.bench.steps import PROVIDERS, Setting
from inverseform_fast.files import write_atomically

SCHEMA = schema.load("training_schema.json")
CLASSES = (11, 19, 40, 150)
TILES = ((224, 224), (224, 448), (448, 448), (448, 896), (896, 896))


@dataclass(frozen=True)
class Plan:
    """What is measured on a kind of machine.

    Attributes:
        settings: whole steps, by name.
        scaled: the setting of which one thing at a time is changed, the loss alone.
        batches, crops: those that it is given.
        memory: bytes that the largest batch must fit into; None: the GPU's.
        largest: the setting whose batch is enlarged.
        slow: providers that only take part in the first setting, with no largest batch: compiling takes a CPU minutes.
    """

    settings: dict[str, Setting]
    scaled: Setting
    batches: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    memory: int | None
    largest: Setting
    slow: tuple[str, ...] = ()

    def scaling(self) -> Iterator[tuple[str, float, Setting]]:
        """Axis, what it counts, and the setting."""
        for batch_size in self.batches:
            yield "images", batch_size, replace(self.scaled, batch_size=batch_size)
        for crop in self.crops:
            yield "megapixels", crop[0] * crop[1] / 1e6, replace(self.scaled, crop=crop)
        for classes in CLASSES:
            yield "classes", classes, replace(self.scaled, classes=classes)
        for size in TILES:
            yield "tiles", size[0] * size[1] / 224**2, replace(self.scaled, resize=size)


def plan_of(on_gpu: bool) -> Plan:
    if on_gpu:
        base = Setting("hrnet_w18", crop=(512, 1024), batch_size=8, amp="bf16", device="cuda")
        settings = {
            "hrnet_w18": base,
            "hrnet_w48": replace(base, backbone="hrnet_w48"),
            "SegFormer B2": replace(base, model="segformer", backbone="mit_b2"),
            "1024 x 2048": replace(base, crop=(1024, 2048), batch_size=2),
            "480 x 480": replace(base, crop=(480, 480)),
            **{f"{classes} classes": replace(base, classes=classes) for classes in CLASSES if classes != base.classes},
            "headless": replace(base, headless=True),
        }
        scaled = replace(base, batch_size=4)
        crops = ((256, 512), (512, 1024), (1024, 2048))
        # The release's targets take the host seconds a step.
        return Plan(settings, scaled, (1, 2, 4, 8, 16), crops, None, base, ("compiled", "release"))
    base = Setting("test_resnet", crop=(512, 1024))
    small = replace(base, crop=(256, 512))
    settings = {
        "512 x 1024": base,
        "256 x 512": small,
        "480 x 480": replace(base, crop=(480, 480)),
        **{f"{classes} classes": replace(small, classes=classes) for classes in CLASSES if classes != small.classes},
        "hrnet_w18": replace(small, backbone="hrnet_w18"),
        "SegFormer B0": replace(small, model="segformer", backbone="mit_b0"),
        "headless": replace(small, headless=True),
    }
    crops = ((128, 256), (256, 512), (512, 1024))
    return Plan(settings, small, (1, 2, 4, 8), crops, 2**30, replace(small, crop=(128, 256)), ("compiled",))


def measure(plan: Plan, result: dict[str, Any], rounds: int, save: Any) -> None:
    """Add to the result what it does not have yet, and save it after each figure."""
    done = {step["name"] for step in result["steps"]}
    fast = [provider for provider in PROVIDERS if provider not in plan.slow]
    for index, (name, setting) in enumerate(plan.settings.items()):
        if name in done:
            continue
        print(name, flush=True)
        providers = fast if index else list(PROVIDERS)
        losses, steps = compare_losses(setting, providers, rounds), compare_steps(setting, providers, rounds)
        for loss, step in zip(losses, steps, strict=True):
            if loss["status"].startswith("wrong"):
                step["status"] = loss["status"]  # a step of a wrong loss is no measurement
        result["steps"].append({"name": name, "setting": asdict(setting), "steps": steps, "losses": losses})
        save()
    done = {(point["axis"], point["x"]) for point in result["scaling"]}
    for axis, x, setting in plan.scaling():
        if (axis, x) in done:
            continue
        print(f"{axis}: {x:g}", flush=True)
        losses = compare_losses(setting, fast, rounds)
        times = {loss["provider"]: loss["ms"] for loss in losses if loss["status"] == "measured"}
        result["scaling"].append({"axis": axis, "x": x, "setting": asdict(setting), "ms": times})
        save()
    runs = {step["provider"] for step in result["steps"][0]["steps"] if step["status"] == "measured"}
    for provider in fast:
        if provider in runs and provider not in result["largest"]["batch"]:
            print(f"largest batch: {provider}", flush=True)
            result["largest"]["batch"][provider] = largest(plan.largest, provider, plan.memory)
            save()


def fitted(x: list[float], ms: list[float]) -> dict[str, float]:
    """``ms = fixed + slope x`` by least squares, and the share of the variance that it explains."""
    slope, fixed = np.polyfit(x, ms, 1)
    residual = np.asarray(ms) - (fixed + slope * np.asarray(x))
    explained = 1 - float(residual @ residual) / max(float(np.var(ms)) * len(ms), 1e-30)
    return {"fixed_ms": float(fixed), "ms_per_unit": float(slope), "r2": explained}


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was promised, and what came of it: ``text``, ``asked``, ``found`` (a ratio, or None) and ``met``."""
    steps = {step["name"]: step for step in result["steps"]}

    def ratio(name: str, kind: str, field: str, mine: str, theirs: str, targets: bool = False) -> float | None:
        rows = {row["provider"]: row for row in steps[name][kind]} if name in steps else {}
        a, b = rows.get(mine, {}), rows.get(theirs, {})
        if a.get("status") != "measured" or b.get("status") != "measured":
            return None
        extra = b["targets_ms"] if targets else 0
        return a[field] / (b[field] + extra)

    if result["machine"]["bandwidth_bytes_per_s"] is None:
        name, most, ours = "512 x 1024", 1 / 5, ("reference", "compiled", "fused")
        rows = []
    else:
        name, most, ours = "hrnet_w18", 1 / 20, ("fused",)
        all_there = steps.keys() >= plan_of(True).settings.keys()
        slowest = _most([ratio(each, "steps", "ms", "fused", "stock") for each in steps]) if all_there else None
        rows = [
            ("time of the loss, fused, to stock cross-entropy's", 0.5, ratio(name, "losses", "ms", "fused", "stock")),
            ("its memory", 0.25, ratio(name, "losses", "peak_bytes", "fused", "stock")),
            ("time of a step, fused, to stock's, at most of all settings", 1.0, slowest),
        ]
    for text, targets in (("the release's with its targets", True), ("the release's alone", False)):
        best = _least([ratio(name, "losses", "ms", each, "release", targets=targets) for each in ours])
        rows.append((f"time of the loss, the best of {', '.join(ours)}, to {text}", most, best))
    return [{"text": t, "asked": asked, "found": x, "met": x is not None and x <= asked} for t, asked, x in rows]


def _least(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: list[float | None]) -> float | None:
    return None if None in values else max((value for value in values if value is not None), default=None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results, which are added to")
    parser.add_argument("--rounds", type=int, default=7, help="turns that each provider takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() if torch.cuda.is_available() else 1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = gpu.machine() | {"threads": options.threads}
    plan = plan_of(torch.cuda.is_available())
    if not torch.cuda.is_available():
        machine["device"] = cpu()
    largest_of = {"setting": asdict(plan.largest), "bytes": plan.memory, "batch": {}}
    result = {"schema": SCHEMA["properties"]["schema"]["const"], "machine": machine, "rounds": options.rounds}
    result |= {"steps": [], "scaling": [], "largest": largest_of}
    if options.out.exists():
        old = json.loads(options.out.read_text())
        now = (machine["device"], options.threads, options.rounds)
        if (was := (old["machine"]["device"], old["machine"]["threads"], old["rounds"])) != now:
            parser.error(f"out: {options.out} is of device, threads and rounds {was}, now {now}: name another file")
        result |= old | {"machine": machine}

    def save() -> None:
        text = json.dumps(result, indent=1)
        schema.check(SCHEMA, json.loads(text))
        write_atomically(options.out, lambda file: file.write(text.encode()))

    measure(plan, result, options.rounds, save)
    for goal in goals(result):
        found = "not measured" if goal["found"] is None else f"{goal['found']:.3g}"
        print(f"{goal['text']}: {found}, asked {goal['asked']:.3g}")


if __name__ == "__main__":
    main()
