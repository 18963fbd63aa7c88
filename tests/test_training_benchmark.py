"""What the loss costs in a training step: that what is measured is right, compared and shown. Nothing is timed here."""

from __future__ import annotations

import gc
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fastjsonschema
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

import inverseform_fast as iff
from benchmarks import bench_training
from inverseform_fast import cli, reference
from inverseform_fast.bench import measure, steps
from inverseform_fast.bench.measure import compare_losses, compare_steps, largest
from inverseform_fast.bench.memory import largest_batch, peak_bytes
from inverseform_fast.bench.report import bench, table
from inverseform_fast.bench.steps import PHASES, PROVIDERS, Loss, Setting, Step, batch

MIB = 2**20
CPU = torch.device("cpu")
TINY = Setting(crop=(64, 64), classes=5)


@pytest.fixture(scope="module", autouse=True)
def _imported_modules_are_no_garbage() -> Iterator[None]:
    """Each measurement collects garbage, which takes 0.2 s where all that is imported is searched for it."""
    gc.freeze()
    yield
    gc.unfreeze()


def allocate(mib: int) -> Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8)


def by_provider(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["provider"]: row for row in rows}


# Memory


def test_peak_is_the_most_that_is_held_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = allocate(100)

    def call() -> None:
        chain = [allocate(10)]
        for _ in range(3):
            chain.append(allocate(10))
        chain.clear()
        for _ in range(5):
            allocate(30)  # freed at once
        before.bitwise_not_()  # what was there before, and stays

    assert peak_bytes(call, CPU) == 40 * MIB
    assert peak_bytes(lambda: allocate(7), CPU) == 7 * MIB  # nothing is left of the call before
    assert peak_bytes(lambda: None, CPU) == 0
    assert capfd.readouterr() == ("", "")


@given(most=st.integers(0, 80), limit=st.integers(0, 70))
def test_largest_batch(most: int, limit: int) -> None:
    asked = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= most

    assert largest_batch(fits, limit) == max((n for n in range(1, limit + 1) if n <= most), default=0)
    assert len(asked) == len(set(asked)) <= 2 * math.log2(limit + 1) + 1
    assert all(1 <= number <= limit for number in asked)


