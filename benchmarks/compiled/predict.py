"""How long the kernels of a step should take on an H200, predicted from their machine code; nothing here is measured.

``python -m benchmarks.compiled.predict`` records what a step of each loss launches (:mod:`.steps`), compiles it for
sm_90, counts the instructions of a warp by pipe (:mod:`.sass`, :mod:`.trips`), and writes
``results/predicted_times.json``. ``make docs`` shows it in ``docs/design/triton.md``.

The prediction is the time of the busiest pipe, or of the memory if that is longer, as if it never waited. So it is a
lower bound that a real launch will miss. All code but slow paths counts as executed, loads as without conflicts, and
what starting a kernel costs is left out.
"""

from __future__ import annotations

import math

from benchmarks.common import paths, results
from benchmarks.common.results import Json
from benchmarks.compiled.cubins import Launch, compile_for, disassembled
from benchmarks.compiled.cubins import instructions as instructions_by_kind
from benchmarks.compiled.sass import PIPES, blocks
from benchmarks.compiled.steps import LOSSES, Recorded, Size, record
from benchmarks.compiled.trips import bytes_touched, trips

RESULTS = paths.RESULTS / "predicted_times.json"
SIZES = (Size(8, 1024, 2048, 19), Size(8, 512, 1024, 19), Size(16, 480, 480, 150))
CAPABILITY, SCHEDULERS, HERTZ = 90, 4 * 132, 1.755e9
BYTES_PER_SECOND = 4.3e12  # copied by an H200


def predictions() -> Json:
    """Predict every step of ``LOSSES`` and ``SIZES``.

    Returns:
        ``codes``, the machine code that the launches share, and ``steps``, each with its launches, which name their
        code by its place in that list.
    """
    codes: dict[str, Json] = {}
    steps = [_step(loss, size, record(loss, size), codes) for size in SIZES for loss in LOSSES]
    return {"codes": list(codes.values()), "steps": steps}


def _step(loss: str, size: Size, recorded: Recorded, codes: dict[str, Json]) -> Json:
    launches: dict[str, Json] = {}
    for launch in recorded.triton:
        place, code = _code(launch, codes)
        row = {"code": place} | counted(launch, code["loops"])
        launches.setdefault(str(row), row | {"launches": 0} | {"us": predicted_us(code, row)})["launches"] += 1
    total_bytes = sum(moved for _, moved in recorded.aten)
    aten = {"launches": len(recorded.aten), "bytes": total_bytes, "us": _memory_us(total_bytes)}
    return {"loss": loss, "size": size._asdict(), "launches": list(launches.values()), "aten": aten}


def counted(launch: Launch, loops: int) -> Json:
    """What a launch says about its work, for a code of so many loops."""
    return {"programs": launch.programs, "trips": trips(launch, loops), "bytes": bytes_touched(launch)}


def _code(launch: Launch, codes: dict[str, Json]) -> tuple[int, Json]:
    """The machine code of a launch, which is compiled and read once, and its place in the list of them."""
    compiled = compile_for(launch, CAPABILITY)
    if compiled.hash not in codes:
        codes[compiled.hash] = code_of(launch.name, compiled.metadata.num_warps, disassembled(compiled)[1])
    return list(codes).index(compiled.hash), codes[compiled.hash]


def code_of(kernel: str, warps: int, sass: str) -> Json:
    loops, found = blocks(sass)
    static = instructions_by_kind(sass)["instructions"]
    return {
        "kernel": kernel,
        "warps": warps,
        "instructions": static,
        "loops": loops,
        "blocks": [{"loops": block.loops, "cycles": block.cycles} for block in found],
    }


def predicted_us(code: Json, launch: Json) -> dict[str, float]:
    """Microseconds of each pipe of the busiest scheduler, and of the memory."""
    warps = math.ceil(launch["programs"] * code["warps"] / SCHEDULERS)
    cycles = dict.fromkeys(PIPES, 0.0)
    for block in code["blocks"]:
        times = math.prod(launch["trips"][loop] for loop in block["loops"])
        for pipe, busy in block["cycles"].items():
            cycles[pipe] += times * busy
    pipes = {pipe: round(1e6 * warps * busy / HERTZ, 2) for pipe, busy in cycles.items() if busy}
    return pipes | {"memory": _memory_us(launch["bytes"])}


def _memory_us(moved: int) -> float:
    return round(1e6 * moved / BYTES_PER_SECOND, 2)


def main() -> None:
    results.write(RESULTS, predictions())


if __name__ == "__main__":
    main()
