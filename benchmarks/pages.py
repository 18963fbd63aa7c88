"""The pages that are made of results: ``make docs``, which is ``python -m benchmarks.pages``.

Fills the tables of README.md and of the pages in docs/measured/, between their marks, and draws their pictures from
``benchmarks/results/*.json``. ``--check`` changes nothing and fails if anything is stale.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from benchmarks import cost_page, gpu, ops_page, worth_page
from benchmarks.alignment import filled
from inverseform_fast.files import write_atomically

SOURCE = "Source"  # of a PNG's texts: the digest of the results that it shows


@dataclass(frozen=True)
class Picture:
    path: Path
    results: tuple[Path, ...]
    draw: Callable[[], Figure]

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


def pages(root: Path = gpu.ROOT) -> dict[Path, str]:
    """What each page should say now."""
    parts = {
        root / "docs/measured/benchmarks.md": cost_page.tables(root),
        root / "docs/measured/ops.md": ops_page.tables(root),
        root / "docs/measured/results.md": worth_page.tables(root),
        root / "README.md": {"cost": cost_page.summary(root), "worth": worth_page.summary(root)},
    }
    texts = {}
    for path, tables in parts.items():
        text = path.read_text()
        for name, table in tables.items():
            text = filled(text, table, (f"<!-- {name}: begin -->", f"<!-- {name}: end -->"))
        texts[path] = text
    return texts


def pictures(root: Path = gpu.ROOT) -> list[Picture]:
    return [
        Picture(root / "docs/measured" / name, results, draw)
        for each in (cost_page.pictures(root), worth_page.pictures(root))
        for name, (results, draw) in each.items()
    ]


def stale(root: Path = gpu.ROOT) -> list[Path]:
    """The pages and pictures that do not show the results that are there."""
    old_pages = [path for path, text in pages(root).items() if path.read_text() != text]
    return old_pages + [picture.path for picture in pictures(root) if picture.is_stale()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if anything is stale")
    if parser.parse_args().check:
        if old := stale():
            sys.exit(f"stale, run make docs: {', '.join(str(path.relative_to(gpu.ROOT)) for path in old)}")
        return
    for path, text in pages().items():
        if path.read_text() != text:
            write_atomically(path, lambda file, text=text: file.write(text.encode()))
    for picture in pictures():
        if picture.is_stale():
            picture.write()


if __name__ == "__main__":
    main()
