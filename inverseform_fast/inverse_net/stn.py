"""Training a spatial transformer inside a classifier, from label maps alone (paper, section 3.4)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor, nn

from .. import homography
from ..functional import homography_warp
from ..nets.spatial_transformer import SpatialTransformer, check_kind, small_network
from .pairs import boundaries, draw, labels_in, make_pairs, random_views
from .training import classes_of, require_positive

WEIGHTS = "stn.safetensors"
CELLS = 4  # per side of a view


@dataclass(frozen=True)
class StnConfig:
    """What decides the weights, the label maps apart.

    Attributes:
        tile: edge of the tiles in pixels.
        kind: "affine" or "homography".
        max_pixels: largest ``|a|``, in pixels of the tile, of the displacements to undo and of the transformer's.
        steps, batch_size, lr, seed: of AdamW with cosine decay.
    """

    tile: int = 224
    kind: str = "homography"
    max_pixels: float = 24.0
    steps: int = 1000
    batch_size: int = 32
    lr: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_kind(self.kind)
        require_positive(self, "tile", "max_pixels", "steps", "batch_size", "lr")

    @property
    def max_displacement(self) -> float:
        """``max_pixels`` in half tiles."""
        return 2 * self.max_pixels / self.tile


def train_stn(
    label_maps: Tensor,
    config: StnConfig,
    out: Path,
    *,
    device: str | torch.device = "cpu",
    console: Console | None = None,
) -> SpatialTransformer:
    """Train a spatial transformer of boundary tiles, and write it to ``out / "stn.safetensors"``.

    Behind it, a small classifier says which classes are in each of 4 x 4 cells of a view, from the view's boundaries
    alone. They come displaced by a random homography, through the transformer, and undisplaced, past it: so undoing
    the displacement pays. The file's metadata holds the configuration and what :func:`evaluate_stn` says, which the
    console prints.

    Args:
        label_maps: ``(M, H, W)`` integer class ids, 255 void, which counts as no class.

    Raises:
        FileExistsError: ``out`` holds a spatial transformer. ValueError: the label maps hold fewer than two classes.
    """
    check_stn_out(out)
    console = console or Console()
    label_maps = label_maps.to(device)
    classes = classes_of(label_maps)
    torch.manual_seed(config.seed)
    stn = SpatialTransformer(1, config.kind, config.max_displacement).to(device)
    classifier = small_network(1, len(classes) * CELLS**2).to(device)
    optimizer = torch.optim.AdamW([*stn.parameters(), *classifier.parameters()], lr=config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    generator = Generator(label_maps.device).manual_seed(config.seed)
    for _ in track(range(config.steps), "transformer", console=console):
        views = sample_views(label_maps, classes, config, generator)
        a = stn.algebra(views.displaced)
        seen = homography_warp(views.displaced, homography.exp(a))
        # A move common to all views is no variety; without its price, noise drives it to the bound.
        common = (a.mean(0) / config.max_displacement).square().sum()
        loss = _loss(classifier, seen, views) + _loss(classifier, views.still, views) + 0.1 * common
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    scores = evaluate_stn(stn.eval(), classifier, label_maps, classes, config)
    if not math.isfinite(scores["loss"]):
        raise FloatingPointError(f"the loss became {scores['loss']}: train anew, by a lower lr than {config.lr}")
    out.mkdir(parents=True, exist_ok=True)
    stn.save(out / WEIGHTS, training=json.dumps(asdict(config)), scores=json.dumps(scores))
    console.print(
        f"Cross-entropy of the classes in each cell of fresh views: {scores['loss']:.3f} with the transformer, "
        f"{scores['loss_identity']:.3f} with the identity in its place, {scores['loss_still']:.3f} undisplaced, "
        f"{scores['loss_shares']:.3f} from the classes' shares alone. It moves the tiles of training pairs by "
        f"{scores['median']:.1f} px (median; 95 % by less than {scores['p95']:.1f} px), and all alike by "
        f"{scores['common']:.1f} px."
    )
    return stn


def check_stn_out(out: Path) -> None:
    """Raise FileExistsError rather than let an earlier transformer be lost."""
    if (out / WEIGHTS).exists():
        raise FileExistsError(f"{out} holds a spatial transformer: choose another folder")


class Views(NamedTuple):
    """Boundary tiles ``(N, 1, tile, tile)``; ``present (N, CELLS^2, K)``: 1 where a class is in a cell of ``still``."""

    displaced: Tensor
    still: Tensor
    present: Tensor


def sample_views(label_maps: Tensor, classes: Tensor, config: StnConfig, generator: Generator) -> Views:
    """Views of ``label_maps (M, H, W)`` as large as fits, as they are and displaced; ``classes (K,)``: ids, in order.

    Upright and whole, for there things have their places: what is elsewhere has been displaced.
    """
    maps = draw(label_maps, config.batch_size, generator)
    view = random_views(maps, config.tile, (math.inf, math.inf), False, generator)
    a = homography.sample(len(maps), config.max_displacement, generator=generator, device=maps.device)
    still = labels_in(maps, view, config.tile)
    displaced = labels_in(maps, view @ homography.exp(a), config.tile)
    cell = torch.arange(config.tile, device=maps.device) * CELLS // config.tile
    ids = max(int(classes[-1]), 255) + 1
    place = (cell[:, None] * CELLS + cell) * ids + still.long()
    present = torch.zeros(len(maps), CELLS**2 * ids, device=maps.device).scatter_(1, place.flatten(1), 1.0)
    return Views(boundaries(displaced, 2), boundaries(still, 2), present.unflatten(1, (-1, ids))[..., classes.long()])


def _loss(classifier: nn.Module, tiles: Tensor, views: Views) -> Tensor:
    return F.binary_cross_entropy_with_logits(classifier(tiles), views.present.flatten(1))


@torch.no_grad()
def evaluate_stn(
    stn: SpatialTransformer, classifier: nn.Module, label_maps: Tensor, classes: Tensor, config: StnConfig
) -> dict[str, float]:
    """What the transformer is good for, on 16 batches of fresh views of the label maps.

    Returns:
        Cross-entropies in nats per class and cell: ``loss`` with the transformer, ``loss_identity`` with the identity
        in its place, ``loss_still`` of undisplaced views, ``loss_shares`` of a guess from each class's share of each
        cell. Over tiles of training pairs, in pixels of the tile: ``median`` and ``p95`` of the transformer's ``|a|``,
        and ``common``, the length of the mean a, which is no variety.
    """
    generator = Generator(label_maps.device).manual_seed(config.seed + 1)
    losses, present, moves = [], [], []
    for _ in range(16):
        views = sample_views(label_maps, classes, config, generator)
        sides = (stn(views.displaced), views.displaced, views.still)
        losses.append(torch.stack([_loss(classifier, side, views) for side in sides]))
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