def test_largest_batch_of_a_step_fits_and_the_next_does_not() -> None:
    def peak(batch_size: int) -> int:
        step = Step(replace(TINY, batch_size=batch_size), "stock")
        step.run()
        return peak_bytes(step.run, CPU)

    three, four = peak(3), peak(4)
    assert three < four
    assert largest(TINY, "stock", (three + four) // 2) == 3
    assert largest(TINY, "stock", peak(1) // 2) == 0
    assert largest(TINY, "stock", 2**40, at_most=2) == 2


def test_largest_batch_of_a_gpu_is_found_by_running_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(setting: Setting, provider: str) -> Any:
        if setting.batch_size > 5:
            raise torch.OutOfMemoryError
        return Step(replace(setting, device="cpu", batch_size=1), provider)

    monkeypatch.setattr(measure, "Step", step)
    monkeypatch.setattr(measure, "peak_bytes", lambda call, device: 10**15)
    assert largest(replace(TINY, device="cuda"), "stock") == 5
    with pytest.raises(ValueError, match="limit must be given in bytes"):
        largest(TINY, "stock")


# The batch and the step


@pytest.mark.parametrize(("classes", "crop"), [(1, (96, 160)), (5, (100, 150)), (150, (64, 320))])
def test_batch(classes: int, crop: tuple[int, int]) -> None:
    images, labels = batch(Setting(classes=classes, crop=crop, batch_size=10))
    assert (images.shape, images.dtype) == ((10, 3, *crop), torch.float32)
    assert (labels.shape, labels.dtype) == ((10, *crop), torch.int64)
    valid = labels[labels != 255]
    assert 0 <= valid.min() <= valid.max() < classes
    assert valid.unique().numel() >= min(classes, 5)
    assert 0 < (labels == 255).float().mean() < 0.1
    # Four scenes, again and again; the images are all different.
    assert torch.equal(labels[4:], labels[:6])
    assert all(not torch.equal(labels[a], labels[b]) for a in range(4) for b in range(a))
    assert not torch.equal(images[4], images[0])


@pytest.mark.parametrize("provider", ["stock", "release", "reference"])
def test_a_step_trains_the_whole_model(provider: str) -> None:
    step = Step(TINY, provider)
    before = {name: parameter.detach().clone() for name, parameter in step.model.named_parameters()}
    assert any("boundary" in name for name in before) == (provider != "stock")
    for _ in range(2):  # what a residual block starts with is zero, and passes no gradient
        step.run()
    after = dict(step.model.named_parameters())
    assert all(each.isfinite().all() and each.grad is None for each in after.values())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    optimized = {id(each) for group in step.optimizer.param_groups for each in group["params"]}
    assert optimized == {id(each) for each in after.values()}  # not the loss's network


def test_phases_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    step, events = Step(TINY, "reference"), []
    images = step.images
    step.images = SimpleNamespace(to=lambda *_, **__: events.append("data") or images)
    step.model.register_forward_hook(lambda *_: events.append("forward"))
    criterion = step.loss.criterion
    monkeypatch.setattr(step.loss, "criterion", lambda *args: events.append("loss") or criterion(*args))
    next(step.model.parameters()).register_post_accumulate_grad_hook(lambda _: events.append("backward"))
    step.optimizer.register_step_post_hook(lambda *_: events.append("update"))

    def clock() -> float:
        events.append("tick")
        return float(events.count("tick"))

    assert step.run(clock) == [1, 2, 3, 4, 5, 6]
    assert events == ["tick", *(each for phase in PHASES for each in (phase, "tick"))]


@pytest.mark.parametrize("headless", [False, True])
def test_only_the_release_has_a_boundary_head_nevertheless(headless: bool) -> None:
    setting = replace(TINY, headless=headless)
    heads = {name: Step(setting, name).model(torch.zeros(1, 3, 64, 64)).keys() for name in ("stock", "reference")}
    assert ("boundary" in heads["reference"]) == (not headless)
    assert "boundary" not in heads["stock"]
    assert Loss(setting, "release").head


def test_the_model_and_only_it_is_in_mixed_precision() -> None:
    step, seen = Step(replace(TINY, amp="bf16"), "reference"), []
    criterion = step.loss.criterion

    def looking(logits: Tensor, labels: Tensor, boundary: Tensor) -> Tensor:
        seen.extend((logits.dtype, boundary.dtype, torch.is_autocast_enabled("cpu")))
        return criterion(logits, labels, boundary)

    step.loss.criterion = looking
    step.run()
    assert seen == [torch.bfloat16, torch.bfloat16, False]


def test_out_of_memory_is_not_taken_for_a_provider_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loss, "_criterion", too_large)
    for rows in (compare_steps(TINY, ["stock"], 1), compare_losses(TINY, ["stock"], 1)):
        assert rows == [{"provider": "stock", "status": "out of memory"}]


# Providers side by side


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Tensor, ...]]:
    """What each provider's loss was last called with."""
    arguments: dict[str, tuple[Tensor, ...]] = {}
    make = Loss._criterion

    def criterion(self: Loss, device: torch.device) -> Callable[..., Tensor]:
        made = make(self, device)

        def call(*args: Tensor) -> Tensor:
            arguments[self.provider] = args
            return made(*args)

        return call

    monkeypatch.setattr(Loss, "_criterion", criterion)
    return arguments


def test_losses(monkeypatch: pytest.MonkeyPatch, seen: dict[str, tuple[Tensor, ...]]) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    rows = by_provider(compare_losses(TINY, list(PROVIDERS), rounds=2))
    assert list(rows) == list(PROVIDERS)
    assert "GPU" in rows.pop("fused")["status"]
    for name, row in rows.items():
        assert row["status"] == "measured", name
        assert row["ms"] > 0
        assert row["iqr_ms"] >= 0
        assert (row["targets_ms"] > 0) == (name == "release")
        assert row["peak_bytes"] >= sum(a.nbytes for a in seen[name] if a.requires_grad)  # their gradients
        assert all(a.grad is None for a in seen[name])  # or they would count as there before, the next time

    logits, labels, boundary_logits = seen["reference"]
    assert logits.shape == (1, 5, 16, 16)
    assert boundary_logits.shape == (1, 1, 16, 16)
    full = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
    inverseform = iff.InverseFormLoss()(boundary_logits, reference.boundary_map(labels)[:, None])
    total = F.cross_entropy(full, labels, ignore_index=255) + 0.3 * inverseform
    total = total + 10 * reference.boundary_loss(boundary_logits, labels)
    assert rows["reference"]["value"] == pytest.approx(total.item(), rel=1e-5)
    assert rows["compiled"]["value"] == pytest.approx(total.item(), rel=1e-5)

    stock, labels_of_stock = seen["stock"]
    assert rows["stock"]["value"] == pytest.approx(F.cross_entropy(full, labels, ignore_index=255).item(), rel=1e-5)
    assert torch.equal(stock, logits)
    assert all(torch.equal(a, b) for a, b in zip(seen["release"], (logits, labels, boundary_logits), strict=False))
    assert torch.equal(seen["release"][3], reference.boundary_map(labels, release=True))
    assert torch.equal(labels_of_stock, labels)


