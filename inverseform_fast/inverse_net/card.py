"""The card of the shipped weights: what they were trained on, and what was measured on boundaries that they never saw.

``python -m inverseform_fast.inverse_net.card --camvid ROOT --trained-by COMMAND`` writes ``weights/compact.md``,
``docs/measured/displacement.png``, ``docs/measured/calibration.png`` and ``docs/measured/pairs.png``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from .. import InverseTransformNet
from ..nets import WEIGHTS
from ..scenes.shapes import label_maps as shape_labels
from ..scenes.street import label_maps as scene_labels
from .calibration import calibrate, read_label_maps
from .calibration import draw as draw_calibration
from .curves import MOTIONS, displacement_curves
from .evaluation import aperture_bound, evaluate, says_nothing, true_tiles
from .pairs import make_pairs
from .pictures import draw_pairs
from .training import collect_label_maps, training_history

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE, CALIBRATION, PAIRS = (Path(f"docs/measured/{name}.png") for name in ("displacement", "calibration", "pairs"))
SIZE = (360, 480)  # height and width of the label maps
# Folders of label maps below --samples. PASCAL VOC is none of them: void surrounds its objects, so nothing is boundary.
SAMPLES = {
    "NYUv2, rooms": "nyud/seg40",
    "PASCAL Context": "pascal_context/labels",
    "PASCAL person parts": "pascal_person_part/labels",
    "KITTI, a street": "kitti/labels",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camvid", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--samples", type=Path, help=f"folder of label maps in {', '.join(SAMPLES.values())}")
    parser.add_argument("--trained-by", required=True, help="the command that trained the weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = InverseTransformNet.compact()
    test = collect_label_maps("camvid", "test", options.camvid, SIZE, 0, 0, 0)
    domains = {"CamVid test": test}
    if options.samples:
        for name, folder in SAMPLES.items():
            maps = read_label_maps(options.samples / folder)
            fitted = [resize(m[None], list(SIZE), InterpolationMode.NEAREST_EXACT) for m in maps]
            domains[f"{name} ({len(maps)})"] = torch.cat(fitted)
    generator = torch.Generator().manual_seed(2**20)
    domains["procedural scenes of another seed"] = scene_labels(128, *SIZE, generator)
    domains["procedural shapes of another seed"] = shape_labels(128, *SIZE, generator)
    curves = {kind: displacement_curves(net, test, kind) for kind in MOTIONS}
    draw(curves, PICTURE)
    calibration = calibrate(net, list(test))
    draw_calibration(calibration, CALIBRATION)
    scenes = domains["procedural scenes of another seed"]
    draw_pairs(net, make_pairs(scenes, 6, net.tile, 2 * 24 / net.tile, generator)).savefig(PAIRS, dpi=90)
    (WEIGHTS / "compact.md").write_text(card(net, domains, curves, calibration, options.trained_by))


def card(
    net: InverseTransformNet,
    domains: dict[str, Tensor],
    curves: dict[str, dict[str, Tensor]],
    calibration: dict[str, Any],
    trained_by: str,
    count: int = 768,
) -> str:
    """The card as Markdown; measures as it writes, on ``count`` pairs a row. ``curves`` and ``calibration``: of CamVid.

    ``domains``: name and label maps ``(M, H, W)`` of each data set, CamVid first.
    """
    stages = training_history(WEIGHTS / "compact.safetensors")
    training = "\n".join(
        f"| {s['steps']} | {s['batch_size']} | {s['lr']} | {s['max_pixels']:g} px | {s['distance']} | {s['seed']} |"
        for s in stages
    )
    parameters = sum(parameter.numel() for parameter in net.parameters())
    camvid = next(iter(domains.values()))
    accuracy = "\n".join(
        [
            *(accuracy_row(name, net, maps, count) for name, maps in domains.items()),
            accuracy_row("CamVid test, views turned, flipped and zoomed", net, camvid, count, turn=True),
        ]
    )
    nothing = "\n".join(
        f"| {name} | {s['median']:.2f} | {s['p95']:.2f} | {s['gradient']:.2f} |"
        for name, s in says_nothing(net, camvid, count=min(count, 256)).items()
    )
    tables = "\n\n".join(curve_table(kind, curve) for kind, curve in curves.items())
    return f"""# compact: the inverse-transformation network shipped with inverseform_fast

Two boundary tiles of {net.tile} x {net.tile} in, the homography between them out. {parameters:,} parameters, float32,
safetensors; architecture `{net.architecture}`.

**Trained** on procedural label maps only (street-like ones of `inverseform_fast.segmentation.datasets.scenes`, abstract
ones of `inverseform_fast.scenes.shapes`), so the weights carry nobody's terms, with AdamW, linear warm-up and
cosine decay; number of stages: {len(stages)}, each from the weights of the one before:

| steps | pairs a step | peak learning rate | largest displacement | distance | seed |
|---:|---:|---:|---:|---|---:|
{training}

The predicted side is drawn thin or thick; every other tile is also broken, blurred, faded, haunted by other lines and
noisy; on 5 % of the pairs it says nothing (constant or noise) and the answer to learn is "no displacement". Commands:

```
{trained_by}
```

## Accuracy

Tiles from random places of the label maps ({SIZE[1]} x {SIZE[0]}), at their own scale and upright as the loss sees
them, moved by random homographies: `|a|` uniform up to 16 px of the {net.tile} px tile, direction uniform over the
eight generators. Other data than procedural took no part in the training.

The corner error is the mean over pairs of the mean over the tile's four corners; shares are of the error of predicting
no displacement. *Degraded*: the predicted side with gaps in 20 % of the line, blurred to 5 px wide, faded to 0.5, with
noise of 0.1. *Bound*: what the aperture problem leaves, by a linear-Gaussian model with 0.5 px of noise at every fourth
boundary pixel of a crisp tile. Rank correlations are Spearman's, of the loss's value, the estimated `|a|`, with the
true `|a|`, and with the true mean displacement of the corners (another number: a perfect network has 0.97).

