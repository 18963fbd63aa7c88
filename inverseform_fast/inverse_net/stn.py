"""A spatial transformer is trained inside a classifier, from label maps alone (paper, section 3.4)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Generator, Tensor, nn

from .. import homography
from ..files import locked
from ..functional import homography_warp
from ..nets.spatial_transformer import SpatialTransformer, small_network
from ..segmentation.progress import say, track
from .config import StnConfig
from .label_maps import class_ids
from .pairs import boundaries, draw, make_pairs, random_views, view_labels

WEIGHTS = "stn.safetensors"
CELLS = 4  # cells along each side of a view
CHECK_EVERY = 20  # steps


def train_stn(
    label_maps: Tensor,
    config: StnConfig,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    console: Console | None = None,
) -> SpatialTransformer:
    """Trains a spatial transformer of boundary tiles, and writes it to ``out / "stn.safetensors"``.

    A small classifier behind it predicts which classes are in each of 4 x 4 cells of a view, from the view's boundaries
    alone. It sees every view twice: once as it is, and once displaced by a random homography and then moved by the
    transformer. So the transformer lowers the loss by undoing the displacement. The file's metadata holds the
    configuration and the scores of :func:`evaluate_stn`, which the console shows as well.

    Args:
        label_maps: ``(M, H, W)`` integer class ids; 255 is void, which counts as no class.
        config: the options of the training.
        out: folder of the file.
        device: the device of the training.
        console: shows the progress.

    Raises:
        FileExistsError: ``out`` holds a spatial transformer.
        BlockingIOError: another process trains into the folder.
        ValueError: the label maps hold fewer than two classes.
        FloatingPointError: the loss is no longer finite.
    """
    console = console or Console()
    with locked(out):
        check_stn_out(out)
        return _train(label_maps.to(device), config, out, torch.device(device), console)


def _train(
    label_maps: Tensor, config: StnConfig, out: Path, device: torch.device, console: Console
) -> SpatialTransformer:
    classes = class_ids(label_maps)
    torch.manual_seed(config.seed)
    stn = SpatialTransformer(1, config.kind, config.max_displacement).to(device)
    classifier = small_network(1, len(classes) * CELLS**2).to(device)
    optimizer = torch.optim.AdamW([*stn.parameters(), *classifier.parameters()], lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = Generator(label_maps.device).manual_seed(config.seed)
    for step in track(range(config.steps), "transformer", console):
        loss = _loss(stn, classifier, sample_views(label_maps, classes, config, generator))
        if step % CHECK_EVERY == 0:
            _check_finite(loss.item(), config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    say(console, "measuring the transformer")
    scores = evaluate_stn(stn.eval(), classifier, label_maps, classes, config)
    _check_finite(scores["loss"], config)
    stn.save(out / WEIGHTS, training=json.dumps(asdict(config)), scores=json.dumps(scores))
    console.print(_summary(scores))
    return stn


def _check_finite(loss: float, config: StnConfig) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss}: train anew with a lower lr than {config.lr}")


def _summary(scores: dict[str, float]) -> str:
    """Says in words what :func:`evaluate_stn` found."""
    return (
        "The cross-entropy of the classes in each cell of fresh views is "
        f"{scores['loss']:.3f} with the transformer, {scores['loss_identity']:.3f} with the identity in its place, "
        f"{scores['loss_still']:.3f} without displacement, and {scores['loss_shares']:.3f} from the classes' shares "
        f"alone. The transformer moves the tiles of training pairs by {scores['median']:.1f} px (median; 95 % by less "
        f"than {scores['p95']:.1f} px); {scores['common']:.1f} px of this are common to all tiles."
    )


def check_stn_out(out: Path) -> None:
    """Checks that no earlier transformer would be lost.

    Raises:
        FileExistsError: ``out`` holds a spatial transformer.
    """
    if (out / WEIGHTS).exists():
        raise FileExistsError(f"out must be a new folder, but {out} holds a spatial transformer: choose another folder")


class Views(NamedTuple):
    """Boundary tiles of views, and the classes that the views show."""

    displaced: Tensor  # (N, 1, tile, tile)
    still: Tensor  # (N, 1, tile, tile), the same views undisplaced
    present: Tensor  # (N, CELLS^2, K), 1 if a class is in a cell of the undisplaced view, else 0


def sample_views(label_maps: Tensor, classes: Tensor, config: StnConfig, generator: Generator) -> Views:
    """Draws views of ``label_maps (M, H, W)``, as they are and displaced.

    ``classes (K,)`` are the ids to look for, in order. The views are upright and as large as the maps allow: things
    have their usual places in such a view, so what is out of place has been displaced.
    """
    maps = draw(label_maps, config.batch_size, generator)
    view = random_views(maps, config.tile, (math.inf, math.inf), False, generator)
    a = homography.sample(len(maps), config.max_displacement, generator=generator, device=maps.device)
    still = view_labels(maps, view, config.tile)
    displaced = view_labels(maps, view @ homography.exp(a), config.tile)
    cell = torch.arange(config.tile, device=maps.device) * CELLS // config.tile
    ids = max(int(classes[-1]), 255) + 1
    place = (cell[:, None] * CELLS + cell) * ids + still.long()
    present = torch.zeros(len(maps), CELLS**2 * ids, device=maps.device).scatter_(1, place.flatten(1), 1.0)
    return Views(boundaries(displaced, 2), boundaries(still, 2), present.unflatten(1, (-1, ids))[..., classes.long()])


def _loss(stn: SpatialTransformer, classifier: nn.Module, views: Views) -> Tensor:
    """Sums the classifier's errors on the moved and on the undisplaced views, and a penalty on a common move."""
    a = stn.algebra(views.displaced)
    moved = homography_warp(views.displaced, homography.exp(a))
    # A move that is common to all views adds no variety, and without a penalty noise would drive it to the bound.
    common = (a.mean(0) / stn.max_displacement).square().sum()
    return _cross_entropy(classifier, moved, views) + _cross_entropy(classifier, views.still, views) + 0.1 * common


