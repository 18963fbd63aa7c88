"""The tables of what a step launches and compiles, from ``benchmarks/results/launches.json``."""

from __future__ import annotations

from pathlib import Path

from benchmarks.common import results
from benchmarks.common.markdown import rows_table, table
from benchmarks.common.results import Json

SOURCE = "benchmarks/results/launches.json"
COMPILING_GOAL = 8  # CPU seconds that a run's first step may take to compile


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/launches.md."""
    result = results.read(root / SOURCE)
    return {
        "step": step_table(result),
        "fills": fill_table(result),
        "kernels": kernel_table(result),
        "aten": aten_table(result),
        "compiling": compile_table(result),
        "later": later_table(result),
    }


def step_table(result: Json) -> str:
    rows = []
    for book in result["books"]:
        host = result["host_ms"][book["case"]]
        triton, aten = sum(launch["count"] for launch in book["launches"]), sum(book["aten"].values())
        compiling = sum(map(sum, result["compile_cpu_s"][book["case"]].values()))
        buffers = f"{book['buffers']} ({book['buffer_bytes'] / 2**20:.0f} MiB)"
        counts = (triton, aten, triton + aten, buffers, sum(book["compiled"].values()))
        times = f"{compiling:.1f}", f"{host['median']:.1f} ± {host['iqr']:.1f}"
        rows.append([book["case"], book["size"], *map(str, counts), *times])
    head = ["Triton's launches", "ATen's launches", "all launches", "buffers", "kernels to compile", "CPU s to compile"]
    device, commit, versions = (result["machine"][key] for key in ("device", "commit", "versions"))
    return f"""{rows_table(["loss", "maps", *head, "host, ms"], rows)}
Kernels were compiled for sm_{result["capability"]}. Times are of one core of {device}, at commit
{commit} with torch {versions["torch"]} and triton {versions["triton"]}.
"""


def fill_table(result: Json) -> str:
    return table(
        ["loss", "filled buffers"], {case: [str(fills)] for case, fills in result["fills_if_deterministic"].items()}
    )


def kernel_table(result: Json) -> str:
    """The launches of the first size: how often each loss launches a kernel with a grid."""
    books = _of_first_size(result)
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for case, book in books.items():
        for launch in book["launches"]:
            known = map(_names, (launch["ones"], launch["multiples_of_16"]))
            counts.setdefault((f"`{launch['kernel']}`", *known, f"{launch['grid']:,}"), {})[case] = launch["count"]
    rows = [[*names, *(str(each.get(case, "-")) for case in books)] for names, each in counts.items()]
    return rows_table(["kernel", "known to be 1", "known to be a multiple of 16", "programs", *books], rows, names=3)


def _of_first_size(result: Json) -> dict[str, Json]:
    size = result["books"][0]["size"]
    return {book["case"]: book for book in result["books"] if book["size"] == size}


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def aten_table(result: Json) -> str:
    books = {case: book["aten"] for case, book in _of_first_size(result).items()}
    ops = sorted({op for counts in books.values() for op in counts})
    rows = {f"`{op}`": [str(counts.get(op, "-")) for counts in books.values()] for op in ops}
    return table(["op", *books], rows)


def compile_table(result: Json) -> str:
    """CPU seconds that a first step takes, against the goal, and those of its kernels, the slowest first."""
    cases: dict[str, dict[str, list[float]]] = result["compile_cpu_s"]
    totals = {case: sum(map(sum, seconds.values())) for case, seconds in cases.items()}
    kernels = {case: sum(map(len, seconds.values())) for case, seconds in cases.items()}
    found = "; ".join(f"{case}: {kernels[case]} kernels in {total:.1f} s" for case, total in totals.items())
    met = "all of these meet" if max(totals.values()) <= COMPILING_GOAL else "not all of these meet"
    goal = f"The goal is at most {COMPILING_GOAL} s, which {met}."
    longest: dict[str, float] = {}
    for seconds in cases.values():
        longest |= {kernel: max(longest.get(kernel, 0), sum(each)) for kernel, each in seconds.items()}
    rows = {
        f"`{kernel}`": [" + ".join(f"{s:.2f}" for s in seconds.get(kernel, [])) or "-" for seconds in cases.values()]
        for kernel in sorted(longest, key=lambda name: -longest[name])
    }
    return f"This is what a first step compiles ({found}). {goal}\n\n{table(['kernel', *cases], rows)}"


def later_table(result: Json) -> str:
    """What the later steps of a run compile."""
    later: dict[str, dict[str, list[str]]] = result["compiled_later"]
    sizes = next(iter(later.values()))
    rows = {size: [_names(kernels[size]) for kernels in later.values()] for size in sizes}
    return table(["maps", *later], rows)