@pytest.mark.parametrize("factor", [2.0, 0.97, math.nan])
def test_a_wrong_value_is_told(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: lambda *args: factor * function(*args))
    rows = by_provider(compare_losses(TINY, ["stock", "compiled", "reference"], rounds=1))
    true = rows["reference"]["value"]
    assert rows["compiled"]["status"] == f"wrong: {factor * true:.6g}, the reference has {true:.6g}"
    assert rows["stock"]["status"] == rows["reference"]["status"] == "measured"


def test_steps() -> None:
    rows = by_provider(compare_steps(replace(TINY, batch_size=2, headless=True), ["stock", "fused", "reference"], 3))
    assert "GPU" in rows.pop("fused")["status"]
    assert list(rows) == ["stock", "reference"]
    for row in rows.values():
        assert row["status"] == "measured"
        assert tuple(row["phases_ms"]) == PHASES
        assert all(ms >= 0 for ms in row["phases_ms"].values())
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"])
    # A step holds its input at least, and our loss more than cross-entropy does.
    assert rows["reference"]["peak_bytes"] > rows["stock"]["peak_bytes"] > 2 * 3 * 64 * 64 * 4


def test_spread() -> None:
    assert measure.spread([0.004, 0.001, 0.002, 0.003, 0.1]) == pytest.approx({"ms": 3, "iqr_ms": 52 - 1.5})
    assert measure.spread([0.004]) == {"ms": 4, "iqr_ms": 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Setting(classes=0), "classes must be at least 1, got 0"),
        (lambda: Setting(batch_size=-1), "batch_size must be at least 1, got -1"),
        (lambda: Setting(crop=(64, -64)), r"crop must be a positive \(height, width\), got \(64, -64\)"),
        (lambda: Setting(amp="fp8"), "amp must be one of none, bf16, got 'fp8'"),
        (lambda: Loss(replace(TINY, resize=(224, 225)), "reference"), r"resize must be multiples .* got \(224, 225\)"),
        (lambda: bench(TINY, ["foo"]), "provider must be one of stock, release, .*fused, got 'foo'"),
        (lambda: bench(TINY, rounds=0), "rounds must be at least 1, got 0"),
        (lambda: bench(TINY, memory_gib=0), "memory_gib must be above 0, or 0 on a GPU, got 0 on device 'cpu'"),
        (lambda: bench(TINY, memory_gib=-1), "memory_gib must be above 0, .*got -1"),
        (lambda: bench(replace(TINY, device="warp")), "device must be one that this machine has, got 'warp'"),
        (lambda: bench(replace(TINY, backbone="resnet17"), ["stock"]), "resnet17"),
    ],
)
def test_errors_name_the_argument(monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], message: str) -> None:
    monkeypatch.setattr(Step, "run", lambda *_: pytest.fail("it was measured first"))
    with pytest.raises(ValueError, match=message):
        make()


# What is shown


def made_up(provider: str, factor: float, largest_batch: int | None = None) -> dict[str, Any]:
    times = {"ms": 100 * factor, "iqr_ms": 2 * factor}
    phases = {phase: (index + 1) * factor for index, phase in enumerate(PHASES)}
    step = {"phases_ms": phases, "images_per_second": 40 / factor, "peak_bytes": 300 * MIB}
    loss = {"peak_bytes": 77 * MIB, "targets_ms": 12.5 * factor, "value": 1.0}
    return {
        "provider": provider,
        "step": {"provider": provider, "status": "measured", **times, **step},
        "loss": {"provider": provider, "status": "measured", "ms": 33 * factor, "iqr_ms": 1.0, **loss},
        "largest_batch": largest_batch,
    }


