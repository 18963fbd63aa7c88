"""A report ranks images by how far their labels were off."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_atomically
from .markup import markdown, picture_or_reason
from .moved_labels import MovedLabels, draw_moved
from .tasks import Task

REPORT, DETAILS, PICTURE = "report.md", "report.json", "worst.png"


@dataclass(frozen=True)
class Shift:
    """How far the labels of an image moved.

    Attributes:
        name: of the sample.
        file: the label file, below the out folder.
        mean_px, median_px, max_px: displacement in pixels, over the pixels of the given labels' boundaries.
        tiles_moved: share of the tiles that moved.
        pixels_changed: share of the pixels whose label is another one now.
        finite: False if the prediction holds NaN or infinity, so that the labels were left alone.
    """

    name: str
    file: str
    mean_px: float
    median_px: float
    max_px: float
    tiles_moved: float
    pixels_changed: float
    finite: bool


def write_label_report(
    out: Path, subject: str, by: str, shifts: Sequence[Shift], worst: Sequence[MovedLabels], task: Task
) -> None:
    """Writes ``report.json``, ``worst.png``, if any labels moved, and ``report.md`` into ``out``.

    Args:
        subject: what the labels are of.
        by: what moved them.
        shifts: what became of each image, in the order of the report.
        worst: those to draw.
        task: draws the labels.
    """
    rows = [asdict(shift) for shift in shifts]
    write_atomically(out / DETAILS, lambda file: file.write(json.dumps(rows, indent=2).encode()))

    def draw() -> None:
        figure = draw_moved(worst, task)
        write_atomically(out / PICTURE, lambda file: figure.savefig(file, format="png", dpi=80))

    title = "The images that moved most, their labels before and after"
    text = _text(subject, by, shifts, picture_or_reason(out / PICTURE, title, draw) + "\n\n" if worst else "")
    write_atomically(out / REPORT, lambda file: file.write(text.encode()))


def remove_label_report(out: Path) -> None:
    """Removes what :func:`write_label_report` wrote into ``out``."""
    for name in (REPORT, DETAILS, PICTURE):
        (out / name).unlink(missing_ok=True)


def _text(subject: str, by: str, shifts: Sequence[Shift], shown: str) -> str:
    moved = sum(shift.tiles_moved > 0 for shift in shifts)
    skipped = [markdown(shift.name) for shift in shifts if not shift.finite]
    note = f" The predictions of {', '.join(skipped)} are not finite; their labels stay." if skipped else ""
    table = "\n".join(
        f"| {markdown(shift.name)} | {shift.mean_px:.1f} | {shift.median_px:.1f} | {shift.max_px:.1f} "
        f"| {shift.tiles_moved:.0%} | {shift.pixels_changed:.1%} |"
        for shift in shifts
    )
    return (
        f"# How far the labels of {markdown(subject)} were off\n\n"
        f"The labels of {moved} of {len(shifts)} images were moved, by {markdown(by)}.{note}\n\n"
        "A displacement is measured on the boundaries of the given labels, in pixels. Tiles that moved and pixels "
        f"whose label changed are shares of all. The images that moved most come first.\n\n{shown}"
        "| image | mean | median | largest | tiles moved | pixels changed |\n"
        f"|---|---:|---:|---:|---:|---:|\n{table}\n"
    )
