"""``python -m benchmarks.studies.predictions --root CAMVID``: how does a network read what models predict?

It trains segmentation models on CamVid's train split: the pyramid's head on cached features of Lite0 with ImageNet
weights, and small models from scratch. Their predictions of test frames, at 224 x 288, are compared with the labels,
as they are and moved by known homographies. No network that is measured has seen any of them. ``--net NAME=FILE`` names
the weight files; results of other networks stay in the results file, and a model that is trained is not trained again.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import paths, results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.studies.headless.features import Frames, frames_of
from benchmarks.studies.headless.training import train_head
from inverseform_fast import BoundaryAwareLoss, InverseTransformNet
from inverseform_fast.files import write_atomically
from inverseform_fast.inverse_net.predictions import (
    Predictions,
    evaluate_predictions,
    predict_run,
    predicted_boundaries,
)
from inverseform_fast.nets import WEIGHTS
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.evaluation import open_dataset
from inverseform_fast.segmentation.models.lite0 import LITE0
from inverseform_fast.segmentation.training.run import train

OUT = paths.RESULTS / "predictions.json"
RUNS, FEATURES = Path("runs/predictions"), Path("runs/headless")
SIZE = (224, 288)
PIXELS = 6.5
FROZEN = {  # Lite0 with ImageNet weights, frozen: steps of 8, and whether it has a boundary head
    "Lite0, 100 steps": (100, True),
    "Lite0, 300 steps": (300, True),
    "Lite0, 300 steps, headless": (300, False),
}
SCRATCH = {  # model and backbone, 300 steps
    "ResNet from scratch": ("pyramid", "test_resnet"),
    "SegFormer from scratch": ("segformer", "mit_b0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file for the results")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the trained models")
    parser.add_argument("--features", type=Path, default=FEATURES, help="folder of the cached features")
    parser.add_argument("--net", action="append", default=[], metavar="NAME=FILE", help="weight file; repeatable")
    parser.add_argument("--tiles", type=int, default=256, help="tiles of each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = dict(text.split("=", 1) for text in options.net) or {"compact": str(WEIGHTS / "compact.safetensors")}
    result: Json = results.read(options.out) if options.out.exists() else {"pixels": PIXELS, "nets": {}}
    result["machine"] = machine(on_gpu=False)
    models = predictions_of_all(options.root, options.runs, options.features)
    for name, file in files.items():
        net = InverseTransformNet.from_file(file).requires_grad_(False)
        result["nets"][name] = {
            "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest(),
            "rows": rows(net, models, options.tiles),
        }
        results.write(options.out, result)


def rows(net: InverseTransformNet, models: Mapping[str, Predictions], tiles: int) -> list[Json]:
    """What the network reads off each model's predictions of each kind."""
    found = []
    for model, predictions in models.items():
        for kind in predictions.kinds:
            scores = evaluate_predictions(net, predictions, kind, pixels=PIXELS, count=tiles)
            found.append({"model": model, "kind": kind, **{name: round(value, 4) for name, value in scores.items()}})
            print(found[-1], flush=True)
    return found


def predictions_of_all(root: Path, runs: Path, features: Path) -> dict[str, Predictions]:
    """Every model's predictions of every second test frame; models that are not there yet are trained."""
    makers: dict[str, Callable[[], Predictions]] = {
        **{name: partial(frozen, *setting, root, features) for name, setting in FROZEN.items()},
        **{name: partial(from_scratch, *setting, root, runs / name) for name, setting in SCRATCH.items()},
    }
    return {name: kept(runs / f"{name}.pt", make) for name, make in makers.items()}


def kept(path: Path, make: Callable[[], Predictions]) -> Predictions:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        predictions = make()
        write_atomically(path, lambda file: torch.save(vars(predictions), file))
    return Predictions(**torch.load(path, weights_only=True))


def frozen(steps: int, boundary_head: bool, root: Path, features: Path) -> Predictions:
    """Those of the pyramid's head on a frozen Lite0."""
    config = TrainConfig(
        data="camvid",
        root=str(root),
        backbone=LITE0,
        pretrained=True,
        boundary_head=boundary_head,
        crop=SIZE,
        steps=steps,
    )
    frames: dict[str, Frames] = {
        split: frames_of(config, split, features / f"{split}.pt") for split in ("train", "test")
    }
    loss = BoundaryAwareLoss(10 if boundary_head else 0.3, edge=0, dice=0, f1=0)
    model, _ = train_head(
        config,
        open_dataset(config, "train").tasks,
        frames["train"],
        lambda outputs, labels: loss(outputs["semantic"], labels, outputs.get("boundary")).total,
    )
    maps = []
    chosen = torch.arange(0, len(frames["test"].labels), 2)
    with torch.no_grad():
        for indices in chosen.split(8):
            inputs, _ = frames["test"].batch(indices.tolist(), [False] * len(indices))
            maps.append(predicted_boundaries(model.eval()(inputs), SIZE))
    return Predictions(torch.cat(maps), frames["test"].labels[chosen])


def from_scratch(model: str, backbone: str, root: Path, out: Path) -> Predictions:
    """Those of a small model that has learned from CamVid alone."""
    config = TrainConfig(
        data="camvid", root=str(root), model=model, backbone=backbone, loss="boundary", boundary_head=True, edge=0,
        dice=0, f1=0, crop=SIZE, eval_size=SIZE, scale=(0.6, 1.2), steps=300, batch_size=2, out=str(out),
    )  # fmt: skip
    train(config, overwrite=True)
    frames = predict_run(out, "test")
    return frames.of(torch.arange(0, len(frames.labels), 2))


if __name__ == "__main__":
    main()
