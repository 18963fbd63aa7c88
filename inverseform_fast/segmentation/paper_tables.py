"""The tables of the paper that ``inverseform-fast reproduce`` fills: their columns, their rows, the paper's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .datasets import nyud, pascal

RECIPES = Path(__file__).parents[1] / "recipes"  # a link to the folder of this name beside the package's


class Column(NamedTuple):
    """A column of a table: a metric of a run.

    Attributes:
        title: its name in the paper.
        task: the task that it scores.
        metric: the name of the metric of that task.
        scale: factor of the printed value; 100 for per cent.
        lower_is_better: whether the metric is an error.
    """

    title: str
    task: str
    metric: str
    scale: float = 100.0
    lower_is_better: bool = False

    def value(self, metrics: Mapping[str, float], main_task: str) -> float:
        """Returns the printed value; ``main_task`` is the one whose metrics have their bare names."""
        name = self.metric if self.task == main_task else f"{self.task}/{self.metric}"
        return self.scale * metrics[name]


class Row(NamedTuple):
    """A row of a table: a network, trained by a recipe.

    Attributes:
        recipe: the name of the recipe, without its suffix, in the folder of the table.
        title: the network's name in the paper.
        paper: the paper's number for each column, and Delta_m if the table has it.
        single: the recipe of the networks of one task that Delta_m compares with; None if the table has no Delta_m.
    """

    recipe: str
    title: str
    paper: tuple[float, ...]
    single: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table: a title, the data set's classes, columns and rows; its recipes are in the folder of its name."""

    title: str
    classes: Sequence[str]
    columns: Sequence[Column]
    rows: Sequence[Row]


TABLES = {
    "table1": PaperTable(
        "Table 1, NYU-Depth-v2",
        nyud.CLASSES,
        (Column("mIoU", "semantic", "miou"), Column("mBA", "semantic", "mba")),
        (
            Row("hrnet_w18_s", "HRNet-w18, S", (33.18, 37.46)),
            Row("hrnet_w18_se_inverseform", "HRNet-w18 w/ InverseForm, S+E", (34.79, 40.72)),
            Row("pad_net_sd", "PAD-HRNet18, S+D", (32.80, 38.10)),
            Row("pad_net_sden", "PAD-HRNet18, S+D+E+N", (33.10, 42.69)),
            Row("pad_net_sden_inverseform", "PAD-HRNet18 w/ InverseForm, S+D+E+N", (34.70, 43.24)),
            Row("mti_net_sd", "MTI-HRNet18, S+D", (35.12, 42.44)),
            Row("mti_net_sden", "MTI-HRNet18, S+D+E+N", (37.49, 43.26)),
            Row("mti_net_sden_inverseform", "MTI-HRNet18 w/ InverseForm, S+D+E+N", (38.71, 45.59)),
            Row("hrnet_w48_s", "HRNet-w48, S", (45.70, 56.01)),
            Row("hrnet_w48_se_inverseform", "HRNet-w48 w/ InverseForm, S+E", (47.42, 59.34)),
        ),
    ),
    "table3": PaperTable(
        "Table 3, PASCAL",
        pascal.CLASSES,
        (
            Column("Seg", "semantic", "miou"),
            Column("Edge", "edges", "odsf"),
            Column("Saliency", "saliency", "miou"),
            Column("Parts", "parts", "miou"),
            Column("Normals", "normals", "mean", scale=1.0, lower_is_better=True),
        ),
        tuple(
            Row(recipe + suffix, title + words, numbers, single)
            for recipe, title, single, without, with_inverseform in (
                (
                    "astmt_seresnet26",
                    "SE-ResNet-26+ASTMT",
                    "single/seresnet26",
                    (64.61, 71.0, 64.70, 57.25, 15.00, -0.11),
                    (65.13, 71.4, 65.29, 57.93, 15.07, 0.49),
                ),
                (
                    "astmt_seresnet50",
                    "SE-ResNet-50+ASTMT",
                    "single/seresnet50",
                    (68.00, 72.4, 66.13, 61.10, 14.60, -0.04),
                    (68.83, 72.5, 67.50, 61.13, 14.55, 0.95),
                ),
                (
                    "astmt_seresnet101",
                    "SE-ResNet-101+ASTMT",
                    "single/seresnet101",
                    (68.51, 73.5, 67.72, 63.41, 14.37, -0.6),
                    (70.14, 73.7, 68.70, 64.76, 14.55, 0.39),
                ),
                (
                    "mti_net_resnet18",
                    "ResNet-18+MTI-Net",
                    "single/resnet18",
                    (65.70, 73.9, 66.80, 61.60, 14.60, 3.84),
                    (65.96, 74.2, 67.23, 61.71, 14.52, 4.34),
                ),
                (
                    "mti_net_hrnet_w18",
                    "HRNet-w18+MTI-Net",
                    "single/hrnet_w18",
                    (64.30, 73.4, 68.00, 62.10, 14.80, 2.74),
                    (65.12, 73.6, 68.61, 62.53, 14.67, 3.72),
                ),
            )
            for suffix, words, numbers in (
                ("", "", without),
                ("_inverseform", " w/ InverseForm", with_inverseform),
            )
        ),
    ),
}
