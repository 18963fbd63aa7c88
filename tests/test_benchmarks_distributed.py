"""The benchmark of several processes: what it measures follows its schema, and the committed counts are current."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from benchmarks.common import results
from benchmarks.distributed.__main__ import RESULTS, SCHEMA, added_launches
from benchmarks.distributed.measure import LOSSES, measured
from inverseform_fast.ops.backend import MISSING

COMMITTED = results.read(RESULTS)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_committed_result_follows_the_schema() -> None:
    results.check(SCHEMA, COMMITTED)


@pytest.mark.usefixtures("one_process")
def test_a_measurement_follows_the_schema_and_knows_the_bytes() -> None:
    logits, labels = torch.randn(1, 5, 8, 8, requires_grad=True), torch.randint(5, (1, 32, 32))
    found = {name: measured(weights, logits, labels, rounds=2) for name, weights in LOSSES.items()}
    assert [loss["bytes"]["with"] for loss in found.values()] == [8 * (6 + 7 * 5), 8 * 6]
    assert [loss["bytes"]["without"] for loss in found.values()] == [0, 0]
    process = {"losses": found, "all_reduce_ms": COMMITTED["processes"][0]["all_reduce_ms"]}
    results.check(SCHEMA, json.loads(json.dumps(COMMITTED | {"processes": [process]})))


@pytest.mark.skipif(bool(MISSING["triton"]), reason="needs Triton")
@pytest.mark.parametrize("loss", LOSSES)
def test_the_committed_launches_are_current(loss: str) -> None:
    assert added_launches(LOSSES[loss]) == COMMITTED["launches"][loss], "run python -m benchmarks.distributed"
