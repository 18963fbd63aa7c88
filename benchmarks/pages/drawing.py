"""What the pictures share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

Draw = Callable[[], Figure]
Drawings = dict[str, tuple[tuple[Path, ...], Draw]]  # by file: the results that a picture shows, and what draws it

# Of Okabe and Ito's palette, which the colour-blind can tell apart.
ORANGE, BLUE, LIGHT_BLUE, GREEN = "#D55E00", "#0072B2", "#56B4E9", "#009E73"
YELLOW, AMBER, PINK, BLACK = "#F0E442", "#E69F00", "#CC79A7", "#000000"
DARK_GREY, GREY, LIGHT_GREY = "#777777", "#999999", "#BBBBBB"
