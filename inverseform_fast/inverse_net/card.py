"""The card of the shipped weights says what they were trained on, and how accurate they are on unseen boundaries.

``python -m inverseform_fast.inverse_net.card --camvid ROOT --trained-by FILE`` writes ``weights/compact.md``,
``docs/measured/displacement.png``, ``docs/measured/calibration.png`` and ``docs/measured/pairs.png``.
``benchmarks/results/predictions.json`` must have been measured before: ``python -m benchmarks.studies.predictions``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from .. import InverseTransformNet
from ..nets import WEIGHTS
from ..scenes import shapes, street
from .calibration import Calibration, calibrate
from .calibration import draw as draw_calibration
from .curves import MOTIONS, displacement_curves
from .evaluation import aperture_bound, evaluate, says_nothing, true_tiles
from .label_maps import collect_label_maps, read_label_maps
from .pairs import make_pairs
from .pictures import draw_pairs
from .training import training_history

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PICTURE, CALIBRATION, PAIRS = (Path(f"docs/measured/{name}.png") for name in ("displacement", "calibration", "pairs"))
CONVENTIONS = "../../docs/guide/conventions.md#eight-numbers-instead-of-a-matrix"
PREDICTIONS = Path("benchmarks/results/predictions.json")
SIZE = (360, 480)  # height and width of the label maps
# Folders of label maps below --samples. PASCAL VOC is not among them: void surrounds its objects and hides boundaries.
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
    parser.add_argument("--trained-by", type=Path, required=True, help="file of the commands that trained the weights")
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS, help="what was measured of predictions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = InverseTransformNet.compact()
    generator = torch.Generator().manual_seed(2**20)
    domains = _domains(options.camvid, options.samples, generator)
    test, scenes = domains["CamVid test"], domains["procedural scenes of another seed"]
    curves = {kind: displacement_curves(net, test, kind) for kind in MOTIONS}
    draw(curves, PICTURE)
    calibration = calibrate(net, list(test))
    draw_calibration(calibration, CALIBRATION)
    draw_pairs(net, make_pairs(scenes, 6, net.tile, 2 * 24 / net.tile, generator)).savefig(PAIRS, dpi=90)
    text = card(
        net,
        training_history(WEIGHTS / "compact.safetensors"),
        options.trained_by.read_text().strip(),
        accuracy_table(net, domains),
        predictions_table(json.loads(options.predictions.read_text())),
        nothing_table(net, test),
        "\n\n".join(curve_table(kind, curve) for kind, curve in curves.items()),
        curves["shift"]["bce"].shape[1],
        calibration,
    )
    (WEIGHTS / "compact.md").write_text(text)


def _domains(camvid: Path, samples: Path | None, generator: torch.Generator) -> dict[str, Tensor]:
    """Collects the label maps ``(M, H, W)`` to measure on, by the name of the data set; CamVid comes first."""
    domains = {"CamVid test": collect_label_maps("camvid", "test", camvid, SIZE, 0, 0, 0)}
    if samples:
        for name, folder in SAMPLES.items():
            maps = read_label_maps(samples / folder)
            fitted = [resize(labels[None], list(SIZE), InterpolationMode.NEAREST_EXACT) for labels in maps]
            domains[f"{name} ({len(maps)})"] = torch.cat(fitted)
    domains["procedural scenes of another seed"] = street.label_maps(128, *SIZE, generator)
    domains["procedural shapes of another seed"] = shapes.label_maps(128, *SIZE, generator)
    return domains


def card(
    net: InverseTransformNet,
    stages: Sequence[dict[str, Any]],
    trained_by: str,
    accuracy: str,
    predictions: str,
    nothing: str,
    curves: str,
    curve_views: int,
    calibration: Calibration,
) -> str:
    """Writes the card as Markdown.

    Args:
        net: the network that the card is about.
        stages: the configurations that it was trained with, see :func:`.training.training_history`.
        trained_by: the commands that trained it.
        accuracy, predictions, nothing, curves: the tables of the measurements, as Markdown.
        curve_views: number of views that ``curves`` are averaged over.
        calibration: the result of :func:`calibrate` on CamVid.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    training = "\n".join(
        f"| {s['steps']} | {s['batch_size']} | {s.get('predicted_share', 0):.0%} | {s['lr']} | {s['max_pixels']:g} px "
        f"| {s['distance']} | {s['seed']} |"
        for s in stages
    )
    return f"""# compact: the inverse-transformation network shipped with inverseform_fast

The network reads two boundary tiles of {net.tile} x {net.tile}, a predicted one and a true one, and estimates the
homography between them. It has {parameters:,} parameters in float32, stored as safetensors. Its architecture is
`{net.architecture}`. `|a|` is the size of a homography, a displacement ([conventions]({CONVENTIONS})).

**Training.** The network saw generated label maps only, so no data set's license applies to its weights. The maps are
street scenes (`inverseform_fast.scenes.street`) and abstract shapes (`inverseform_fast.scenes.shapes`). It was trained
with AdamW, linear warm-up and cosine decay, in these stages ({len(stages)}). Each started from the weights of the one
before it:

| steps | pairs a step | of models' predictions | peak learning rate | largest displacement | distance | seed |
|---:|---:|---:|---:|---:|---|---:|
{training}

The pairs of models' predictions show what small segmentation models, trained on procedural scenes, predict of other
scenes: the boundary head's map, the soft boundary map, or the boundary of the classes. The labels were moved, 15 % of
them by nothing. All other pairs are made of label maps alone. In these, the lines of the predicted side are thin or
thick. Every other predicted tile is also broken, blurred, faded, overlaid with other lines and noisy. In 5 % of them
the prediction says nothing (it is constant, or noise), and the answer to learn is "no displacement". These commands
trained the network:

```
{trained_by}
```

## Accuracy

The tiles come from random places of the label maps ({SIZE[1]} x {SIZE[0]}). They are upright and at the maps' own
scale, as the loss sees them. Random homographies move them: `|a|` is uniform up to 16 px of the {net.tile} px tile, and
the direction is uniform over the eight generators. Only procedural data took part in the training.

The corner error is averaged over the pairs and over the four corners of the tile. Percentages are shares of the error
of predicting no displacement. *Crisp* means that the predicted side is undamaged. *Degraded* means that it has gaps in
20 % of the line, is blurred to 5 px wide, is faded to 0.5 and has noise of 0.1. *Bound* estimates the error that is
left because a line shows motion only across itself (the *aperture problem*), by a linear-Gaussian model with 0.5 px of
noise at every fourth boundary pixel of a crisp tile. *Rank* is Spearman's rank correlation of the loss's value, the
estimated `|a|`, with the true `|a|`. *Corners* is its correlation with the true mean displacement of the corners, which
is another quantity: a perfect network has 0.97 there.

{accuracy}

![Pairs of boundary tiles as they are, and with the target moved by the estimate](../../{PAIRS})

The pairs come from procedural scenes of another seed; every other prediction is damaged as in training. Where the
estimate is right, the lines of the lower row lie on each other. The picture is `{PAIRS}` in the
repository; `train-net` draws the same of its own pairs.

## What it reads off models' predictions

All other readings of this card are of true boundaries, as they are or damaged by a formula. These are of what models
predict of CamVid test frames, at 224 x 288, on tiles of {net.tile}. The models were trained on CamVid; no network of
the table has seen any of them. *Read* is the displacement that the network reads where nothing is displaced. *Left* is
what is left of 6.5 px after the labels were moved back by the estimate, and *better* is the share of tiles that are
nearer after it. *Before* are the weights that the package had before it learned from predictions. All are means over
the corners of the tiles, in their pixels (`python -m benchmarks.studies.predictions`).

{predictions}

A network that is tuned on the model itself reads much better: `inverseform-fast tune-net`.

## What the loss says of a prediction that says nothing

The predictions are compared with true CamVid boundaries. The table has the median and the 95th percentile of `|a|` over
the tiles, in pixels. *Gradient* is the norm of the gradient of the mean `|a|` with respect to the logits, as a share of
that in the first row.

{nothing}

## What the loss says of a known displacement

![Value and direction of the gradient against a known displacement](../../{CALIBRATION})

The tiles are those of CamVid test as the loss cuts them, displaced in random directions ({calibration["views"]} views).
At the match, the median value is {calibration["crisp"]["match"]:.2g} px, and {calibration["degraded"]["match"]:.2g} px
if the prediction is degraded. The picture is `{CALIBRATION}` in the repository;
`inverseform-fast calibrate` draws the same for other label maps.

![Value and gradient against a known displacement, beside balanced BCE](../../{PICTURE})

Here true CamVid test boundaries are compared with displaced copies of themselves, as in the paper's Figure 2. The
tables have the loss `|a|` in pixels and the balanced BCE of the same pair, averaged over {curve_views} views. *Home* is
the share of views, in per cent, in which descending the gradient with respect to the displacement leads back to the
match. At 0 the copy still differs, because resampling softens its edges; two identical maps give exactly 0. The picture
is `{PICTURE}` in the repository.

{curves}

**Limits.** A tile whose lines have few directions cannot show some motions, so the value of a single tile is noisy.
Displacements beyond {max(s["max_pixels"] for s in stages):g} px were never seen in training.
"""


