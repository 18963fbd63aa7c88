"""The installed binary says what nvcc made of the extension's CUDA kernels; reading it needs no GPU.

``python -m benchmarks.compiled.extension_cubins`` writes ``results/extension_cubins.json`` and the table of
``docs/design/so3.md``.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import inverseform_fast
from benchmarks.common import paths
from benchmarks.common.results import Json
from benchmarks.compiled import cubins

RESULTS = paths.RESULTS / "extension_cubins.json"
DOCUMENT = paths.ROOT / "docs/design/so3.md"
OPS = {
    "Project": "project_to_so3",
    "ProjectBackward": "project_to_so3_backward",
    "GeodesicDistance": "geodesic_distance",
}
DTYPES = {"f": "float32", "d": "float64"}
MANGLED = r"6kernelINS_\d+(\w+?)I([fd])EE"


def binary() -> Path | None:
    return next(Path(inverseform_fast.__file__).parent.glob("_C_cuda.*so"), None)


def table() -> list[Json]:
    """Make a row for each kernel, dtype and compute capability; none if the extension was built without CUDA."""
    path = binary()
    if path is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        cubins.run("cuobjdump", "-xelf", "all", str(path), cwd=folder)
        rows = [row for file in Path(folder).glob("*.cubin") for row in cubin_rows(file)]
    return sorted(rows, key=lambda row: (row["kernel"], row["case"], row["sm"]))


def cubin_rows(file: Path) -> list[Json]:
    capability = int(cubins.found(r"sm_(\d+)", file.name)[1])
    usage = re.findall(r"Function (\S+):\s+(REG.*)", cubins.run("cuobjdump", "-res-usage", str(file)))
    sass = dict(
        re.findall(r"Function : (\S+)(.*?)(?=Function : |\Z)", cubins.run("cuobjdump", "-sass", str(file)), re.S)
    )
    rows = []
    for function, counts in usage:
        arguments, dtype = cubins.found(MANGLED, function).groups()
        about = {"kernel": OPS[arguments], "case": DTYPES[dtype], "sm": capability}
        rows.append(about | cubins.resources(counts) | {"warps": 4} | cubins.instructions(sass[function]))
    return rows


def ptx() -> str:
    """Return the PTX, from which drivers compile for GPUs to come."""
    return cubins.run("cuobjdump", "-lptx", str(binary()))


def main() -> None:
    cubins.write(RESULTS, DOCUMENT, table())


if __name__ == "__main__":
    main()
