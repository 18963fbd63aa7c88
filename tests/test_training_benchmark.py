"""What the loss costs in a training step: that what is measured is right, compared and shown. Nothing is timed here."""

from __future__ import annotations

import gc
import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

import inverseform_fast as iff
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
    inputs = {"image": torch.zeros(1, 3, 64, 64)}
    heads = {name: Step(setting, name).model(inputs).keys() for name in ("stock", "reference")}
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
    for ours in ("compiled", "fused"):
        assert rows[ours]["value"] == pytest.approx(total.item(), rel=1e-5)

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
    assert list(rows) == ["stock", "fused", "reference"]
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
    for row in (stock, ours, fused):
        for figure in (row["step"], row["loss"]):
            assert f"{figure['ms']:.1f} ± {figure['iqr_ms']:.1f}" in result.output
        assert f"{row['step']['images_per_second']:.2f}" in result.output
    assert "test_resnet on cpu: 2 x 64x96, 5 classes" in result.output
    assert stock["largest_batch"] > ours["largest_batch"] == 0
    assert fused["largest_batch"] > 0


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


def test_the_release_is_timed_by_its_median_image(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(100))
    monkeypatch.setattr(steps.time, "perf_counter", lambda: float(next(now)))
    loss, labels = Loss(TINY, "release"), batch(replace(TINY, batch_size=2))[1]
    (targets,), seconds = loss.targets(labels)
    assert seconds == 2.0
    assert torch.equal(targets, steps.release.boundary_map(labels, classes=TINY.classes))
    assert Loss(TINY, "reference").targets(labels) == ([], 0.0)
