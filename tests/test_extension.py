"""The C++/CUDA extension loads, the package works without it, and its GPU code spills nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import inverseform_fast as iff
from benchmarks.compiled import extension_cubins
from inverseform_fast.ops import backend

PACKAGE = Path(iff.__file__).parent
ROOT = PACKAGE.parent
REQUIRED = os.environ.get("INVERSEFORM_FAST_BUILD_CUDA") == "1"
ROWS = extension_cubins.table()
cuda_code = pytest.mark.skipif(bool(backend.MISSING["cuda"]) and not REQUIRED, reason="built without CUDA")
USE = """
import torch, inverseform_fast as iff
from inverseform_fast import doctor
m = torch.eye(3) + 0.1
assert (iff.functional.project_to_so3(m).det() - 1).abs() < 1e-6
assert iff.functional.geodesic_distance(m, m) == 0
print(iff.backend_info()["ops"]["project_to_so3"])
print(doctor.report())
"""


def use(package_root: Path, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", USE], cwd=package_root, env=os.environ | environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package without its binaries."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


@pytest.mark.skipif(not REQUIRED, reason="INVERSEFORM_FAST_BUILD_CUDA is not 1")
def test_both_halves_are_built_and_load() -> None:
    assert backend.MISSING["cpu"] is None
    assert backend.MISSING["cuda"] is None


def test_without_the_binaries_the_reference_runs_and_the_report_says_why(copied: Path) -> None:
    said = use(copied)
    assert said.startswith("reference\n")
    assert (
        said.count("the extension was not built (no inverseform_fast/_C.*so); `pip install -v` says what it lacks") == 2
    )


@pytest.mark.parametrize("library", ["_C", "_C_cuda"])
def test_a_binary_that_does_not_load_leaves_the_rest_working(copied: Path, library: str) -> None:
    for binary in PACKAGE.glob("_C*.so"):
        shutil.copy(binary, copied / PACKAGE.name)
    (copied / PACKAGE.name / f"{library}.abi3.so").write_bytes(b"not a library")
    said = use(copied)
    assert f"{library}.abi3.so does not load: " in said
    assert "invalid ELF header" in said or "file too short" in said
    if library == "_C_cuda" and not backend.MISSING["cpu"]:
        assert said.startswith("cpu\n")


@pytest.mark.skipif(bool(backend.MISSING["cpu"]), reason="needs the extension")
def test_it_serves_other_torch_versions() -> None:
    """The binary needs only the C symbols of torch's stable ABI, and none of its C++ ones."""
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", *PACKAGE.glob("_C*.so")], capture_output=True, text=True, check=True
    ).stdout.split()
    assert any(symbol.startswith("aoti_torch_") for symbol in symbols)
    assert not [symbol for symbol in symbols if "c10" in symbol or "_ZN2at" in symbol or "_ZN5torch" in symbol]


@cuda_code
@pytest.mark.parametrize(
    "row", extension_cubins.table(), ids=lambda row: f"{row['kernel']}, {row['case']}, {row['sm']}"
)
def test_cuda_kernels_spill_nothing_and_the_table_is_current(row: dict[str, Any]) -> None:
    assert row["stack"] == 0
    assert "local" not in row["instructions"]
    committed = json.loads(extension_cubins.RESULTS.read_text())
    same = [r for r in committed if all(r[key] == row[key] for key in ("kernel", "case", "sm"))]
    assert same == [row], "run python -m benchmarks.compiled.extension_cubins"


@cuda_code
def test_it_is_compiled_for_every_gpu_that_it_promises() -> None:
    for capability in (75, 80, 90, 100, 120):
        kernels = {(row["kernel"], row["case"]) for row in ROWS if row["sm"] == capability}
        assert len(kernels) == 6
    assert "sm_100" in extension_cubins.ptx()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"INVERSEFORM_FAST_BUILD_CUDA": "yes"}, "INVERSEFORM_FAST_BUILD_CUDA must be 0 or 1, got 'yes'"),
        (
            {"INVERSEFORM_FAST_BUILD_CUDA": "1", "CUDA_HOME": "/nowhere"},
            "INVERSEFORM_FAST_BUILD_CUDA=1, but there is no /nowhere/bin/nvcc",
        ),
        (
            {"INVERSEFORM_FAST_BUILD_CUDA": "", "CUDA_HOME": "/nowhere"},
            "no cuda extension: there is no /nowhere/bin/nvcc",
        ),
        ({"INVERSEFORM_FAST_BUILD_CUDA": "1", "CUDA_HOME": "OLD"}, "is of CUDA 11, torch .* of CUDA"),
    ],
)
def test_the_build_says_what_is_missing(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    if torch.version.cuda is None and "CUDA_HOME" in environment:
        pytest.skip("this torch is a build without CUDA")
    nvcc = tmp_path / "bin/nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 11.8, V11.8.89\n")
    nvcc.chmod(0o755)
    environment = {name: str(tmp_path) if value == "OLD" else value for name, value in environment.items()}
    run = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert re.search(message, run.stdout + run.stderr), run.stdout + run.stderr
