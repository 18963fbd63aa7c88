"""The pages that are made of results: ``make docs``, which is ``python -m benchmarks.pages``.

Fills the tables of README.md and of the pages in docs/measured/, between their marks, and draws their pictures from
``benchmarks/results/*.json``. ``--check`` changes nothing and fails if anything is stale.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks.common.paths import ROOT
from benchmarks.pages.build import build, stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if anything is stale")
    if not parser.parse_args().check:
        build()
    elif old := stale():
        sys.exit(f"stale, run make docs: {', '.join(str(path.relative_to(ROOT)) for path in old)}")


if __name__ == "__main__":
    main()
