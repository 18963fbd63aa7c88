"""Pairs of what segmentation models predict, and of the labels' boundaries, moved by known homographies."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Generator, Tensor

from .. import homography
from ..functional import homography_warp, soft_boundary_map
from ..nets import InverseTransformNet
from ..segmentation.evaluation import Transformed, load_model, open_dataset
from ..segmentation.models.base import model_inputs
from ..segmentation.progress import track
from ..segmentation.tasks.semantic import VOID
from ..segmentation.transforms import EvalTransform
from .pairs import Pairs, boundaries, random_views, view_labels

KINDS = ("boundary head", "soft boundary map", "boundary of the classes")  # without a head: the last two
UNMOVED = 0.15  # share of the pairs whose labels stay where they are


@dataclass(frozen=True)
class Predictions:
    """The boundary maps that a model predicts of images, and the images' labels.

    Attributes:
        maps: ``(M, K, H, W)`` uint8, probabilities in 255ths: the last K of ``KINDS`` for each image.
        labels: ``(M, H, W)`` uint8 class ids, 255 for void.
    """

    maps: Tensor
    labels: Tensor

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS[-self.maps.shape[1] :]

    def of(self, images: Tensor) -> Predictions:
        """Those of the images whose indices are given."""
        return Predictions(self.maps[images], self.labels[images])

    def to(self, device: str | torch.device) -> Predictions:
        return Predictions(self.maps.to(device), self.labels.to(device))


@torch.no_grad()
def predict_run(
    run: Path,
    split: str | None = None,
    *,
    root: str | None = None,
    size: tuple[int, int] | None = None,
    limit: int = 256,
    device: str | torch.device = "cpu",
    console: Console | None = None,
) -> Predictions:
    """Returns what the model of a run predicts of images of its data set, on the CPU.

    Args:
        run: the folder of a run, or its checkpoint.
        split: the images' split; the one that the run was evaluated on if not given.
        root: the folder of the data set; as in training if not given.
        size: (height, width) in pixels to which images and labels are resized. If it is not given, it is the run's
            ``eval_size`` or, without one, the size of the first image.
        limit: largest number of images, which are spread evenly over the split.
        device: the device of the model.
        console: shows the progress; None shows none.

    Raises:
        FileNotFoundError: there is no checkpoint, or a file of the data set is missing.
        ValueError: the checkpoint is damaged, the data set is wrong, or the model predicts no classes, or numbers that
            are not finite.
    """
    model, checkpoint = load_model(run)
    if "semantic" not in checkpoint.tasks:
        raise ValueError(f"run must predict the task semantic, got {', '.join(checkpoint.tasks)} in {run}")
    config = dataclasses.replace(checkpoint.config, root=root or checkpoint.config.root)
    dataset = open_dataset(config, split or config.eval_split)
    height, width = size or config.eval_size or dataset[0]["image"].shape[-2:]
    samples = Transformed(dataset, EvalTransform(dataset.tasks, (height, width)))
    model.to(device)
    maps, labels = [], []
    chosen = range(0, len(samples), -(-len(samples) // limit))
    for index in track(chosen, "predicting", console or Console(quiet=True)):
        sample = {name: value[None] for name, value in samples[index].items()}
        outputs = model(model_inputs(model, sample, torch.device(device)))
        if not all(output.isfinite().all() for output in outputs.values()):
            raise ValueError(f"run must predict finite numbers, but does not in {run} for {dataset.names[index]}")
        maps.append(predicted_boundaries(outputs, (height, width)).cpu())
        labels.append(sample["semantic"].to(torch.uint8))
    return Predictions(torch.cat(maps), torch.cat(labels))


def predicted_boundaries(outputs: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Returns the boundary maps ``(N, K, H, W)``, as in :class:`Predictions`, of what a model predicts.

    Args:
        outputs: logits ``"semantic"`` ``(N, C, h, w)`` and, of a boundary head, ``"boundary"`` ``(N, 1, h, w)``.
        size: height and width (H, W) of the maps.
    """

    def upsampled(logits: Tensor) -> Tensor:
        return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)

    logits = outputs["semantic"].float()
    maps = [soft_boundary_map(logits, size), boundaries(upsampled(logits).argmax(1), 2)]
    if "boundary" in outputs:
        maps.insert(0, upsampled(outputs["boundary"]).sigmoid())
    return (torch.cat(maps, 1) * 255).round().to(torch.uint8)


class Views(NamedTuple):
    """Views of boundary maps that were predicted, and of the labels."""

    maps: Tensor  # (N, 1, H, W) uint8, in 255ths
    labels: Tensor  # (N, 1, H, W) integer class ids, 255 for void
    view: Tensor  # (N, 3, 3), homographies from tile to map coordinates
    tile: int  # edge of the tiles in pixels

    def moved(self, a: Tensor) -> Pairs:
        """Makes pairs with labels that ``a (N, 8)`` moves; as in the loss, both sides are 0 where these are void."""
        labels = view_labels(self.labels, self.view @ homography.exp(-a), self.tile)
        size = (self.tile, self.tile)
        predicted = homography_warp(self.maps.float() / 255, self.view, size, padding="border")
        return Pairs(predicted * (labels != VOID)[:, None], boundaries(labels, 2), a)

    def still(self) -> Pairs:
        """Makes pairs with the labels as they are."""
        return self.moved(self.view.new_zeros(len(self.view), 8))


