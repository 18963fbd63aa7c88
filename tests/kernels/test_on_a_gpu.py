"""Only a GPU can show that nothing waits for it, and that CUDA graphs, little memory and huge tensors work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from three_way import random_labels
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional, homography
from inverseform_fast.nets import Align

pytestmark = [pytest.mark.gpu, pytest.mark.triton]

N, C, H, W = 2, 19, 256, 512


def some_logits(channels: int, scale: int = 4) -> Tensor:
    return torch.randn(N, channels, H // scale, W // scale, device="cuda", requires_grad=True)


def some_labels() -> Tensor:
    return random_labels(C, N, H, W)


def some_tiles(count: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Draws predicted and true boundaries, which need no gradient; returns also the shipped network's weights."""
    net = iff.InverseTransformNet.compact().requires_grad_(False).cuda()
    assert isinstance(net, Align)
    target = (functional.boundary_map(random_labels(5, count, 224, 224, void=0))[:, None] == 1).float()
    theta = homography.exp(0.05 * torch.randn(count, 8)).to(target.device)
    predicted = functional.homography_warp(target, theta).clamp(0.02, 0.98)
    return predicted.requires_grad_(), target, net.weights


STEPS: dict[str, Callable[[], Callable[[], Tensor]]] = {}


def step(make: Callable[[], Callable[[], Tensor]]) -> Callable[[], Callable[[], Tensor]]:
    STEPS[make.__name__] = make
    return make


@step
def segmentation_loss() -> Callable[[], Tensor]:
    logits, labels = some_logits(C), some_labels()
    return lambda: torch.autograd.grad(functional.segmentation_loss(logits, labels), logits)[0]


@step
def dice_loss() -> Callable[[], Tensor]:
    logits, labels = some_logits(C), some_labels()
    return lambda: torch.autograd.grad(functional.dice_loss(logits, labels), logits)[0]


@step
def boundary_f1_loss() -> Callable[[], Tensor]:
    logits, labels = some_logits(C), some_labels()
    return lambda: torch.autograd.grad(functional.boundary_f1_loss(logits, labels), logits)[0]


@step
def boundary_loss() -> Callable[[], Tensor]:
    logits, labels = some_logits(1), some_labels()
    return lambda: torch.autograd.grad(functional.boundary_loss(logits, labels), logits)[0]


@step
def boundary_map() -> Callable[[], Tensor]:
    labels = some_labels()
    return lambda: functional.boundary_map(labels)


@step
def soft_boundary_map() -> Callable[[], Tensor]:
    logits = some_logits(C)
    return lambda: torch.autograd.grad(functional.soft_boundary_map(logits, (H, W)).sum(), logits)[0]


@step
def extract_tiles() -> Callable[[], Tensor]:
    logits, target = some_logits(1), functional.boundary_map(some_labels())[:, None]
    return lambda: torch.autograd.grad(functional.extract_tiles(logits, target, (224, 448))[0].sum(), logits)[0]


@step
def align() -> Callable[[], Tensor]:
    predicted, target, weights = some_tiles(3)
    return lambda: torch.autograd.grad(functional.align(predicted, target, weights).square().sum(), predicted)[0]


@step
def homography_exp() -> Callable[[], Tensor]:
    a = (0.1 * torch.randn(N, 4, 8)).cuda().requires_grad_()
    return lambda: torch.autograd.grad(functional.homography_exp(a).square().sum(), a)[0]


@step
def homography_warp() -> Callable[[], Tensor]:
    image, theta = some_logits(3, 1), homography.exp(0.1 * torch.randn(N, 4, 8)).cuda().requires_grad_()
    return lambda: torch.cat(
        [g.flatten() for g in torch.autograd.grad(functional.homography_warp(image, theta).sum(), (image, theta))]
    )


@step
def whole_loss() -> Callable[[], Tensor]:
    criterion = iff.BoundaryAwareLoss(gamma=0.3).cuda()
    logits, head, labels = some_logits(C), some_logits(1), some_labels()
    return lambda: torch.autograd.grad(criterion(logits, labels, head).total, logits)[0]