| boundaries | pairs | no displacement, px | crisp, px | crisp | bound | degraded | rank, crisp | degraded \
| corners, crisp | degraded |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{accuracy}

![Pairs of boundary tiles as they are, and with the target moved by the estimate](../../{PAIRS})

Procedural scenes of another seed, every other prediction damaged as in training; where the estimate is right the lines
of the lower row lie on each other (`{PAIRS}` in the repository; `train-net` draws the same of its own pairs).

## What the loss says of a prediction that says nothing

Against true CamVid boundaries: `|a|` in pixels over tiles, and the norm of the gradient of the mean `|a|` by the logits
as a share of that at the first row.

| prediction | median, px | 95 %, px | gradient |
|---|---:|---:|---:|
{nothing}

## What the loss says of a known displacement

![Value and direction of the gradient against a known displacement](../../{CALIBRATION})

CamVid test tiles as the loss cuts them, displaced in random directions ({calibration["views"]} views; `inverseform-fast
calibrate` draws the same for other label maps). At the match the median value is
{calibration["crisp"]["match"]:.2g} px, degraded {calibration["degraded"]["match"]:.2g} px; the picture is
`{CALIBRATION}` in the repository.

![Value and gradient against a known displacement, beside balanced BCE](../../{PICTURE})

True CamVid test boundaries against copies of themselves, displaced (the paper's Figure 2, answered): the
loss `|a|` in pixels and the class-balanced BCE of the same pair. *Home* is the share of views, in per cent, on which
descending the gradient by the displacement leads back to the match. Means over {curves["shift"]["bce"].shape[1]}
views; the picture is `{PICTURE}` in the repository. At 0 the copy still differs by its resampling (soft
against thresholded edges); two identical maps give exactly 0.

{tables}

Limits: a tile with few directions of boundary cannot show some motions (the aperture problem), so single values are
noisy.
Displacements beyond {max(s["max_pixels"] for s in stages):g} px were never seen in training.
"""


def accuracy_row(name: str, net: InverseTransformNet, label_maps: Tensor, count: int, turn: bool = False) -> str:
    """A row of the table of accuracy: crisp and degraded measures, and the bound on 128 tiles at most."""
    crisp, degraded = (
        evaluate(net, label_maps, count=count, batch=min(count, 64), degraded=degraded, turn=turn)
        for degraded in (False, True)
    )
    bound = aperture_bound(true_tiles(label_maps, net.tile, min(count, 128)), 16)
    return (
        f"| {name} | {crisp['pairs']:.0f} | {crisp['identity_corner_error']:.2f} | {crisp['corner_error']:.2f} "
        f"| {crisp['relative_corner_error']:.1%} | {bound['relative_corner_error']:.1%} "
        f"| {degraded['relative_corner_error']:.1%} | {crisp['spearman']:.3f} | {degraded['spearman']:.3f} "
        f"| {crisp['spearman_corners']:.3f} | {degraded['spearman_corners']:.3f} |"
    )


def curve_table(kind: str, curve: dict[str, Tensor]) -> str:
    """A motion's curves at its positive amounts, averaged with the negative ones."""
    amount = curve["amount"]
    lines = [
        f"| {kind}, {MOTIONS[kind][0]} | `\\|a\\|`, px | balanced BCE | home, InverseForm | home, BCE |",
        "|---:|---:|---:|---:|---:|",
    ]
    for value in amount[amount >= 0]:
        at = amount.abs() == value
        home = [100 * _homeward(curve, name)[at].mean() for name in ("inverseform", "bce")]
        shares = "| - | - |" if value == 0 else f"| {home[0]:.0f} | {home[1]:.0f} |"
        lines.append(f"| {value:g} | {curve['inverseform'][at].mean():.2f} | {curve['bce'][at].mean():.3f} {shares}")
    return "\n".join(lines)


def draw(curves: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Value (above) and share of views whose gradient points home (below), one column per motion."""
    figure, axes = plt.subplots(2, len(curves), figsize=(11, 5.2), sharex="col", layout="constrained")
    for column, (kind, curve) in enumerate(curves.items()):
        top, bottom = axes[:, column]
        bce = top.twinx()
        lines = []
        for axis, name, label, color in (
            (top, "inverseform", "InverseForm |a|, px (left)", "tab:red"),
            (bce, "bce", "balanced BCE (right)", "tab:blue"),
        ):
            value, amount = curve[name], curve["amount"]
            lines += axis.plot(amount, value.mean(1), color=color, label=label, marker=".")
            low, high = value.quantile(torch.tensor([0.1, 0.9]), dim=1)
            axis.fill_between(amount, low, high, color=color, alpha=0.12, linewidth=0)
            axis.set_ylim(bottom=0)
            away = amount != 0
            bottom.plot(amount[away], 100 * _homeward(curve, name).mean(1)[away], color=color, marker=".")
        top.set_title(f"{kind}, {MOTIONS[kind][0]}")
        bottom.axhline(50, color="gray", linewidth=0.8, linestyle=":")
        bottom.set(ylim=(0, 104), xlabel=f"{kind}, {MOTIONS[kind][0]}")
        if column == 0:
            top.legend(handles=lines, loc="upper center", fontsize=8)
            top.set_ylabel("value (mean, 10-90 %)")
            bottom.set_ylabel("gradient points home, % of views")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _homeward(curve: dict[str, Tensor], name: str) -> Tensor:
    return (curve["amount"].sign()[:, None] * curve[f"{name}_slope"] > 0).float()


if __name__ == "__main__":
    main()
