"""The whole loss runs few ops and holds little memory with Triton kernels, as traces of fake tensors show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from three_way import DEVICE, random, random_labels
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import inverseform_fast as iff
from inverseform_fast import ops
from inverseform_fast.nets import Align

needs_triton = pytest.mark.skipif(bool(ops.backend.MISSING["triton"]), reason="needs Triton")

N, C, H, W = 8, 19, 1024, 2048
SYNCS = ("aten._local_scalar_dense", "aten.item", "aten.nonzero", "aten.masked_select", "aten.equal", "aten.is_nonzero")


class Recorder(TorchDispatchMode):
    """A mode that records the names of all ops that run, except views, and the tensors that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        self.names += [] if op.is_view else [str(op)]
        self.made += [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        return result


@pytest.fixture(params=["a boundary head", "headless"])
def recorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Records forward and backward of the loss on logits at a quarter of the labels' resolution."""
    monkeypatch.setattr(
        ops.backend, "INTERPRETED", True
    )  # as if CPU tensors ran the kernels: the autograd engine needs that
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # labels on a GPU are not checked either
    criterion = iff.BoundaryAwareLoss(beta=10, gamma=0.3)
    with FakeTensorMode(allow_non_fake_inputs=True), iff.set_backend("triton"):
        logits = torch.empty(N, C, H // 4, W // 4, dtype=torch.bfloat16, requires_grad=True)
        head = torch.empty(N, 1, H // 4, W // 4, requires_grad=True)
        labels = torch.empty(N, H, W, dtype=torch.int64)
        with Recorder() as recorder:
            criterion(logits, labels, None if request.param == "headless" else head).total.backward()
    return recorder


@needs_triton
def test_every_pixel_op_is_one_kernel(recorded: Recorder) -> None:
    ours = {name.split(".")[1] for name in recorded.names if name.startswith("inverseform_fast.")}
    differentiable = {"segmentation_loss", "dice_loss", "boundary_f1_loss", "boundary_loss", "extract_tiles"}
    assert differentiable | {f"{name}_backward" for name in differentiable} | {"boundary_map"} <= ours


@needs_triton
def test_no_full_resolution_tensor_of_all_classes_is_made(recorded: Recorder) -> None:
    largest = max(recorded.made, key=lambda x: x.numel() if x.is_floating_point() else 0)
    assert largest.numel() < N * C * H * W / 4, f"{tuple(largest.shape)} {largest.dtype}"
    full = [x.shape for x in recorded.made if x.ndim == 4 and x.shape[2:] == (H, W)]
    assert all(shape[1] == 1 for shape in full)


@needs_triton
def test_nothing_is_read_back_to_the_host(recorded: Recorder) -> None:
    assert not [name for name in recorded.names if name.startswith(SYNCS)]


@pytest.mark.parametrize("headless", [False, True])
@pytest.mark.parametrize(
    ("backend", "runs"), [("reference", "aten.convolution.default"), ("auto", "inverseform_fast.align.default")]
)
def test_after_the_first_step_nothing_comes_from_the_host(backend: str, runs: str, headless: bool) -> None:
    """A constant made of Python's numbers would be copied from the host, and the copy would wait for the GPU."""
    names = names_of_the_second_step(backend, headless, gamma=0.3)
    assert runs in names
    assert "aten.lift_fresh.default" not in names


@pytest.mark.parametrize("headless", [False, True])
@pytest.mark.parametrize(("weights", "most"), [({}, 60), ({"gamma": 0.3, "edge": 0, "dice": 0, "f1": 0}, 100)])
def test_a_step_is_few_ops(weights: dict[str, Any], most: int, headless: bool) -> None:
    """A fast GPU waits for the host to dispatch a step's ops, so there must be few of them."""
    names = names_of_the_second_step("auto", headless, **weights)
    assert ("inverseform_fast.align_backward.default" in names) == bool(weights)
    assert len(names) <= most
    assert "aten.zeros.default" not in names  # gradients of what only backward reads


def names_of_the_second_step(backend: str, headless: bool, **weights: Any) -> list[str]:
    """Returns the names of the ops of a second step, except views."""
    if backend == "auto" and ops.backend.MISSING["cpu"]:
        pytest.skip("the extension is not built")
    small = iff.InverseFormLoss(net=Align(tile=32), distance="log")
    criterion = iff.BoundaryAwareLoss(inverseform=small, **weights)
    logits, head = torch.randn(1, 4, 8, 16, requires_grad=True), torch.randn(1, 1, 8, 16, requires_grad=True)
    labels = torch.randint(4, (1, 32, 64))
    with iff.set_backend(backend):
        for _ in range(2):
            with Recorder() as recorder:
                criterion(logits, labels, None if headless else head).total.backward()
    return recorder.names


@pytest.mark.kernel
@pytest.mark.parametrize("headless", [False, True])
def test_the_whole_loss_equals_the_reference(headless: bool) -> None:
    small = iff.InverseFormLoss(net=Align(tile=32))  # two tiles of 224 would take the interpreter a minute
    criterion = iff.BoundaryAwareLoss(gamma=0.3, inverseform=small).to(DEVICE)
    logits, head = random(1, 4, 8, 16).requires_grad_(), random(1, 1, 8, 16).requires_grad_()
    inputs = (logits, random_labels(4, 1, 32, 64), *(() if headless else (head,)))
    ours = terms_and_gradients(criterion, inputs)
    with iff.set_backend("reference"):
        expected = terms_and_gradients(criterion, inputs)
    for mine, theirs in zip(ours, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-3 * theirs.norm()


def terms_and_gradients(criterion: iff.BoundaryAwareLoss, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    terms = criterion(*inputs)
    return [*terms, *torch.autograd.grad(terms.total, inputs[::2])]