def accuracy_table(net: InverseTransformNet, domains: dict[str, Tensor], count: int = 768) -> str:
    """Measures ``count`` pairs of each data set's maps ``(M, H, W)``, a row each, and turned views of the first."""
    first = next(iter(domains))
    return "\n".join(
        [
            "| boundaries | pairs | no displacement, px | crisp, px | crisp | bound | degraded "
            "| rank, crisp | rank, degraded | corners, crisp | corners, degraded |",
            "|---|" + "---:|" * 10,
            *(accuracy_row(name, net, maps, count) for name, maps in domains.items()),
            accuracy_row(f"{first}, views turned, flipped and zoomed", net, domains[first], count, turn=True),
        ]
    )


def predictions_table(result: dict[str, Any]) -> str:
    """Shows the ``rows`` of the networks ``before`` and ``compact`` that the study of predictions measured."""
    before, now = (result["nets"][name]["rows"] for name in ("before", "compact"))
    return "\n".join(
        [
            "| model | predicted boundary | before: read, px | left, px | better | now: read, px | left, px | better |",
            "|---|---|" + "---:|" * 6,
            *(
                f"| {row['model']} | {row['kind']} | " + " | ".join(map(_prediction_cells, (old, row))) + " |"
                for old, row in zip(before, now, strict=True)
            ),
        ]
    )


