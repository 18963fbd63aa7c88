"""A picture shows labels before and after they were moved, and how far they went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .markup import printable
from .tasks import Task

_PANEL = 3.6  # inches wide
_ARROWS = 16  # along the width
_LONGER = 3  # times as long as the displacement are the arrows


class MovedLabels(NamedTuple):
    """One row of the picture.

    Attributes:
        name: what the row is called.
        image: (3, H, W) uint8 RGB.
        before, after: (H, W) class ids.
        displacement: (2, H, W), (x, y) in pixels: where each label was read, relative to its pixel.
    """

    name: str
    image: Tensor
    before: Tensor
    after: Tensor
    displacement: Tensor


def draw_moved(rows: Sequence[MovedLabels], task: Task) -> Figure:
    """Draws the image, the labels over it before and after, and by how many pixels they moved, in a row each."""
    height, width = rows[0].before.shape
    size = (4 * _PANEL + 0.8, (_PANEL * height / width + 0.3) * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        picture = row.image.movedim(0, -1).cpu()
        line[0].imshow(picture.numpy())
        line[0].set_title(printable(row.name), parse_math=False)
        for axis, labels, title in ((line[1], row.before, "labels as given"), (line[2], row.after, "labels moved")):
            axis.imshow((picture // 2 + task.draw(labels.cpu()) // 2).numpy(), interpolation="nearest")
            axis.set_title(title)
        _draw_displacement(line[3], row.displacement.cpu())
        for axis in line:
            axis.set(xticks=[], yticks=[])
    return figure


def _draw_displacement(axis: Axes, displacement: Tensor) -> None:
    """Draws how far labels moved as a colour, and in which direction as arrows."""
    height, width = displacement.shape[-2:]
    length = displacement.norm(dim=0)
    shades = axis.imshow(length.numpy(), cmap="Blues", vmin=0, vmax=max(1.0, length.max().item()))
    axis.figure.colorbar(shades, ax=axis, label="px")
    step = max(1, width // _ARROWS)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step]
    dx, dy = displacement.numpy()[:, y, x]
    axis.quiver(x, y, -_LONGER * dx, -_LONGER * dy, angles="xy", scale_units="xy", scale=1, width=0.004, pivot="mid")
    axis.set_title(f"mean {length.mean():.1f} px; arrows {_LONGER} times as long")
