"""The predicted times are of the kernels as they are: of what a step launches now, and of the committed cubins."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.compiled import cubins, predict, sass, trips
from benchmarks.compiled.cubins import Launch
from benchmarks.compiled.steps import LOSSES, Recorded, Size, record

STALE = "run make cubins"
COMMITTED = json.loads(predict.RESULTS.read_text())
CODES = COMMITTED["codes"]
STEPS = [(loss, size) for size in predict.SIZES for loss in LOSSES]
LISTING = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;                        /* 0x00000a0000017a02 */
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;              /* 0x0000000402047981 */
        /*0020*/                   FFMA R0, R0, R1, R2 ;
        /*0030*/              @!P0 IMAD.WIDE R2, R3, R4, R5 ;
        /*0040*/                   MUFU.EX2 R0, R0 ;
        /*0050*/               @P0 BRA 0x30 ;
        /*0060*/                   HMMA.1688.F32.TF32 R4, R8, R10, R4 ;
        /*0070*/                   BRA P1, 0x20 ;
        /*0080*/                   HGMMA.64x16x8.F32.TF32 R24, gdesc[UR4], R24 ;
        /*0090*/                   EXIT ;
        /*00a0*/                   DFMA R0, R0, R0, R0 ;
        /*00b0*/                   BRA 0xb0 ;
        /*00c0*/                   NOP ;
"""


def step(loss: str, size: Size) -> dict[str, Any]:
    sizes = {"images": size.images, "height": size.height, "width": size.width, "classes": size.classes}
    return next(step for step in COMMITTED["steps"] if step["loss"] == loss and step["size"] == sizes)


def launches() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    return ((CODES[launch["code"]], launch) for step in COMMITTED["steps"] for launch in step["launches"])


def test_code_is_read_as_blocks_of_the_same_loops() -> None:
    """By hand: the loop 0x30 to 0x50 lies in the one from 0x20 to 0x70; what stands behind the EXIT is left out."""
    loops, blocks = sass.blocks(LISTING)
    assert loops == 2
    assert {tuple(block.loops): block.cycles for block in blocks} == {
        (): {"issue": 4, "alu": 2, "lsu": 16, "tensor": 8},  # 64 x 16 x 8 products, by four warps, 256 a cycle
        (0,): {"issue": 3, "fma": 1, "tensor": 4},
        (0, 1): {"issue": 3, "fma": 1, "imad": 2, "xu": 8},
    }


def test_a_prediction_multiplies_by_trips_and_by_the_warps_of_a_scheduler() -> None:
    """By hand: 528 schedulers, so 529 warps are two on one of them, each with 3 + 5 (3 + 7 x 3) instructions."""
    _, blocks = sass.blocks(LISTING)
    code = {"warps": 1, "blocks": [{"loops": block.loops, "cycles": block.cycles} for block in blocks]}
    found = predict.predicted_us(code, {"programs": 529, "trips": [5, 7], "bytes": 8_600_000})
    assert found["issue"] == pytest.approx(2 * (4 + 5 * (3 + 7 * 3)) / 1755, abs=0.01)
    assert found["xu"] == pytest.approx(2 * 5 * 7 * 8 / 1755, abs=0.01)
    assert found["memory"] == 2.0


@pytest.fixture(scope="module")
def recorded() -> dict[tuple[str, Size], Recorded]:
    return {(loss, size): record(loss, size) for loss, size in STEPS}


def test_another_number_of_loops_is_an_error(recorded: dict[tuple[str, Size], Recorded]) -> None:
    launches = recorded["default", predict.SIZES[0]].triton
    launch = next(launch for launch in launches if launch.name == "segmentation_loss")
    with pytest.raises(ValueError, match="must name the 4 loops of the sm_90 code of segmentation_loss, got 3"):
        trips.trips(launch, 4)


@pytest.mark.parametrize(("loss", "size"), STEPS, ids=str)
def test_the_results_are_of_what_a_step_launches(
    loss: str, size: Size, recorded: dict[tuple[str, Size], Recorded]
) -> None:
    found, written = recorded[loss, size], step(loss, size)
    loops = {code["kernel"]: code["loops"] for code in CODES}
    counts = Counter(f"{each.name} {predict.counted(each, loops[each.name])}" for each in found.triton)
    expected: Counter[str] = Counter()
    for row in written["launches"]:
        counted = {key: row[key] for key in ("programs", "trips", "bytes")}
        expected[f"{CODES[row['code']]['kernel']} {counted}"] += row["launches"]
    assert counts == expected, STALE
    assert written["aten"]["launches"] == len(found.aten), STALE
    assert written["aten"]["bytes"] == sum(moved for _, moved in found.aten), STALE


def test_bands_of_rows_share_the_cells(recorded: dict[tuple[str, Size], Recorded]) -> None:
    """The gradient of boundary_f1_loss comes in 8 bands; if each passed over all cells, it would take 8 x as long."""
    size = predict.SIZES[0]
    launches = [x for x in recorded["default", size].triton if x.name == "add_gradient_of_band"]
    whole = size.images * -(-size.height // 4 // 15) * -(-size.width // 4 // 15)
    assert len(launches) == 8
    assert whole <= sum(launch.programs for launch in launches) <= 1.6 * whole


def test_times_follow_from_the_code() -> None:
    for code, launch in launches():
        assert launch["us"] == predict.predicted_us(code, launch), STALE


def test_the_code_is_that_of_the_committed_cubins() -> None:
    """The first size is that of ``production_launches``, so each code has a row with the same instructions."""
    rows = [row for row in json.loads(cubins.RESULTS.read_text()) if row["sm"] == predict.CAPABILITY]
    used = {launch["code"] for loss in LOSSES for launch in step(loss, predict.SIZES[0])["launches"]}
    for code in (CODES[place] for place in used):
        same = [row for row in rows if row["kernel"] == code["kernel"] and row["warps"] == code["warps"]]
        assert code["instructions"] in [row["instructions"] for row in same], f"{code['kernel']}: {STALE}"


@pytest.mark.parametrize("name", ["segmentation_loss", "boundary_map_sliding_window", "extract_tiles", "second_layer"])
def test_the_code_is_what_the_compiler_makes_now(name: str, recorded: dict[tuple[str, Size], Recorded]) -> None:
    launch: Launch = next(launch for launch in recorded["paper", predict.SIZES[0]].triton if launch.name == name)
    compiled = cubins.compile_for(launch, predict.CAPABILITY)
    code = predict.code_of(name, compiled.metadata.num_warps, cubins.disassembled(compiled)[1])
    assert code in CODES, STALE


def test_all_bytes_pass_through_the_load_and_store_units() -> None:
    """32 lanes move 4 bytes each a cycle, so a loop that runs too rarely would leave the units too little time."""
    bytes_per_us = 132 * 32 * 4 * predict.HERTZ / 1e6
    for code, launch in launches():
        assert launch["us"].get("lsu", 0) * bytes_per_us >= 0.98 * launch["bytes"], code["kernel"]