def _prediction_cells(row: dict[str, float]) -> str:
    return f"{row['read']:.1f} | {row['left']:.1f} | {row['better']:.0%}"


def nothing_table(net: InverseTransformNet, label_maps: Tensor, count: int = 256) -> str:
    """Shows what :func:`says_nothing` finds on ``count`` tiles of ``label_maps (M, H, W)``."""
    scores = says_nothing(net, label_maps, count=count)
    return "\n".join(
        [
            "| prediction | median, px | 95th percentile, px | gradient |",
            "|---|---:|---:|---:|",
            *(f"| {name} | {s['median']:.2f} | {s['p95']:.2f} | {s['gradient']:.2f} |" for name, s in scores.items()),
        ]
    )


def accuracy_row(name: str, net: InverseTransformNet, label_maps: Tensor, count: int, turn: bool = False) -> str:
    """Makes a row of the table of accuracy on ``label_maps (M, H, W)``; at most 128 tiles give the bound."""
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
    """Shows a motion's curves as a table; each row averages the positive and the negative amount."""
    amount = curve["amount"]
    lines = [
        f"| {kind}, {MOTIONS[kind][0]} | `\\|a\\|`, px | balanced BCE | home, InverseForm | home, BCE |",
        "|---:|---:|---:|---:|---:|",
    ]
    for value in amount[amount >= 0]:
        rows = amount.abs() == value
        home = [100 * _homeward(curve, name)[rows].mean() for name in ("inverseform", "bce")]
        shares = "| - | - |" if value == 0 else f"| {home[0]:.0f} | {home[1]:.0f} |"
        lines.append(
            f"| {value:g} | {curve['inverseform'][rows].mean():.2f} | {curve['bce'][rows].mean():.3f} {shares}"
        )
    return "\n".join(lines)


def draw(curves: dict[str, dict[str, Tensor]], path: Path) -> None:
    """Draws a column for each motion: the values above, and below the share of views whose gradient points home."""
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
    """Returns ``(K, n)``: 1 where descent of the loss ``name`` leads back to the match, else 0."""
    return (curve["amount"].sign()[:, None] * curve[f"{name}_slope"] > 0).float()


if __name__ == "__main__":
    main()
