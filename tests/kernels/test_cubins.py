"""Every kernel compiles for GPUs that are not here, without spills, and the committed table is current."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from triton.compiler import CompiledKernel

from benchmarks.compiled import cubins
from inverseform_fast import kernels

COMMITTED = {(row["kernel"], row["case"], row["sm"]): row for row in json.loads(cubins.RESULTS.read_text())}
LAUNCHES = cubins.production_launches()
SHOWN = 90  # the capability in the document
OTHERS = [capability for capability in cubins.CAPABILITIES if capability != SHOWN]
NOT_IN_THE_TABLE = {75: 64 << 10, 120: 99 << 10}  # compute capability: bytes of shared memory that a program may use


# Bytes of a thread's stack where ptxas does not find enough registers: of bfloat16 logits, which are read by pairs.
SPILLED = {("dice_loss_backward", 120): 8}


def registers(launch: cubins.Launch, capability: int) -> int:
    return COMMITTED.get((launch.name, launch.case, capability), {"registers": 0})["registers"]


def hungriest(capability: int) -> list[cubins.Launch]:
    """Picks the launch of each kernel that takes most registers, because it would spill first."""
    names = dict.fromkeys(launch.name for launch in LAUNCHES)
    return [
        max((launch for launch in LAUNCHES if launch.name == name), key=lambda launch: registers(launch, capability))
        for name in names
    ]


def resources(compiled: CompiledKernel, folder: Path) -> dict[str, int]:
    """A spill would show in the stack, so the instructions need not be listed, which takes as long as compiling."""
    cubin = folder / "cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    return cubins.resources(cubins.run("cuobjdump", "-res-usage", str(cubin)).splitlines()[-1])


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
    found = resources(cubins.compile_for(launch, capability), tmp_path)
    assert found["stack"] == 0
    assert found["registers"] == registers(launch, capability), "run python -m benchmarks.compiled.cubins"


@pytest.mark.parametrize("capability", NOT_IN_THE_TABLE)
@pytest.mark.parametrize("launch", hungriest(SHOWN), ids=lambda launch: f"{launch.name}, {launch.case}")
def test_gpus_that_are_not_in_the_table_run_it_with_next_to_no_spills(
    launch: cubins.Launch, capability: int, tmp_path: Path
) -> None:
    compiled = cubins.compile_for(launch, capability)
    found = resources(compiled, tmp_path)
    assert found["stack"] == SPILLED.get((launch.name, capability), 0)
    assert max(found["shared"], compiled.metadata.shared) <= NOT_IN_THE_TABLE[capability]


def test_the_table_holds_every_launch_and_nothing_else() -> None:
    assert COMMITTED.keys() == {(x.name, x.case, capability) for x in LAUNCHES for capability in cubins.CAPABILITIES}


def test_the_document_shows_the_table() -> None:
    assert cubins.as_markdown(list(COMMITTED.values()), SHOWN) in cubins.DOCUMENT.read_text()


def test_every_kernel_that_is_launched_is_compiled() -> None:
    sources = [path.read_text() for path in Path(kernels.__path__[0]).glob("*.py")]
    launched = {name for source in sources for name in re.findall(r"_(\w+)\[\(", source)}
    assert launched == {launch.name for launch in LAUNCHES}
