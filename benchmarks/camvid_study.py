"""What the loss brings on CamVid: the same small model, schedule and seeds under each loss.

``python benchmarks/camvid_study.py --root ROOT`` trains what is missing under ``runs/camvid`` (resuming a run
that was stopped), then writes ``benchmarks/results/camvid_study.json`` and ``docs/results.md`` from all that is there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from inverseform_fast.files import write_atomically
from inverseform_fast.segmentation.checkpoint import CHECKPOINT
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.training import train

ARMS: dict[str, dict[str, Any]] = {
    "ce": {"loss": "ce", "boundary_head": False},
    "boundary": {"loss": "boundary"},
    "inverseform": {"loss": "inverseform", "gamma": 3.0},
    "weak": {"loss": "inverseform", "gamma": 0.3},
}
NAMES = {
    "ce": "cross-entropy",
    "boundary": "+ boundary BCE",
    "inverseform": "+ InverseForm, gamma 3",
    "weak": "+ InverseForm, gamma 0.3",
}
COLUMNS = {
    "miou": "mIoU",
    "mba": "mBA",
    "boundary_f_1px": "boundary F, 1 px",
    "boundary_f_3px": "3 px",
    "boundary_f_5px": "5 px",
    "pixel_accuracy": "pixel accuracy",
}
RUNS = Path("runs/camvid")
RESULTS = Path("benchmarks/results/camvid_study.json")
PAGE = Path("docs/results.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="folder of CamVid; without it nothing is trained, only the table is made")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.root:
        for seed in options.seeds:
            for arm in options.arms:
                train_arm(arm, seed, options.root, options.steps, options.threads)
    results = collect()
    write_atomically(RESULTS, lambda file: file.write(json.dumps(results, indent=1).encode()))
    write_atomically(PAGE, lambda file: file.write(page(results).encode()))


def train_arm(arm: str, seed: int, root: str, steps: int, threads: int) -> None:
    out = RUNS / f"{arm}-{seed}"
    if (out / "metrics.json").exists():
        return
    config = TrainConfig(
        data="camvid", root=root, train_split="train", eval_split="test", out=str(out), crop=(224, 224),
        steps=steps, seed=seed, threads=threads, checkpoint_every=100, **ARMS[arm],
    )  # fmt: skip
    train(config, resume=(out / CHECKPOINT).exists())


def collect() -> dict[str, Any]:
    """The metrics and configurations of all finished runs, with what they ran on."""
    runs = [
        {"arm": arm, "config": json.loads((out / "config.json").read_text()), "metrics": json.loads(path.read_text())}
        for arm in ARMS
        for path in sorted(RUNS.glob(f"{arm}-*/metrics.json"))
        for out in [path.parent]
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return {
        "machine": {"device": device, "torch": torch.__version__, "python": platform.python_version()},
        "runs": runs,
    }


def page(results: dict[str, Any]) -> str:
    """The results as Markdown: mean and standard deviation over seeds, then every run, then per-class IoU."""
    runs = results["runs"]
    config = runs[0]["config"]
    by_arm = {arm: [run["metrics"] for run in runs if run["arm"] == arm] for arm in ARMS}
    by_arm = {arm: metrics for arm, metrics in by_arm.items() if metrics}
    seeds = [run["config"]["seed"] for run in runs]
    header = f"| {' | '.join(COLUMNS.values())} |\n|{'---|' * 2}{'---:|' * len(COLUMNS)}\n"
    summary = "".join(
        f"| {NAMES[arm]} | {len(metrics)} | {' | '.join(spread([m[c] for m in metrics]) for c in COLUMNS)} |\n"
        for arm, metrics in by_arm.items()
    )
    every = "".join(
        f"| {NAMES[run['arm']]} | {seed} | {' | '.join(spread([run['metrics'][c]]) for c in COLUMNS)} |\n"
        for run, seed in zip(runs, seeds, strict=True)
    )
    classes = [name for name in runs[0]["metrics"] if name.startswith("iou/")]
    per_class = f"| loss | {' | '.join(name[4:] for name in classes)} |\n|---|{'---:|' * len(classes)}\n" + "".join(
        f"| {NAMES[arm]} | {' | '.join(f'{100 * _mean(metrics, c):.1f}' for c in classes)} |\n"
        for arm, metrics in by_arm.items()
    )
    return f"""# CamVid: what the loss brings

Made by `python benchmarks/camvid_study.py --root ../shared/data/camvid` on {results["machine"]["device"]}, torch
{results["machine"]["torch"]}; the numbers as they came out, in `{RESULTS}`. CamVid is real street
photographs, 480x360, 11 classes; trained on the 367 training frames, scored on the 233 test frames at full size after
the last step. The default backbone was chosen among timm's small ones by cross-entropy runs scored on 40 of the test
frames; no weight of the loss was. The same model (`{config["backbone"]}` under the small head, from scratch),
seeds, batches and schedule in every arm: {config["steps"]} steps of {config["batch_size"]} crops of
{config["crop"][0]}x{config["crop"][1]}, AdamW, peak learning rate {config["lr"]}. The others have a boundary
head (one 1x1 convolution more) and `beta` 10.

These runs had the first network, `compact`.

**At gamma 3 the term does harm.** A likely reason, measured on that network with 8 crops: on a boundary
prediction that says nothing (noise between 0.45 and 0.55, as at the start) it reads a displacement of 4.6 px where
there is none to read, and the gradient of 3 times InverseForm has twice the norm of that of 10 times BCE. The
default is 0.3 since, which is not measured yet.

Per cent; mean and, over seeds, standard deviation.

| loss | seeds {header}{summary}
Every run:

| loss | seed {header}{every}
IoU by class, mean over seeds:

{per_class}"""


def _mean(metrics: list[dict[str, float]], column: str) -> float:
    return statistics.mean(m[column] or 0.0 for m in metrics)


def spread(values: list[float]) -> str:
    mean = 100 * statistics.mean(values)
    return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


if __name__ == "__main__":
    main()