@step
def whole_loss_headless() -> Callable[[], Tensor]:
    criterion = iff.BoundaryAwareLoss(gamma=0.3).cuda()
    logits, labels = some_logits(C), some_labels()
    return lambda: torch.autograd.grad(criterion(logits, labels).total, logits)[0]


steps = pytest.mark.parametrize("name", STEPS)


@steps
def test_nothing_waits_for_the_gpu(name: str) -> None:
    run = STEPS[name]()
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@steps
def test_a_cuda_graph_replays_it(name: str) -> None:
    run = STEPS[name]()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    result.zero_()
    graph.replay()
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("has_head", [False, True], ids=["headless", "head"])
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_the_criterion_becomes_a_graphed_callable(gamma: float, has_head: bool) -> None:
    def some_inputs() -> tuple[Tensor, ...]:
        return some_logits(C), some_labels(), *([some_logits(1)] if has_head else [])

    def run(criterion: Callable[..., Any], *inputs: Tensor) -> list[Tensor]:
        terms = criterion(*inputs)
        gradients = torch.autograd.grad(terms.total, [x for x in inputs if x.requires_grad])
        return [x.detach().clone() for x in (*terms, *gradients)]

    eager, captured = (iff.BoundaryAwareLoss(gamma=gamma).cuda() for _ in range(2))
    graphed = torch.cuda.make_graphed_callables(captured, some_inputs())
    for _ in range(2):
        inputs = some_inputs()
        torch.testing.assert_close(run(graphed, *inputs), run(eager, *inputs), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["segmentation_loss", "dice_loss", "boundary_f1_loss", "boundary_loss", "soft_boundary_map"]
)
def test_memory_stays_far_below_the_full_resolution(name: str) -> None:
    run = STEPS[name]()
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    full = 4 * N * C * H * W
    assert torch.cuda.max_memory_allocated() - before < full / 2


def test_more_than_two_to_the_31_elements() -> None:
    labels = torch.zeros(3, 32000, 32000, dtype=torch.uint8, device="cuda")
    labels[2, 31000:, 100:] = 1
    result = functional.boundary_map(labels)
    assert result[2, 30998:31002, 50:200].equal(
        functional.boundary_map(labels[2:, 30900:31100, :300].clone())[0, 98:102, 50:200]
    )
    assert result.count_nonzero() > 4 * 31000
    logits = torch.zeros(3, 1, 100, 100, device="cuda", requires_grad=True)
    loss = functional.boundary_loss(logits, labels)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient[2].any()


def test_a_batch_of_logits_of_more_than_two_to_the_31_elements() -> None:
    logits = torch.zeros(9, 256, 1024, 1024, dtype=torch.bfloat16, device="cuda")
    labels = torch.zeros(9, 1024, 1024, dtype=torch.uint8, device="cuda")
    logits[8, 0] = 10
    last = functional.segmentation_loss(logits[8:], labels[8:])
    expected = (8 * torch.log(torch.tensor(256.0)) + last.cpu()) / 9
    torch.testing.assert_close(functional.segmentation_loss(logits, labels).cpu(), expected, rtol=1e-4, atol=1e-4)


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="labels must be on the device of logits, cuda:0, got cpu"):
        functional.segmentation_loss(some_logits(C), some_labels().cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_tensors_device_runs_it_not_the_current_one() -> None:
    labels = some_labels()
    assert functional.boundary_map(labels.to("cuda:1")).cpu().equal(functional.boundary_map(labels).cpu())


def test_tensor_float_32_moves_no_estimate_that_matters() -> None:
    """``tests/test_align.py`` shows on a CPU that operands which are cut, not rounded, would exceed the bound."""
    predicted, target, weights = some_tiles(8)

    def run(allow_tf32: bool) -> tuple[Tensor, Tensor]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=allow_tf32):
            found = functional.align(predicted, target, weights)
            return found.detach() * 112, torch.autograd.grad(found.norm(dim=1).sum(), predicted)[0].flatten(1)

    (rounded, rounded_slope), (exact, slope) = run(True), run(False)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm(dim=1).max() < 0.01
    assert torch.cosine_similarity(rounded_slope, slope).min() > 0.999
