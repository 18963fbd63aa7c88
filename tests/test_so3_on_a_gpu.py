"""Only a GPU can show that so3 never waits for it, and works with CUDA graphs, streams and very many matrices."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional, reference

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def on_cuda() -> Iterator[None]:
    torch.manual_seed(0)
    with iff.set_backend("cuda"):
        yield


def matrices(n: int, noise: float = 0.2) -> Tensor:
    return torch.eye(3, device="cuda") + noise * torch.randn(n, 3, 3, device="cuda")


def step(theta: Tensor, theta_hat: Tensor) -> Tensor:
    distance = functional.geodesic_distance(theta, theta_hat, normalize="frobenius", damping=1e-3)
    gradients = torch.autograd.grad(distance.sum(), (theta, theta_hat))
    projection = functional.project_to_so3(theta_hat)
    return torch.cat((*gradients, projection, torch.autograd.grad(projection[:, 0, 1].sum(), theta_hat)[0]))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return matrices(1000).requires_grad_(), matrices(1000).requires_grad_()


def test_nothing_waits_for_the_gpu(pair: tuple[Tensor, Tensor]) -> None:
    step(*pair)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*pair)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cuda_graph_replays_it(pair: tuple[Tensor, Tensor]) -> None:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(*pair)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step(*pair)
    with torch.no_grad():
        pair[1].copy_(matrices(1000))
    graph.replay()
    assert result.equal(step(*pair))


def test_it_runs_in_the_order_of_the_current_stream() -> None:
    m, later = torch.zeros(1000, 3, 3, device="cuda"), matrices(1000)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**8)
        m.copy_(later)
        projection = functional.project_to_so3(m)
    torch.cuda.synchronize()
    assert projection.equal(functional.project_to_so3(later))


@pytest.mark.parametrize("n", [1, 31, 32, 33, 127, 128, 129, 10**5, 10**7])
def test_any_number_of_matrices(n: int) -> None:
    theta, theta_hat = matrices(n), matrices(n)
    whole = functional.geodesic_distance(theta, theta_hat)
    assert whole.isfinite().all()
    last = functional.geodesic_distance(theta[-40:], theta_hat[-40:])
    torch.testing.assert_close(whole[-40:], last, rtol=1e-5, atol=1e-6)
    expected = reference.geodesic_distance(theta[-40:].double(), theta_hat[-40:].double()).float()
    torch.testing.assert_close(last, expected, rtol=1e-3, atol=1e-4)


def test_more_than_two_to_the_31_numbers() -> None:
    m = torch.empty(240_000_000, 3, 3, device="cuda")
    m[:] = torch.eye(3, device="cuda")
    m[-1000:] = matrices(1000)
    projection = functional.project_to_so3(m)
    torch.testing.assert_close(projection[-1000:], functional.project_to_so3(m[-1000:]), rtol=0, atol=1e-6)
    assert projection[: -1000 : 10**6].equal(m[: -1000 : 10**6])


def test_no_memory_but_the_distance_and_its_gradient() -> None:
    theta_hat = matrices(10**6).requires_grad_()
    eye = torch.eye(3, device="cuda")
    functional.geodesic_distance(eye, theta_hat)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    functional.geodesic_distance(eye, theta_hat)
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * 40 * 10**6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_tensors_device_runs_it_not_the_current_one() -> None:
    m = matrices(100)
    assert functional.project_to_so3(m.to("cuda:1")).cpu().equal(functional.project_to_so3(m).cpu())