def _cross_entropy(classifier: nn.Module, tiles: Tensor, views: Views) -> Tensor:
    return F.binary_cross_entropy_with_logits(classifier(tiles), views.present.flatten(1))


@torch.no_grad()
def evaluate_stn(
    stn: SpatialTransformer, classifier: nn.Module, label_maps: Tensor, classes: Tensor, config: StnConfig
) -> dict[str, float]:
    """Measures how well the transformer undoes displacements, on 16 batches of fresh views of the label maps.

    Returns:
        Cross-entropies in nats per class and cell: ``loss`` with the transformer, ``loss_identity`` with the identity
        in its place, ``loss_still`` of undisplaced views, ``loss_shares`` of a guess from how often each class is in
        each cell. Over tiles of training pairs, in pixels of the tile: ``median`` and ``p95`` of the transformer's
        ``|a|``, and ``common``, the length of the mean a, the move that all tiles share.
    """
    generator = Generator(label_maps.device).manual_seed(config.seed + 1)
    losses, present, moves = [], [], []
    for _ in range(16):
        views = sample_views(label_maps, classes, config, generator)
        sides = (stn(views.displaced), views.displaced, views.still)
        losses.append(torch.stack([_cross_entropy(classifier, side, views) for side in sides]))
        present.append(views.present)
        pairs = make_pairs(
            label_maps,
            config.batch_size,
            config.tile,
            config.max_displacement,
            generator,
            damage_every=0,
            transforms=lambda target, _: stn.algebra(target),
        )
        moves.append(pairs.a * config.tile / 2)
    seen = torch.cat(present)
    shares = F.binary_cross_entropy(seen.mean(0).expand_as(seen), seen)
    loss, loss_identity, loss_still = torch.stack(losses).mean(0).tolist()
    pixels = torch.cat(moves)
    median, p95 = pixels.norm(dim=1).quantile(torch.tensor([0.5, 0.95], device=seen.device)).tolist()
    return {
        "loss": loss,
        "loss_identity": loss_identity,
        "loss_still": loss_still,
        "loss_shares": shares.item(),
        "median": median,
        "p95": p95,
        "common": pixels.mean(0).norm().item(),
    }
