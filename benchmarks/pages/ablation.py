"""The tables of the choices behind InverseForm, from ``benchmarks/results/ablation.json``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from benchmarks.common import results
from benchmarks.common.markdown import table
from benchmarks.common.results import Json
from benchmarks.common.scores import COLUMNS, per_cent
from benchmarks.studies.ablation import EVALUATED, SEGMENTATION, SHIPPED, WHOLE, Study

T = TypeVar("T")
MEASURED = ["pairs seen", "CPU min", "error, crisp, %", "error, degraded, %", "rank, crisp", "rank, degraded"]
SOURCES = {"align-log": "random", "align-stn": "STN", "align-mix": "both"}


def parts(root: Path) -> dict[str, str]:
    """The parts of docs/measured/ablation.md."""
    return tables(Study(), results.read(root / "benchmarks/results/ablation.json"))


def tables(study: Study, finished: Json) -> dict[str, str]:
    """Markdown for each group, of the arms that are finished."""
    nets, losses = finished["nets"], finished[SEGMENTATION]
    networks, tiles, transforms, segmentation = study.groups.values()
    columns = [name for name in COLUMNS if any(name in run["metrics"] for runs in losses.values() for run in runs)]
    scores = ["seeds", "CPU min", *(COLUMNS[name] for name in columns)]
    moves = ["largest move, tile px", "largest move, image px", "error, crisp, image px"]
    return {
        "networks": _table(["network, distance", *MEASURED, "noise, px", "parameters"], networks, nets, _network),
        "tiles": _table(["tile", *MEASURED, *moves], tiles, nets, partial(_tile, study)),
        "transforms": _table(["homographies", *MEASURED], transforms, nets, _source),
        SEGMENTATION: _table(["loss", *scores], segmentation, losses, partial(_loss, columns)),
    }


def _table(head: list[str], names: Iterable[str], results: Mapping[str, T], row: Callable[[str, T], list[str]]) -> str:
    rows = [row(name, results[name]) for name in names if name in results]
    return table(head, {first: rest for first, *rest in rows}) if rows else "No arm has been measured.\n"


def _measured(net: Json) -> list[str]:
    scores = net["crisp"], net["degraded"]
    errors = [f"{100 * each['relative_corner_error']:.1f}" for each in scores]
    ranks = [f"{each['spearman']:.3f}" for each in scores]
    minutes = f"{net['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in net else "-"
    return [f"{net['pairs_seen']:,}", minutes, *errors, *ranks]


def _network(name: str, net: Json) -> list[str]:
    shipped = f" (tile {net['tile']}, trained far longer)" if name == SHIPPED else ""
    return [spelled(name) + shipped, *_measured(net), f"{net['noise_px']:.2f}", f"{net['parameters']:,}"]


def _tile(study: Study, name: str, net: Json) -> list[str]:
    # Image pixels in one of the tile; a squeezed image has other ones across than down.
    pixels = math.sqrt(math.prod(study.size)) / net["tile"] if name == WHOLE else 1
    moved, error = EVALUATED * net["tile"], net["crisp"]["corner_error"]
    title = f"{net['tile']}, whole image" if name == WHOLE else str(net["tile"])
    return [title, *_measured(net), f"{moved:.1f}", f"{moved * pixels:.1f}", f"{error * pixels:.2f}"]


def _source(name: str, net: Json) -> list[str]:
    return [SOURCES[name], *_measured(net)]


def _loss(columns: list[str], name: str, runs: list[Json]) -> list[str]:
    scores = [per_cent([run["metrics"].get(column) for run in runs]) for column in columns]
    return [spelled(name), str(len(runs)), f"{sum(run['cpu_seconds'] for run in runs) / 60:.1f}", *scores]


def spelled(name: str) -> str:
    return {"boundary": "boundary BCE alone"}.get(name, name.replace("-", ", "))