def prediction_pairs(
    predictions: Sequence[Predictions],
    count: int,
    tile: int,
    max_displacement: float,
    generator: Generator,
    *,
    zoom: tuple[float, float] = (0.6, 2.0),
    turn: bool = True,
) -> Pairs:
    """Draws views of predictions, and of their labels after random homographies have moved them.

    ``predicted(p) = target(exp(a) p)`` as far as the model and the labels are right; 15 % of the labels stay where they
    are. Each pair has a map of one of the model's kinds. See :func:`.pairs.make_pairs` for the arguments.
    """
    device = generator.device
    chosen = torch.randint(len(predictions), (count,), generator=generator, device=device)
    parts = []
    for run, number in zip(predictions, chosen.bincount(minlength=len(predictions)).tolist(), strict=True):
        images, kinds = (
            torch.randint(size, (number,), generator=generator, device=device) for size in run.maps.shape[:2]
        )
        labels = run.labels[images][:, None]
        view = random_views(labels, tile, zoom, turn, generator)
        a = homography.sample(number, max_displacement, generator=generator, device=device)
        a = a * (torch.rand(number, 1, generator=generator, device=device) >= UNMOVED)
        parts.append(Views(run.maps[images, kinds][:, None], labels, view, tile).moved(a))
    return Pairs(*map(torch.cat, zip(*parts, strict=True)))


def upright_views(
    predictions: Predictions, kind: str, tile: int, count: int, generator: Generator, batch: int = 32
) -> Iterator[Views]:
    """Draws batches of upright views at the maps' own scale, at random places that have a boundary.

    Args:
        predictions: what a model predicts.
        kind: which maps, one of ``predictions.kinds``.
        tile: edge of the tiles in pixels.
        count: number of tiles, spread evenly over the images; those without a boundary are left out.
        generator: source of the places, on the predictions' device.
        batch: number of tiles in a batch.

    Raises:
        ValueError: no tile has a boundary.
    """
    maps = predictions.maps[:, [predictions.kinds.index(kind)]]
    found = 0
    for images in (torch.arange(count, device=generator.device) * len(maps) // count).split(batch):
        labels = predictions.labels[images][:, None]
        views = Views(maps[images], labels, random_views(labels, tile, (1.0, 1.0), False, generator), tile)
        seen = (views.still().target > 0).flatten(1).any(1)
        found += int(seen.sum())
        yield Views(views.maps[seen], labels[seen], views.view[seen], tile)
    if not found:
        raise ValueError("labels must show boundaries between two classes (void makes none), but no tile has one")


@torch.no_grad()
def evaluate_predictions(
    net: InverseTransformNet,
    predictions: Predictions,
    kind: str,
    *,
    pixels: float = 6.5,
    count: int = 256,
    seed: int = 0,
) -> dict[str, float]:
    """Measures what the network reads off a model's predictions, of labels as they are and of labels that were moved.

    Displacements are means over the tile's corners, in its pixels. Where the labels themselves are wrong, that counts
    as an error of the network. See :func:`upright_views` for the tiles.

    Args:
        net: the network, on the predictions' device.
        predictions: what a model predicts.
        kind: which maps, one of ``predictions.kinds``.
        pixels: how far random homographies move the labels.
        count: number of tiles.
        seed: seed of the tiles and the homographies.

    Returns:
        - ``read``: the displacement that is read where the labels are as they are;
        - ``displaced``: how far the labels were moved, which is about ``pixels``;
        - ``left``: how far they are away after they were moved back by the estimate;
        - ``better``: the share of tiles whose labels are nearer after that;
        - ``tiles``: number of tiles with a boundary.

    Raises:
        ValueError: no tile has a boundary.
    """
    half = net.tile / 2
    generator = Generator(predictions.labels.device).manual_seed(seed)
    rows = []
    for views in upright_views(predictions, kind, net.tile, count, generator):
        still, moved = views.still(), views.moved(_moves(len(views.view), pixels / half, generator))
        zero, estimate = (homography.exp(net.algebra(pairs.predicted, pairs.target)) for pairs in (still, moved))
        truth = homography.exp(moved.a)
        distances = (zero, None), (truth, None), (estimate, truth)
        rows.append(torch.stack([homography.corner_displacement(*pair) * half for pair in distances]))
    read, displaced, left = torch.cat(rows, 1)
    return {
        "tiles": len(read),
        "read": read.mean().item(),
        "displaced": displaced.mean().item(),
        "left": left.mean().item(),
        "better": (left < displaced).float().mean().item(),
    }


def _moves(count: int, displacement: float, generator: Generator) -> Tensor:
    """Draws coefficients ``(count, 8)`` of random direction that move the corners by about ``displacement``."""
    a = F.normalize(torch.randn(count, 8, generator=generator, device=generator.device)) * displacement
    return a * (displacement / homography.corner_displacement(homography.exp(a)))[:, None]
