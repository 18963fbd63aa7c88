"""What the authors' public release does for each op, rewritten by us; stock PyTorch where the release does no more.

:class:`Release` is all of it, as it runs in a training step. We leave out its per-image class weights and its second
cross-entropy, around predicted boundaries, which makes our rewrite faster than the release.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import InverseTransformNet
from ..nets.paper import Dense

SIZE, TILE = (672, 1344), 224  # the only sizes that its network takes


def boundary_map(labels: Tensor, radius: int = 2, classes: int = 19) -> Tensor:
    """Take two distance transforms per image and class but 0, on the CPU; this also draws the image's border."""
    from scipy.ndimage import distance_transform_edt  # without SciPy, only this provider is missing

    maps = labels.cpu().numpy()
    boundary = np.zeros(maps.shape, np.uint8)
    for image, out in zip(maps, boundary, strict=True):
        for class_id in range(1, classes + 1):
            mask = np.pad(image == class_id, 1)
            distance = (distance_transform_edt(mask) + distance_transform_edt(~mask))[1:-1, 1:-1]
            out[distance <= radius] = 1
    return torch.from_numpy(boundary).to(labels.device)


def extract_tiles(predicted: Tensor, target: Tensor, size: Sequence[int], tile: int) -> tuple[Tensor, Tensor]:
    """Take the sigmoid, resize, slice, and copy once; void counts as no boundary."""
    maps = (predicted.sigmoid(), (target == 1).to(predicted.dtype))
    resized = [F.interpolate(m, list(size), mode="bilinear", align_corners=False) for m in maps]
    return _cut(resized[0], tile), _cut(resized[1], tile)


def _cut(maps: Tensor, tile: int) -> Tensor:
    corners = [(y, x) for y in range(0, maps.shape[2], tile) for x in range(0, maps.shape[3], tile)]
    return torch.stack([maps[:, :, y : y + tile, x : x + tile] for y, x in corners], 1).flatten(0, 1)


def homography_warp(image: Tensor, theta: Tensor) -> Tensor:
    """Transform and divide a grid of homogeneous coordinates, then call ``F.grid_sample``, as autocast would run it."""
    height, width = image.shape[-2:]
    x = (torch.arange(width, device=image.device) * 2 + 1) / width - 1
    y = (torch.arange(height, device=image.device) * 2 + 1) / height - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).flatten(0, 1) @ theta.mT
    grid = (points[..., :2] / points[..., 2:]).unflatten(1, (height, width))
    return F.grid_sample(image.to(grid.dtype), grid, mode="bilinear", align_corners=False).to(image.dtype)


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample, then take the cross-entropy in float32, as autocast would run it."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled.float(), labels.long(), ignore_index=255)


def boundary_loss(boundary_logits: Tensor, target: Tensor) -> Tensor:
    """Upsample, make weights by NumPy on the host, take the BCE's mean over valid pixels (the release counts void)."""
    upsampled = F.interpolate(boundary_logits, target.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    host = target.cpu().numpy()
    positive, negative = host == 1, host == 0
    valid = positive.sum() + negative.sum()
    weight = np.zeros(host.shape, np.float32)
    weight[positive] = negative.sum() / valid
    weight[negative] = positive.sum() / valid
    weights = torch.from_numpy(weight).to(target.device)
    truth = (target == 1).float()
    return F.binary_cross_entropy_with_logits(upsampled.float(), truth, weights, reduction="sum") / int(valid)


class InverseForm(nn.Module):
    """The release's distance term: one value for all tiles.

    Its gradient is zero, because the softmax of one channel is constant.

    Args:
        net: a dense network. None makes an untrained one of the release's shape (tiles of 224 px, four outputs),
            because the released weights are 383 MiB.
    """

    def __init__(self, net: InverseTransformNet | None = None) -> None:
        super().__init__()
        if net is None:
            net = Dense(TILE, outputs=4)
            # Our untrained network gives 0, where a norm has no gradient.
            nn.init.normal_(net.fc[-1].get_parameter("weight"), std=0.02)
        self.net = net.requires_grad_(False)

    def forward(self, boundary_logits: Tensor, target: Tensor) -> Tensor:
        """The distance of logits ``(N, 1, H, W)`` from a target ``(N, H, W)`` of 0 and 1."""
        maps = boundary_logits.float().log_softmax(1), target[:, None].float()
        resized = [F.interpolate(m, SIZE, mode="bilinear", align_corners=False) for m in maps]
        # This is the norm of its outputs: our dense network turns them into coefficients of the same norm.
        return self.net.algebra(*map(tiles_one_by_one, resized)).square().sum(1).sqrt().mean()


def tiles_one_by_one(maps: Tensor) -> Tensor:
    """Cut ``(N, 1, *SIZE)`` to ``(18 N, 1, TILE, TILE)``; each tile is concatenated to those before: 171 copies."""
    height, width = SIZE
    tiles = maps[:0, :, :TILE, :TILE]
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            tiles = torch.cat((tiles, maps[:, :, y : y + TILE, x : x + TILE]))
    return tiles


class Release(nn.Module):
    """``L_xe + beta L_bxe + gamma L_if`` as the release computes it; :func:`boundary_map` makes its target.

    The logits are of the labels' resolution or lower, as in :class:`inverseform_fast.BoundaryAwareLoss`.
    """

    def __init__(self, beta: float = 10.0, gamma: float = 0.3) -> None:
        super().__init__()
        self.beta, self.gamma = beta, gamma
        self.inverseform = InverseForm()

    def forward(self, logits: Tensor, labels: Tensor, boundary_logits: Tensor, target: Tensor) -> Tensor:
        segmentation = segmentation_loss(logits, labels)
        with torch.autocast(logits.device.type, enabled=False):
            boundary = boundary_loss(boundary_logits, target)
            return segmentation + self.beta * boundary + self.gamma * self.inverseform(boundary_logits, target)
