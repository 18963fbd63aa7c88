"""``python -m benchmarks.aligner`` says what moving labels brings and costs, and draws docs/guide/labels.png.

The labels are those of made scenes. They are moved by a smooth field, which differs from place to place and is no
homography. The prediction that the aligner sees is not a model's: it is the true labels, blurred.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import inverseform_fast as iff
from benchmarks.common.labels import VOID, read_at
from benchmarks.common.paths import ROOT
from inverseform_fast.bench.street import street_labels
from inverseform_fast.bench.timing import clock_of, in_turns, spread, timed
from inverseform_fast.files import write_atomically
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.moved_labels import MovedLabels, draw_moved

SIZE = (224, 448)
WAVES = (3, 5)  # points whose displacement is drawn at random; between them it is smooth
CROP, CLASSES, STRIDE = (512, 1024), 19, 4  # of the timed call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--pixels", type=float, default=12.0, help="length of the displacement at the points")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing; 0 leaves it out")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/guide/labels.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    aligner = iff.LabelAligner()
    print(brings(aligner, options.scenes, options.pixels, options.out))
    if options.rounds:
        print(costs(aligner, options.rounds))


def brings(aligner: iff.LabelAligner, count: int, pixels: float, out: Path) -> str:
    """Moves displaced labels and exact ones; draws the first two scenes."""
    scenes = Scenes("val", size=SIZE, length=count)
    classes = scenes.tasks["semantic"].channels
    generator = torch.Generator().manual_seed(0)
    shares, rows = [], []
    for index, (image, truth) in enumerate(zip(scenes.images, scenes.labels, strict=True)):
        logits = blurred(truth, classes)
        given = waved(truth, pixels, generator)
        alignment = aligner.align(logits, given[None])
        moved, exact = alignment.labels[0], aligner(logits, truth[None])[0]
        shares.append([wrong(labels, truth) for labels in (given, moved, exact)])
        if index < 2:
            rows.append(MovedLabels(scenes.names[index], image, given, moved, alignment.displacement[0]))
    figure = draw_moved(rows, scenes.tasks["semantic"])
    write_atomically(out, lambda file: figure.savefig(file, dpi=60, format="png"))
    before, after, exact_after = torch.tensor(shares).mean(0).tolist()
    return (
        f"{before:.1%} of the pixels were wrong, {after:.1%} are left; of exact labels {exact_after:.2%} became wrong"
    )


def blurred(labels: Tensor, classes: int) -> Tensor:
    """Logits (1, C, H / 4, W / 4) of a prediction that is right, but unsure near boundaries."""
    areas = F.one_hot(labels.long().clamp(max=classes), classes + 1).movedim(-1, 0)[None, :classes].float()
    return 10 * F.avg_pool2d(areas, 4)


def waved(labels: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """The labels, moved by ``pixels`` in another direction at each point of a coarse grid; void from outside."""
    angle = 2 * torch.pi * torch.rand(1, 1, *WAVES, generator=generator)
    coarse = pixels * torch.cat((angle.cos(), angle.sin()), 1)
    field = F.interpolate(coarse, labels.shape, mode="bicubic", align_corners=True)
    return read_at(labels[None], field)[0]


def wrong(labels: Tensor, truth: Tensor) -> float:
    """Share of pixels with another class than the truth, where neither is void."""
    return float((labels != truth)[(labels != VOID) & (truth != VOID)].float().mean())


def costs(aligner: iff.LabelAligner, rounds: int) -> str:
    """Times the aligner and a training step's loss, forward and backward, on one thread."""
    generator = torch.Generator().manual_seed(0)
    labels = street_labels(1, CROP, CLASSES, generator)
    height, width = (edge // STRIDE for edge in CROP)
    classes, boundary = (torch.randn(1, c, height, width, generator=generator).requires_grad_() for c in (CLASSES, 1))
    criterion = iff.BoundaryAwareLoss()
    calls = {
        "headless, loss": lambda: criterion(classes, labels).total.backward(),
        "headless, aligner": lambda: aligner(classes, labels),
        "with a head, loss": lambda: criterion(classes, labels, boundary).total.backward(),
        "with a head, aligner": lambda: aligner(classes, labels, boundary),
    }
    clock = clock_of(labels.device)
    times = in_turns({name: partial(timed, call, clock) for name, call in calls.items()}, rounds)
    lines = [f"{name}: {1e3 * spread(seconds).median:.0f} ms" for name, seconds in times.items()]
    return "\n".join([f"One image of {CROP[0]} x {CROP[1]}, {CLASSES} classes, one thread:", *lines])


if __name__ == "__main__":
    main()