def rendered(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The table's lines by their first cell; all else, of title and caption, under the empty name."""
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(table(replace(TINY, batch_size=3), rows))
    lines: dict[str, list[str]] = {"": []}
    for line in console.export_text().splitlines():
        cells = [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]
        if len(cells) > 1:
            lines[cells[0]] = cells[1:]
        else:
            lines[""] += cells
    return lines


def test_table() -> None:
    wrong = made_up("compiled", 1.0)
    wrong["loss"]["status"] = "wrong: 2, the reference has 1"
    absent = {"provider": "fused", "step": {"status": "no [red] GPU"}, "loss": {"status": "no GPU"}}
    lines = rendered([made_up("stock", 1.0, 8), made_up("reference", 2.0), wrong, absent])
    assert lines["stock"] == ["reference"]  # the head: whose columns they are
    expected = {
        "step, ms": ["100.0 ± 2.0", "200.0 ± 4.0"],
        "data": ["1.0", "2.0"],
        "update": ["5.0", "10.0"],
        "images/s": ["40.00", "20.00"],
        "step, MiB": ["300", "300"],
        "loss alone, ms": ["33.0 ± 1.0", "66.0 ± 1.0"],
        "its targets, ms": ["12.5", "25.0"],
        "loss alone, MiB": ["77", "77"],
        "largest batch": ["8", "-"],
    }
    assert {name: lines[name] for name in expected} == expected
    assert lines[""][0] == "test_resnet on cpu: 3 x 64x64, 5 classes"
    assert "compiled: wrong: 2, the reference has 1" in lines[""]
    assert "fused: no [red] GPU" in lines[""]


def test_command_line(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    arguments = "bench --crop 64 96 --classes 5 --batch-size 2 --rounds 1 --device cpu --memory-gib 0.004 --threads 1"
    providers = [word for name in ("stock", "reference", "fused") for word in ("--provider", name)]
    result = CliRunner().invoke(
        cli.app, [*arguments.split(), *providers, "--json", str(path)], env={"COLUMNS": "120"}, catch_exceptions=False
    )
    assert result.exit_code == 0
    written = json.loads(path.read_text())
    assert written["setting"]["crop"] == [64, 96]
    assert [row["provider"] for row in written["rows"]] == ["stock", "reference", "fused"]
    stock, ours, fused = written["rows"]
    for row in (stock, ours):
        for figure in (row["step"], row["loss"]):
            assert f"{figure['ms']:.1f} ± {figure['iqr_ms']:.1f}" in result.output
        assert f"{row['step']['images_per_second']:.2f}" in result.output
    assert "test_resnet on cpu: 2 x 64x96, 5 classes" in result.output
    assert f"fused: {fused['step']['status']}" in " ".join(result.output.split())
    assert stock["largest_batch"] > ours["largest_batch"] == 0
    assert fused["largest_batch"] is None


# The program


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[Any, list[str]]]:
    """Runs bench_training's main on a tiny plan: the file that it wrote, if any, and what it measured."""
    path, calls = tmp_path / "training.json", []
    plan = bench_training.Plan(
        settings={"512 x 1024": TINY, "headless": replace(TINY, headless=True)},
        scaled=TINY,
        batches=(1, 2),
        crops=((64, 64), (64, 96)),
        memory=4 * MIB,
        largest=TINY,
        slow=("reference",),
    )
    monkeypatch.setattr(bench_training, "CLASSES", (2, 5))
    monkeypatch.setattr(bench_training, "TILES", ((224, 224), (224, 448)))
    monkeypatch.setattr(bench_training, "PROVIDERS", ("stock", "reference"))
    monkeypatch.setattr(bench_training, "plan_of", lambda on_gpu: plan)
    for name in ("compare_losses", "compare_steps", "largest"):
        function = getattr(bench_training, name)

        def counted(setting: Setting, *args: Any, name: str = name, function: Any = function) -> Any:
            calls.append(f"{name} {setting} {args[0]}")
            return function(setting, *args)

        monkeypatch.setattr(bench_training, name, counted)

    def run(stop_after: float = math.inf) -> tuple[Any, list[str]]:
        calls.clear()
        saves, write = 0, bench_training.write_atomically

        def saved(*args: Any) -> None:
            nonlocal saves
            write(*args)
            saves += 1
            if saves >= stop_after:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(bench_training, "write_atomically", saved)
            patch.setattr(sys, "argv", ["bench_training", "--out", str(path), "--rounds", "1", "--threads", "1"])
            bench_training.main()
        return json.loads(path.read_text()), list(calls)

    run.path, run.calls = path, calls
    return run


def test_the_program_saves_each_figure_and_goes_on_where_it_was_stopped(
    program: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        program(stop_after=4)
    first, before = json.loads(program.path.read_text()), list(program.calls)
    fastjsonschema.validate(bench_training.SCHEMA, first)
    assert (len(first["steps"]), len(first["scaling"]), first["largest"]["batch"]) == (2, 2, {})

    result, after = program()
    fastjsonschema.validate(bench_training.SCHEMA, result)
    assert len(before) == 2 * 2 + 2
    assert len(after) == 2 * 4 - 2 + 1  # two points of each of the four axes, and the largest batch
    assert result["steps"] == first["steps"]
    assert result["scaling"][:2] == first["scaling"]
    assert [(point["axis"], point["x"]) for point in result["scaling"]] == [
        *(("images", 1), ("images", 2), ("megapixels", 0.004096), ("megapixels", 0.006144)),
        *(("classes", 2), ("classes", 5), ("tiles", 1), ("tiles", 2)),
    ]
    assert all(list(point["ms"]) == ["stock"] and point["ms"]["stock"] > 0 for point in result["scaling"])
    assert result["scaling"][-1]["setting"] == first["scaling"][0]["setting"] | {"resize": [224, 448]}
    rows = [row for step in result["steps"] for row in step["steps"] + step["losses"]]
    assert [row["provider"] for row in rows] == [*["stock", "reference"] * 2, "stock", "stock"]  # the slow one once
    assert {row["status"] for row in rows} == {"measured"}
    assert list(result["largest"]["batch"]) == ["stock"]  # not of the slow one
    assert result["largest"]["batch"]["stock"] == largest(TINY, "stock", 4 * MIB)
    assert "to the release's with its targets: not measured, asked 0.2" in capsys.readouterr().out

    again, nothing = program()
    assert nothing == []
    assert again == result


def test_what_breaks_is_recorded_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_compiler(function: Any) -> Any:
        def broken(*_: Any) -> Any:
            raise RuntimeError("no compiler\nmore")

        return broken

    monkeypatch.setattr(torch, "compile", without_compiler)
    monkeypatch.setattr(steps, "find_spec", lambda name: None)
    statuses = {row["provider"]: row["status"] for row in compare_losses(TINY, ["release", "compiled", "stock"], 1)}
    assert statuses == {
        "release": "cannot run here: its targets need SciPy: pip install 'inverseform-fast[bench]'",
        "compiled": "failed: RuntimeError: no compiler",
        "stock": "measured",
    }
    with pytest.raises(ValueError, match="backbone must be"):
        compare_steps(replace(TINY, backbone="nonsense"), ["stock"], 1)


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_fitted(noise: float) -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    ms = [5 + 0.25 * each + noise * sign for each, sign in zip(x, (1, -1, 1, -1), strict=True)]
    line = bench_training.fitted(x, ms)
    assert line["r2"] == pytest.approx(np.corrcoef(x, ms)[0, 1] ** 2)
    if not noise:
        assert line == pytest.approx({"fixed_ms": 5, "ms_per_unit": 0.25, "r2": 1})


def figures(bandwidth: float | None, **settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A result of settings, each of which has rows ``provider: figures`` for steps and losses alike."""
    rows = {
        name: [{"provider": provider, "status": "measured"} | row for provider, row in setting.items()]
        for name, setting in settings.items()
    }
    return {
        "machine": {"bandwidth_bytes_per_s": bandwidth},
        "steps": [{"name": name, "steps": each, "losses": each} for name, each in rows.items()],
    }


@pytest.mark.parametrize(
    ("ours", "found"),
    [
        ({"compiled": {"ms": 10.0}}, 0.1),
        ({"compiled": {"ms": 20.0}}, 0.2),  # as much as was asked is met
        ({"compiled": {"ms": 30.0}, "fused": {"status": "cannot run here"}}, 0.3),
        ({"compiled": {"ms": 30.0}, "fused": {"ms": 5.0}}, 0.05),
        ({"compiled": {"ms": 1.0, "status": "wrong: 1, the reference has 2"}}, None),
        ({}, None),
    ],
)
def test_goal_of_a_cpu(ours: dict[str, dict[str, Any]], found: float | None) -> None:
    result = figures(None, **{"512 x 1024": {"release": {"ms": 40.0, "targets_ms": 60.0}} | ours})
    goal, alone = bench_training.goals(result)
    assert goal["asked"] == alone["asked"] == 0.2
    assert alone["found"] == (found if found is None else pytest.approx(found * 100 / 40))
    assert goal["found"] == (found if found is None else pytest.approx(found))
    assert goal["met"] == (found is not None and found <= 0.2)


def test_goals_of_a_gpu() -> None:
    stock, fused = {"ms": 10.0, "peak_bytes": 400, "targets_ms": 0}, {"ms": 6.0, "peak_bytes": 100, "targets_ms": 0}
    rows = {"stock": stock, "fused": fused, "release": {"ms": 20.0, "peak_bytes": 900, "targets_ms": 1000.0}}
    other = {"stock": stock, "fused": fused | {"ms": 12.0}}

    def goals(**settings: dict[str, dict[str, Any]]) -> list[tuple[float, Any, bool]]:
        return [(g["asked"], g["found"], g["met"]) for g in bench_training.goals(figures(4e12, **settings))]

    own, to_release = (
        [(0.5, 0.6, False), (0.25, 0.25, True)],
        [(0.05, pytest.approx(6 / 1020), True), (0.05, 0.3, False)],
    )
    names = bench_training.plan_of(True).settings
    every = dict.fromkeys(names, rows)
    assert goals(**every) == [*own, (1.0, 0.6, True), *to_release]
    assert goals(**every | {"headless": other}) == [*own, (1.0, 1.2, False), *to_release]  # the slowest of all counts
    assert goals(hrnet_w18=rows) == [*own, (1.0, None, False), *to_release]  # the slowest is not known
    assert goals(headless=rows)[:2] == [(0.5, None, False), (0.25, None, False)]
    broken = rows | {"fused": {"status": "out of memory"}}
    assert goals(**dict.fromkeys(names, broken)) == [(asked, None, False) for asked in (0.5, 0.25, 1.0, 0.05, 0.05)]
    assert goals(**every | {"headless": broken}) == [*own, (1.0, None, False), *to_release]


def test_the_release_is_timed_by_its_median_image(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(steps.time, "perf_counter", lambda: float(next(now)))
    loss, labels = Loss(TINY, "release"), batch(replace(TINY, batch_size=2))[1]
    (targets,), seconds = loss.targets(labels)
    assert seconds == 2.0
    assert torch.equal(targets, steps.release.boundary_map(labels, classes=TINY.classes))
    assert Loss(TINY, "reference").targets(labels) == ([], 0.0)


def test_another_machine_or_other_rounds_need_another_file(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program()
    result = json.loads(program.path.read_text())
    program.path.write_text(json.dumps(result | {"rounds": 99}))
    with pytest.raises(SystemExit):
        program()
    assert json.loads(program.path.read_text())["rounds"] == 99


@pytest.mark.parametrize("on_gpu", [True, False])
def test_plan(on_gpu: bool) -> None:
    plan = bench_training.plan_of(on_gpu)
    settings = plan.settings.values()
    backbones = {setting.backbone for setting in settings}
    assert backbones >= ({"hrnet_w18", "hrnet_w48"} if on_gpu else {"hrnet_w18"})
    assert {setting.model for setting in settings} == {"pyramid", "segformer"}
    assert {setting.crop for setting in settings} >= {(512, 1024), (480, 480)} | ({(1024, 2048)} if on_gpu else set())
    assert {setting.classes for setting in settings} == {11, 19, 40, 150}
    assert {setting.headless for setting in settings} == {False, True}
    assert {setting.amp for setting in (*settings, plan.scaled)} == {"bf16" if on_gpu else "none"}
    assert {setting.device for setting in (*settings, plan.scaled)} == {"cuda" if on_gpu else "cpu"}
    assert (plan.memory is None) == on_gpu
    assert plan.scaled.headless is False

    base, changed = plan.scaled, {}
    for axis, x, setting in plan.scaling():  # one thing at a time
        changed.setdefault(axis, []).append(x)
        kept = {"images": "batch_size", "megapixels": "crop", "classes": "classes", "tiles": "resize"}[axis]
        assert replace(setting, **{kept: getattr(base, kept)}) == base
    assert list(changed) == ["images", "megapixels", "classes", "tiles"]
    assert all(len(x) >= 3 and x == sorted(set(x)) for x in changed.values())
    assert changed["classes"] == [11, 19, 40, 150]
