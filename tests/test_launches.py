"""The launch book is right, the committed one is current, and steps after the first neither compile nor wait."""

from __future__ import annotations

import json
from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor

from inverseform_fast import BoundaryAwareLoss, LabelAligner, functional
from inverseform_fast.losses import LossTerms
from inverseform_fast.ops.backend import MISSING

if MISSING["triton"]:
    pytest.skip(MISSING["triton"], allow_module_level=True)

from benchmarks import launches
from benchmarks.common import results
from benchmarks.compiled.steps import Size, make_step
from benchmarks.launches import CASES, FIRST, SIZES, Book, gpu
from benchmarks.pages.launches import compile_table

COMMITTED = results.read(launches.RESULTS)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_a_step_launches_and_compiles_what_the_book_says(case: str, size: Size) -> None:
    (committed,) = (book for book in COMMITTED["books"] if (book["case"], book["size"]) == (case, str(size)))
    found = json.loads(json.dumps(launches.book_of(CASES[case], size)))
    assert {"case": case, "size": str(size), **found} == committed, f"run {launches.COMMAND}"


def book_of(step: Callable[[], object]) -> Book:
    with gpu() as device:
        return device.write(step)


def test_launches_are_those_of_the_kernels_with_their_grids() -> None:
    labels = torch.empty(3, 40, 300, dtype=torch.uint8, device="meta")
    book = book_of(lambda: functional.boundary_map(labels))
    assert [grid for _, grid in book.launches] == [(3 * 2 * 3, 1, 1)]  # blocks of 32 x 128 pixels
    assert book.launched() == {"boundary_map_sliding_window": 1}
    assert [name for name, _ in book.compiled] == ["boundary_map_sliding_window"]
    assert (book.aten, book.buffers) == ([], [labels.numel()])


def test_views_and_buffers_launch_nothing() -> None:
    x = torch.empty(4, 6, device="meta")
    book = book_of(lambda: (x.T[1:].reshape(5, 4).detach().contiguous(), x.new_empty(3), x.new_zeros(0)))
    assert book.aten == ["clone"]  # of contiguous()
    assert book.buffers == [3 * x.itemsize]
    book = book_of(lambda: x.add_(1).view(24).mean())
    assert book.aten == ["add_", "mean"]


def test_a_kernel_is_compiled_once_on_each_gpu() -> None:
    labels = torch.empty(2, 32, 32, dtype=torch.uint8, device="meta")
    with gpu() as device:
        books = [device.write(lambda: functional.boundary_map(labels)) for _ in range(2)]
    assert [len(book.compiled) for book in books] == [1, 0]
    assert len(book_of(lambda: functional.boundary_map(labels)).compiled) == 1


IN_A_STEP: dict[str, Callable[[Tensor], object]] = {
    "make a tensor on the CPU": lambda x: torch.zeros(3),
    "copy numbers to the GPU": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "copy a number to the GPU": lambda x: x.new_tensor(1.0),
    "copy an index to the GPU": lambda x: x[[0, 2]],
    "reserve memory on the CPU": lambda x: torch.empty_like(x, device="cpu"),
}
READ_BACK: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "bool": lambda x: bool(x.any()),
    "nonzero": lambda x: x.nonzero(),
    "index by a mask": lambda x: x[x > 0],
}


@pytest.mark.parametrize("name", IN_A_STEP)
def test_tensors_on_the_host_are_seen(name: str) -> None:
    x = torch.empty(3, device="meta")
    assert book_of(lambda: IN_A_STEP[name](x)).host
    assert not book_of(lambda: x + 1).host


@pytest.mark.parametrize("name", READ_BACK)
def test_reading_a_value_back_is_an_error(name: str) -> None:
    x = torch.empty(3, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        book_of(lambda: READ_BACK[name](x))


@pytest.mark.parametrize("case", CASES)
def test_after_the_first_step_nothing_waits_for_the_host(case: str) -> None:
    """So a CUDA graph can capture a step: it compiles nothing, makes no tensor on the CPU and reads nothing back."""
    step = make_step(CASES[case], FIRST)
    with gpu() as device:
        first, second = device.write(step), device.write(step)
    assert first.compiled
    assert (second.compiled, second.host) == ([], [])
    assert second.launched() == first.launched()


@pytest.mark.parametrize("case", CASES)
def test_steps_of_other_sizes_compile_next_to_nothing(case: str) -> None:
    compiled = launches.compiled_later(CASES[case])
    assert compiled == COMMITTED["compiled_later"][case], f"run {launches.COMMAND}"
    assert len(compiled) == 10
    found = {size: kernels for size, kernels in compiled.items() if kernels}
    headless = {"8 x 375 x 1242": ["soft_boundary_map", "soft_boundary_map_backward"]}  # rows that are not aligned
    assert (
        found
        == {
            "default, headless": {},
            "paper, with a head": {},
            "paper, headless": headless | {"1 x 224 x 448": ["extract_tiles_backward"]},  # of a map that is not resized
        }[case]
    )


def test_the_aligner_launches_a_handful_and_waits_for_nothing() -> None:
    aligner = LabelAligner()
    logits, labels = torch.zeros(8, 19, 128, 256, device="meta"), torch.zeros(8, 512, 1024).long().to("meta")
    with gpu() as device:
        device.write(lambda: aligner(logits, labels))  # it makes constants
        book = device.write(lambda: aligner(logits, labels))
    assert len(book.launches) == 9
    assert len(book.aten) == 18
    assert not book.host


@pytest.mark.parametrize("case", CASES)
def test_make_graphed_callables_takes_the_criterion(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's own code, where capturing runs the step and replaying does nothing: so its first outputs stay."""
    for name in ("CUDAGraph", "Stream", "graph", "graph_pool_handle", "stream", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda.graphs, "graph_pool_handle", MagicMock())
    weights, has_head, *_ = CASES[case]
    logits = [torch.randn(2, channels, 16, 16, requires_grad=True) for channels in ((4, 1) if has_head else (4,))]
    inputs = (logits[0], torch.randint(4, (2, 64, 64)), *logits[1:])
    graphed = torch.cuda.make_graphed_callables(BoundaryAwareLoss(**weights), inputs)
    terms = graphed(*inputs)
    assert isinstance(terms, LossTerms)
    torch.testing.assert_close(tuple(terms), tuple(BoundaryAwareLoss(**weights)(*inputs)))
    gradients = torch.autograd.grad(terms.total, logits)
    assert [gradient.shape for gradient in gradients] == [each.shape for each in logits]


def test_the_page_says_whether_a_first_step_compiles_quickly_enough() -> None:
    seconds = {"of one": {"a": [3.0, 2.0], "b": [2.9]}, "of another": {"a": [3.0]}}
    text = compile_table({"compile_cpu_s": seconds})
    assert "(of one: 3 kernels in 7.9 s; of another: 1 kernels in 3.0 s)" in text
    assert "at most 8 s, which all of these meet." in text
    seconds["of another"]["b"] = [5.1]
    assert "at most 8 s, which not all of these meet." in compile_table({"compile_cpu_s": seconds})
