"""inverseform_fast.bench measures the right things of a training step and compares them; nothing is timed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import reference
from inverseform_fast.bench import measure, release, steps
from inverseform_fast.bench.measure import LossRow, StepRow, compare_losses, compare_steps, largest
from inverseform_fast.bench.memory import largest_batch, peak_bytes
from inverseform_fast.bench.report import bench
from inverseform_fast.bench.setting import PROVIDERS, Setting
from inverseform_fast.bench.steps import PHASES, Loss, Step, batch
from inverseform_fast.bench.timing import spread

MIB = 2**20
Row = TypeVar("Row", StepRow, LossRow)
pytestmark = pytest.mark.usefixtures("quick_garbage_collection")
CPU = torch.device("cpu")
TINY = Setting(crop=(64, 64), classes=5)


@pytest.fixture(scope="module", autouse=True)
def _small_release() -> Iterator[None]:
    """Small tiles give the release's network two million parameters in place of 100 million."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "TILE", 32)
        patch.setattr(release, "SIZE", (96, 192))
        yield


@pytest.fixture
def _no_memory_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not measured here, because the profiler takes longer than all else of a small step."""
    monkeypatch.setattr(measure, "peak_bytes", lambda call, device: 0)


def allocate(mib: int) -> Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8)


def by_provider(rows: list[Row]) -> dict[str, Row]:
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
    assert largest(TINY, "stock", 0, at_most=1) == 0


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
def test_the_batch_is_what_the_setting_says(classes: int, crop: tuple[int, int]) -> None:
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
    assert all(parameter.isfinite().all() and parameter.grad is None for parameter in after.values())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    optimized = {id(parameter) for group in step.optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in after.values()}  # not the loss's network


def test_phases_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step(TINY, "reference")
    events: list[str] = []

    def noting(event: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            events.append(event)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(step, "images", SimpleNamespace(to=noting("data", step.images.to)))
    step.model.register_forward_hook(lambda *_: events.append("forward"))
    monkeypatch.setattr(step.loss, "criterion", noting("loss", step.loss.criterion))
    next(step.model.parameters()).register_post_accumulate_grad_hook(lambda _: events.append("backward"))
    step.optimizer.register_step_post_hook(lambda *_: events.append("update"))

    def clock() -> float:
        events.append("tick")
        return float(events.count("tick"))

    assert step.run(clock) == [1, 2, 3, 4, 5, 6]
    assert events == ["tick", *(event for phase in PHASES for event in (phase, "tick"))]


@pytest.mark.parametrize("headless", [False, True])
def test_only_the_release_has_a_boundary_head_nevertheless(headless: bool) -> None:
    setting = replace(TINY, headless=headless)
    inputs = {"image": torch.zeros(1, 3, 64, 64)}
    heads = {name: Step(setting, name).model(inputs).keys() for name in ("stock", "reference")}
    assert ("boundary" in heads["reference"]) == (not headless)
    assert "boundary" not in heads["stock"]
    assert Loss(setting, "release").head


def test_the_model_and_only_it_is_in_mixed_precision() -> None:
    step = Step(replace(TINY, amp="bf16"), "reference")
    seen: list[torch.dtype | bool] = []
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
    """The arguments that each provider's loss was last called with."""
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


def test_the_losses_are_measured_on_the_same_input_and_agree(
    monkeypatch: pytest.MonkeyPatch, seen: dict[str, tuple[Tensor, ...]]
) -> None:
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


@pytest.mark.usefixtures("_no_memory_meter")
@pytest.mark.parametrize("factor", [2.0, 0.97, math.nan])
def test_a_wrong_value_is_told(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: lambda *args: factor * function(*args))
    rows = by_provider(compare_losses(TINY, ["stock", "compiled", "reference"], rounds=1))
    true = rows["reference"]["value"]
    assert rows["compiled"]["status"] == f"wrong: {factor * true:.6g}, the reference has {true:.6g}"
    assert rows["stock"]["status"] == rows["reference"]["status"] == "measured"


def test_a_measured_step_has_phases_speed_and_memory() -> None:
    rows = by_provider(compare_steps(replace(TINY, batch_size=2, headless=True), ["stock", "fused", "reference"], 3))
    assert list(rows) == ["stock", "fused", "reference"]
    for row in rows.values():
        assert row["status"] == "measured"
        assert tuple(row["phases_ms"]) == PHASES
        assert all(ms >= 0 for ms in row["phases_ms"].values())
        assert row["images_per_second"] == pytest.approx(2000 / row["ms"])
    # A step holds its input at least, and our loss more than cross-entropy does.
    assert rows["reference"]["peak_bytes"] > rows["stock"]["peak_bytes"] > 2 * 3 * 64 * 64 * 4


def test_the_spread_is_median_and_interquartile_range() -> None:
    assert spread([0.004, 0.001, 0.002, 0.003, 0.1]) == pytest.approx((0.003, 0.052 - 0.0015))
    assert spread([0.004]) == (0.004, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Setting(classes=0), "classes must be positive, got 0"),
        (lambda: Setting(batch_size=-1), "batch_size must be positive, got -1"),
        (lambda: Setting(crop=(64, -64)), r"crop must be two positive numbers, got \(64, -64\)"),
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
def test_a_bad_argument_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object], message: str
) -> None:
    monkeypatch.setattr(Step, "run", lambda *_: pytest.fail("it was measured first"))
    with pytest.raises(ValueError, match=message):
        make()


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
