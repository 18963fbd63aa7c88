"""Every kernel compiled for GPUs that are not here: no spills, and the committed table is what the compiler says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.compiled import cubins
from inverseform_fast import kernels

COMMITTED = {(row["kernel"], row["case"], row["sm"]): row for row in json.loads(cubins.RESULTS.read_text())}
LAUNCHES = cubins.production_launches()


@pytest.mark.parametrize("capability", cubins.CAPABILITIES)
@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda launch: f"{launch.name}, {launch.case}")
def test_compiles_without_spills_as_the_table_says(launch: cubins.Launch, capability: int) -> None:
    found = cubins.inspect(cubins.compile_for(launch, capability))
    assert found["stack"] == 0
    assert "local" not in found["instructions"]
    row = COMMITTED[launch.name, launch.case, capability]
    assert {key: row[key] for key in found} == found, "run python -m benchmarks.compiled.cubins"


def test_the_table_holds_every_launch_and_nothing_else() -> None:
    assert COMMITTED.keys() == {(x.name, x.case, capability) for x in LAUNCHES for capability in cubins.CAPABILITIES}


def test_the_document_shows_the_table() -> None:
    assert cubins.as_markdown(list(COMMITTED.values()), 90) in cubins.DOCUMENT.read_text()


def test_every_kernel_that_is_launched_is_compiled() -> None:
    sources = [path.read_text() for path in Path(kernels.__path__[0]).glob("*.py")]
    launched = {name for source in sources for name in re.findall(r"_(\w+)\[\(", source)}
    assert launched == {launch.name for launch in LAUNCHES}
