"""Names that users chose are shown as they are, in Markdown, on the terminal and in pictures."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console
from training_runs import run, tiny_config

from inverseform_fast.bench import report as bench_report
from inverseform_fast.bench.setting import Setting
from inverseform_fast.segmentation import label_report, report
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.label_report import Shift, write_label_report
from inverseform_fast.segmentation.markup import markdown, printable, terminal
from inverseform_fast.segmentation.moved_labels import MovedLabels, draw_moved
from inverseform_fast.segmentation.report import Row, comparison_table, draw_rows, write_report
from inverseform_fast.segmentation.tasks import SemanticTask

NAMES = (
    "[/red]",
    "[bold]x",
    ":car:",
    "<script>alert(1)</script>",
    "a|b",
    r"$\frac{1}{$",
    "$x$ & $y$",
    "_background_",
    "**b** ~~c~~ `d`",
    "[a](http://b) ![c](d)",
    r"C:\new|\|",
    "&lt;&#36;",
    "# h #",
    "street_001",
)
TASK = SemanticTask(classes=NAMES)


def cells(text: str) -> list[list[str]]:
    """Returns the cells of a page's tables as a reader sees them; nothing in them is markup."""
    rows: list[list[str]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        inside = token.type == "tr_open" or (inside and token.type != "tr_close")
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and inside:
            parts = token.children or []
            assert all(part.type in ("text", "text_special") for part in parts), token.content
            rows[-1].append("".join(part.content for part in parts))
    return rows


def on_the_terminal(shown: object) -> str:
    file = io.StringIO()
    Console(file=file, width=300).print(shown)
    return file.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is(name: str) -> None:
    assert cells(f"| {markdown(name)} | b |\n|---|---|\n| {markdown(name)} | c |\n") == [[name, "b"], [name, "c"]]
    assert on_the_terminal(terminal(name)) == name + "\n"


def test_what_cannot_be_printed_gets_an_escape_and_stays_in_its_line() -> None:
    assert printable("a\nb\x1b[31m\udce4ä中") == r"a\nb\x1b[31m\udce4ä中"
    line = markdown("a\nb")
    assert cells(f"| {line} | b |\n|---|---|\n") == [[r"a\nb", "b"]]
    assert markdown("street_001/a.png") == "street_001/a.png"


def test_tables_for_the_terminal_show_names_as_they_are() -> None:
    runs = {name: {"miou": 0.5} for name in NAMES}
    text = on_the_terminal(comparison_table(runs, ["miou"], {"semantic": TASK}, "[/red] title"))
    assert all(f" {name} " in text for name in NAMES)
    assert "[/red] title" in text
    assert "[/x]" in on_the_terminal(bench_report.table(Setting(backbone="[/x]"), []))


def test_the_report_of_a_run_shows_names_and_paths_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "predict_rows", lambda *_: [])
    monkeypatch.setattr(report, "draw_rows", lambda *_: None)
    config = TrainConfig(root="d|[x](y)", out="_o_", data_options={"label_map": "0:0|"})
    metrics = {"miou": 0.5} | {f"iou/{name}": 0.25 for name in NAMES}
    tasks, dataset = {"semantic": TASK}, Scenes("val", length=1)
    write_report(tmp_path, config, torch.nn.Module(), dataset, tasks, metrics)  # type: ignore[arg-type]
    rows = cells((tmp_path / "report.md").read_text())
    assert [["IoU " + name, "25.0"] for name in NAMES] == [row for row in rows if row[0].startswith("IoU")]
    assert [row for row in rows if row[0] in ("root", "out")] == [["root", "d|[x](y)"], ["out", "_o_"]]
    assert ["data_options", "{'label_map': '0:0|'}"] in rows


def test_the_report_on_labels_shows_names_as_they_are(tmp_path: Path) -> None:
    shifts = [Shift(name, name, 1.0, 1.0, 1.0, 0.5, 0.5, name != "a|b") for name in (*NAMES, "\udce4")]
    write_label_report(tmp_path, "folder, train", "the model of [x](y)", shifts, [], TASK)
    text = (tmp_path / "report.md").read_text()
    assert [row[0] for row in cells(text)[1:]] == [*NAMES, r"\udce4"]
    assert "by the model of \\[x](y)." in text
    assert len(json.loads((tmp_path / "report.json").read_text())) == len(shifts)


def texts(figure: Figure) -> set[str]:
    return {artist.get_text() for artist in figure.findobj(Text) if isinstance(artist, Text)}


def test_pictures_show_names_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    savefig = Figure.savefig

    def save(self: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(self)
        savefig(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    image, labels = torch.zeros(3, 20, 30, dtype=torch.uint8), torch.zeros(20, 30, dtype=torch.int64)
    rows = [Row(image, {"semantic": labels}, {NAMES[5]: {"semantic": labels}})]
    draw_rows(tmp_path / "rows.png", rows, {"semantic": TASK}, NAMES[5])
    assert set(NAMES) <= texts(drawn[0])
    moved = draw_moved([MovedLabels(NAMES[5], image, labels, labels, torch.zeros(2, 20, 30))], TASK)
    moved.savefig(tmp_path / "moved.png")
    assert NAMES[5] in texts(moved)
    long = SemanticTask(classes=("x" * 500, "y"))
    draw_rows(tmp_path / "long.png", [Row(image, {"semantic": labels}, {})], {"semantic": long}, "title")
    assert "x" * 37 + "..." in texts(drawn[-1])


def test_a_picture_that_fails_loses_no_report(
    tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no font for <x>")

    monkeypatch.setattr(report, "draw_rows", fail)
    config = tiny_config(tmp_path, net, steps=1, loss="ce", boundary_head=False)
    with caplog.at_level(logging.WARNING, "inverseform_fast"):
        run(config)
    text = (Path(config.out) / "report.md").read_text()
    assert "predictions.png could not be drawn: RuntimeError: no font for &lt;x&gt;\n" in text
    assert "| mIoU |" in text
    assert "could not be drawn" in caplog.text
    monkeypatch.setattr(label_report, "draw_moved", fail)
    moved = MovedLabels("a", *torch.zeros(4, 1))
    write_label_report(tmp_path, "", "", [Shift("a", "a", 1.0, 1.0, 1.0, 0.5, 0.5, True)], [moved], TASK)
    assert "worst.png could not be drawn: RuntimeError" in (tmp_path / "report.md").read_text()
    assert cells((tmp_path / "report.md").read_text())[1][0] == "a"
