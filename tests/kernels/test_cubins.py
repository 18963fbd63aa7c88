"""Every kernel compiles for GPUs that are not here, without spills, and the committed table is current."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.compiled import cubins
from inverseform_fast import kernels

COMMITTED = {(row["kernel"], row["case"], row["sm"]): row for row in json.loads(cubins.RESULTS.read_text())}
LAUNCHES = cubins.production_launches()
SHOWN = 90  # the capability in the document
OTHERS = [capability for capability in cubins.CAPABILITIES if capability != SHOWN]


def registers(launch: cubins.Launch, capability: int) -> int:
    return COMMITTED.get((launch.name, launch.case, capability), {"registers": 0})["registers"]


def hungriest(capability: int) -> list[cubins.Launch]:
    """Picks the launch of each kernel that takes most registers, because it would spill first."""
    names = dict.fromkeys(launch.name for launch in LAUNCHES)
    return [
        max((launch for launch in LAUNCHES if launch.name == name), key=lambda launch: registers(launch, capability))
        for name in names
    ]


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"{launch.name}, {launch.case}")
def test_compiles_without_spills_as_the_table_says(launch: cubins.Launch) -> None:
    found = cubins.inspect(cubins.compile_for(launch, SHOWN))
    assert found["stack"] == 0
    assert "local" not in found["instructions"]
    row = COMMITTED[launch.name, launch.case, SHOWN]
    assert {key: row[key] for key in found} == found, "run python -m benchmarks.compiled.cubins"


@pytest.mark.parametrize(
    ("launch", "capability"),
    [
        pytest.param(launch, capability, id=f"{launch.name}, {launch.case}-{capability}")
        for capability in OTHERS
        for launch in hungriest(capability)
    ],
)
def test_no_other_gpu_spills_either(launch: cubins.Launch, capability: int, tmp_path: Path) -> None:
    """A spill would need a stack, so the instructions need not be listed, which would take as long as compiling."""
    cubin = tmp_path / "cubin"
    cubin.write_bytes(cubins.compile_for(launch, capability).asm["cubin"])
    found = cubins.resources(cubins.run("cuobjdump", "-res-usage", str(cubin)).splitlines()[-1])
    assert found["stack"] == 0
    assert found["registers"] == registers(launch, capability), "run python -m benchmarks.compiled.cubins"


def test_the_table_holds_every_launch_and_nothing_else() -> None:
    assert COMMITTED.keys() == {(x.name, x.case, capability) for x in LAUNCHES for capability in cubins.CAPABILITIES}


def test_the_document_shows_the_table() -> None:
    assert cubins.as_markdown(list(COMMITTED.values()), SHOWN) in cubins.DOCUMENT.read_text()


def test_every_kernel_that_is_launched_is_compiled() -> None:
    sources = [path.read_text() for path in Path(kernels.__path__[0]).glob("*.py")]
    launched = {name for source in sources for name in re.findall(r"_(\w+)\[\(", source)}
    assert launched == {launch.name for launch in LAUNCHES}
