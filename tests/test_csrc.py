"""Every header of the extension compiles alone, and the sizes of its network are those of the reference."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import inverseform_fast as iff

CSRC = Path(iff.__file__).parents[1] / "csrc"
SIMD = "common/simd.h"  # it includes another header, once per instruction set, and is compiled with each of these
HEADERS = sorted({path.relative_to(CSRC).as_posix() for path in CSRC.rglob("*.h")} - {SIMD})
COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone(header: str) -> None:
    per_instruction_set = "SIMD_TARGET" in (CSRC / header).read_text()
    source = f'#define SIMD_SOURCE "{header}"\n#include "{SIMD}"' if per_instruction_set else f'#include "{header}"'
    flags = ["-std=c++17", "-fsyntax-only", f"-I{CSRC}", "-isystem", str(Path(torch.__file__).parent / "include")]
    run = subprocess.run([str(COMPILER), *flags, "-xc++", "-"], input=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_stems_are_unique() -> None:
    """Two sources of one stem clash in the build."""
    assert repeated(path.stem for path in CSRC.rglob("*.*")) == []


def test_a_macro_is_defined_in_one_file() -> None:
    """The exceptions are macros that name the instruction set that a file is compiled for."""
    texts = [path.read_text() for path in CSRC.rglob("*.*")]
    assert repeated(macro for text in texts for macro in set(re.findall(r"#define (?!SIMD_)(\w+)", text))) == []


def repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def test_sizes_of_the_network_are_the_references() -> None:
    reference = vars(importlib.import_module("inverseform_fast.reference.align"))
    text = (CSRC / "align/align_network.h").read_text()
    sizes = {name: float(number) for name, number in re.findall(r"\b([A-Z_]+) = ([\d.]+)f?[,;]", text)}
    common = sizes.keys() & reference.keys()
    assert common >= {"CELL", "REACH", "GROUPS", "NORM_GROUPS", "EPS", "CELLS_PER_UNIT"}
    assert {name: sizes[name] for name in common} == {name: reference[name] for name in common}
