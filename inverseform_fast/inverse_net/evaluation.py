"""An inverse-transformation network is measured by how well it reads displacements off boundaries."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .. import homography
from ..functional import homography_warp
from ..nets import InverseTransformNet
from .pairs import blobs, blur, make_pairs


@torch.no_grad()
def evaluate(
    net: InverseTransformNet,
    label_maps: Tensor,
    *,
    count: int = 2048,
    max_pixels: float = 16.0,
    degraded: bool = False,
    turn: bool = False,
    seed: int = 0,
    batch: int = 64,
) -> dict[str, float]:
    """Measures how accurate the network is on tiles from random places of label maps, moved by random homographies.

    Tiles without a boundary are left out, as the loss leaves them out.

    Args:
        net: the network, on the label maps' device.
        label_maps: ``(M, H, W)`` integer class ids, 255 for void.
        count: number of pairs, rounded up to whole batches.
        max_pixels: largest ``|a|``, in pixels of the tile.
        degraded: whether :func:`degrade` damages the predicted side.
        turn: whether the views are also turned, flipped and zoomed, by up to 10 per cent.
        seed: seed of the pairs.
        batch: number of pairs in a batch.

    Returns:
        - ``corner_error``: the network's error, in pixels of the tile, averaged over pairs and the four corners;
        - ``identity_corner_error``: the same error of predicting no displacement;
        - ``relative_corner_error``: the ratio of the two;
        - ``spearman``: rank correlation of the loss's value, the estimated ``|a|``, with the true ``|a|``;
        - ``spearman_corners``: rank correlation of the estimated ``|a|`` with the true mean displacement of the
          corners. The two are different quantities, so a perfect network has 0.9705;
        - ``pairs``: number of pairs with a boundary.

    Raises:
        ValueError: no tile has a boundary.
    """
    # The damage has a generator of its own, so that crisp and degraded pairs of one seed are the same pairs.
    generator, damage = (Generator(label_maps.device).manual_seed(s) for s in (seed, seed + 1))
    half = net.tile / 2
    estimates, truths = [], []
    for _ in range(0, count, batch):
        pairs = make_pairs(
            label_maps,
            batch,
            net.tile,
            max_pixels / half,
            generator,
            damage_every=0,
            zoom=(0.9, 1.1) if turn else (1.0, 1.0),
            turn=turn,
        )
        predicted = degrade(pairs.predicted, damage) if degraded else pairs.predicted
        seen = (pairs.target > 0).flatten(1).any(1)
        estimates.append(net.algebra(predicted[seen], pairs.target[seen]))
        truths.append(pairs.a[seen])
    truth = torch.cat(truths)
    _require_boundaries(truth)
    return _scores(torch.cat(estimates), truth, half)


def _scores(estimate: Tensor, truth: Tensor, half: float) -> dict[str, float]:
    """What :func:`evaluate` returns, of coefficients ``(N, 8)``; ``half`` a tile is so many pixels."""
    theta = homography.exp(truth)
    error = homography.corner_displacement(homography.exp(estimate), theta) * half
    displacement = homography.corner_displacement(theta) * half
    return {
        "pairs": float(len(error)),
        "corner_error": error.mean().item(),
        "identity_corner_error": displacement.mean().item(),
        "relative_corner_error": (error.mean() / displacement.mean()).item(),
        "spearman": _spearman(estimate.norm(dim=1), truth.norm(dim=1)),
        "spearman_corners": _spearman(estimate.norm(dim=1), displacement),
    }


def degrade(tiles: Tensor, generator: Generator) -> Tensor:
    """Damages tiles in a fixed way: gaps take 20 % of the lines, which are blurred, faded by half and made noisy.

    A line of radius 2 blurred by 1.7 px is 5 px wide at half its height. It is faded after the blur, so an unbroken
    line reaches 0.37. The noise is Gaussian with a standard deviation of 0.1 on every pixel; values are cut to [0, 1].

    Args:
        tiles: ``(N, 1, S, S)`` boundary probabilities, floating point.
        generator: source of the gaps and the noise, on the tiles' device.

    Returns:
        ``(N, 1, S, S)`` in [0, 1], differentiable with respect to ``tiles``.
    """
    patches = blobs(tiles, 12, generator)
    cut = patches.masked_fill(tiles == 0, math.nan).flatten(1).nanquantile(0.2, dim=1)
    broken = tiles * (patches >= cut[:, None, None, None])
    faded = 0.5 * blur(broken, torch.tensor(1.7, device=tiles.device))
    return (faded + 0.1 * torch.randn(tiles.shape, generator=generator, device=tiles.device)).clamp(0, 1)


def true_tiles(label_maps: Tensor, tile: int, count: int, seed: int = 0) -> Tensor:
    """Draws ``count`` upright tiles; returns the boundaries ``(n, 1, tile, tile)``, 0 or 1, of those that have any.

    Raises:
        ValueError: no tile has a boundary.
    """
    generator = Generator(label_maps.device).manual_seed(seed)
    target = make_pairs(label_maps, count, tile, 1, generator, damage_every=0, zoom=(1.0, 1.0), turn=False).target
    target = target[(target > 0).flatten(1).any(1)]
    _require_boundaries(target)
    return target


def aperture_bound(targets: Tensor, max_pixels: float, *, noise: float = 0.5, stride: int = 4) -> dict[str, float]:
    """Computes the corner error that remains if a boundary pixel shows only its motion across the line, with noise.

    A tile whose boundary has few directions cannot show some motions (the aperture problem). This is a linear-Gaussian
    model of it: a pixel at p with normal n measures ``n . velocity(p) a`` with Gaussian noise, the prior of a is a
    Gaussian with the covariance that a has in :func:`evaluate`, and the error is its expectation under the posterior.
    It is a yardstick rather than a strict bound: the true a is not Gaussian, and the ends and corners of lines also
    show motion along the line.

    Args:
        targets: ``(N, 1, S, S)`` of 0 and 1; every tile has a boundary.
        max_pixels: largest ``|a|``, in pixels of the tile.
        noise: standard deviation of a measurement, in pixels.
        stride: one in so many boundary pixels measures independently; a line of radius 2 is four pixels thick.

    Returns:
        ``corner_error`` in pixels of the tile, averaged over tiles and corners, and ``relative_corner_error``, its
        ratio to the error of predicting no displacement.
    """
    half = targets.shape[-1] / 2
    along = (torch.arange(targets.shape[-1], device=targets.device) + 0.5) / half - 1
    y, x = torch.meshgrid(along, along, indexing="ij")
    velocity = homography.velocity(torch.stack((x, y), -1).flatten(0, 1)).double() * half  # px per unit: (S^2, 8, 2)
    corners = homography.velocity(torch.tensor(homography.CORNERS, device=targets.device)).double() * half
    # For z ~ N(0, C) in the plane, E|z| is sqrt(pi / 2) times the mean of sqrt(u^T C u) over directions u.
    angle = torch.arange(32, device=targets.device) * (math.pi / 32)
    directions = (corners @ torch.stack((angle.cos(), angle.sin())).double()).mT.flatten(0, 1)  # (4 * 32, 8)
    prior = (max_pixels / half) ** 2 / 3 / 8
    errors = []
    for target, normal in zip(targets.flatten(1), _normals(targets).flatten(2).mT.double(), strict=True):
        line = target > 0
        rows = (velocity[line] * normal[line, None]).sum(-1)
        information = rows.mT @ rows / (stride * noise**2)
        covariance = torch.linalg.inv(information + torch.eye(8, device=rows.device) / prior)
        spread = ((directions @ covariance) * directions).sum(1).sqrt()
        errors.append(spread.mean() * math.sqrt(math.pi / 2))
    error = torch.stack(errors).mean().item()
    a = homography.sample(4096, max_pixels / half, generator=Generator().manual_seed(0))
    identity = homography.corner_displacement(homography.exp(a)).mean().item() * half
    return {"corner_error": error, "relative_corner_error": error / identity}


def _normals(maps: Tensor) -> Tensor:
    """Estimates unit normals ``(N, 2, S, S)``, (x, y), of the lines in ``maps (N, 1, S, S)`` by a structure tensor."""
    sigma = torch.tensor(2.0, device=maps.device)
    dy, dx = torch.gradient(blur(maps, sigma), dim=(2, 3))
    xx, xy, yy = (blur(product, sigma) for product in (dx * dx, dx * dy, dy * dy))
    angle = torch.atan2(2 * xy, xx - yy) / 2
    return torch.cat((angle.cos(), angle.sin()), 1)


def says_nothing(
    net: InverseTransformNet, label_maps: Tensor, *, count: int = 64, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measures the loss of predictions without information against true boundaries; it should be small.

    Args:
        net: the network, on the label maps' device.
        label_maps: ``(M, H, W)`` integer class ids, 255 for void.
        count: number of tiles; those without a boundary are left out.
        seed: seed of the tiles and the noise.

    Returns:
        Scores by prediction. The first prediction, for comparison, is the true boundary displaced by 8 px, with
        probabilities 0.05 and 0.95; then come constant probabilities, and logits of standard normal noise. The scores
        are ``median`` and ``p95`` over tiles of ``|a|`` in pixels, and ``gradient``, the norm of the gradient of the
        mean ``|a|`` with respect to the logits, as a share of that of the first prediction.

    Raises:
        ValueError: no tile has a boundary.
    """
    target = true_tiles(label_maps, net.tile, count, seed)
    generator = Generator(target.device).manual_seed(seed)
    half = net.tile / 2
    a = torch.nn.functional.normalize(torch.randn(len(target), 8, generator=generator, device=target.device))
    displaced = homography_warp(target, homography.exp(a * 8 / half)).clamp(0.05, 0.95)
    predictions = {
        "true boundary, 8 px away": displaced.logit(),
        **{f"constant {p:g}": torch.full_like(target, p).logit() for p in (0.02, 0.1, 0.5, 0.9)},
        "noise": torch.randn(target.shape, generator=generator, device=target.device),
    }
    scores: dict[str, dict[str, float]] = {}
    for name, logits in predictions.items():
        logits.requires_grad_()
        value = net.algebra(logits.sigmoid(), target).norm(dim=1) * half
        (gradient,) = torch.autograd.grad(value.mean(), logits)
        median, p95 = value.detach().quantile(torch.tensor([0.5, 0.95], device=value.device)).tolist()
        scores[name] = {"median": median, "p95": p95, "gradient": gradient.norm().item()}
    real = scores["true boundary, 8 px away"]["gradient"]
    return {
        name: {**score, "gradient": score["gradient"] / real if real else math.nan} for name, score in scores.items()
    }


def _require_boundaries(tiles: Tensor) -> None:
    if not len(tiles):
        raise ValueError("label_maps must show boundaries between two classes (void makes none), but no tile has one")


def _spearman(x: Tensor, y: Tensor) -> float:
    ranks = torch.stack((x.argsort().argsort(), y.argsort().argsort())).double()
    return torch.corrcoef(ranks)[0, 1].item()
