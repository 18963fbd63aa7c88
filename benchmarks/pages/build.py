"""What each page and picture should show now, by the results that are there, and which of them are stale."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from benchmarks.common.markdown import filled
from benchmarks.common.paths import ROOT
from benchmarks.pages import (
    ablation,
    alignment,
    cost,
    cost_pictures,
    displaced,
    distributed,
    headless,
    launches,
    loading,
    ops,
    predicted,
    worth,
    worth_pictures,
)
from benchmarks.pages.drawing import Draw
from inverseform_fast.files import write_atomically

SOURCE = "Source"  # of a PNG's texts: the digest of the results that it shows


@dataclass(frozen=True)
class Picture:
    path: Path
    results: tuple[Path, ...]
    draw: Draw

    def digest(self) -> str:
        return hashlib.sha256(b"".join(path.read_bytes() for path in self.results)).hexdigest()

    def is_stale(self) -> bool:
        if not self.path.exists():
            return True
        with Image.open(self.path) as image:
            return image.info.get(SOURCE) != self.digest()

    def write(self) -> None:
        metadata = {SOURCE: self.digest()}
        figure = self.draw()
        write_atomically(self.path, lambda file: figure.savefig(file, format="png", dpi=110, metadata=metadata))


def pages(root: Path = ROOT) -> dict[Path, str]:
    """What each page should say now."""
    measured = root / "docs/measured"
    parts = {
        measured / "ablation.md": ablation.parts(root),
        measured / "alignment.md": alignment.parts(root),
        measured / "benchmarks.md": cost.parts(root),
        measured / "displaced.md": displaced.parts(root),
        measured / "headless.md": headless.parts(root),
        measured / "launches.md": launches.parts(root),
        measured / "loading.md": loading.parts(root),
        measured / "ops.md": ops.parts(root),
        measured / "results.md": worth.parts(root),
        root / "docs/design/distributed.md": distributed.parts(root),
        root / "docs/design/triton.md": predicted.parts(root),
        root / "README.md": {"cost": cost.summary(root), "worth": headless.summary(root)},
    }
    texts = {
        measured / "benchmarks_tables.md": cost.appendix(root),
        measured / "ops_tables.md": ops.appendix(root),
        measured / "results_tables.md": worth.appendix(root),
    }
    for path, generated in parts.items():
        text = path.read_text()
        for name, part in generated.items():
            text = filled(text, name, part)
        texts[path] = text
    return texts


def pictures(root: Path = ROOT) -> list[Picture]:
    return [
        Picture(root / "docs/measured" / name, sources, draw)
        for module in (alignment, cost_pictures, worth_pictures)
        for name, (sources, draw) in module.pictures(root).items()
    ]


def stale(root: Path = ROOT) -> list[Path]:
    """The pages and pictures that do not show the results that are there."""
    old_pages = [path for path, text in pages(root).items() if not path.exists() or path.read_text() != text]
    return old_pages + [picture.path for picture in pictures(root) if picture.is_stale()]


def _put(text: str, file: BinaryIO) -> None:
    file.write(text.encode())


def build(root: Path = ROOT) -> None:
    """Write what is stale."""
    for path, text in pages(root).items():
        if not path.exists() or path.read_text() != text:
            write_atomically(path, partial(_put, text))
    for picture in pictures(root):
        if picture.is_stale():
            picture.write()
