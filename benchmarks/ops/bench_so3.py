"""Measures geodesic_distance and project_to_so3 beside the usual pipeline, roma and an SVD alone, on one thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import inverseform_fast as iff
from benchmarks.ops import harness, inputs
from benchmarks.ops.workload import Peer, Workload
from inverseform_fast import functional, reference

PROVIDERS = ("fused", "fused-scalar", "reference", "naive", "roma")
FAST = ("fused", "fused-scalar", "naive", "roma")  # gradients of the reference, the slowest, are timed in so3/speed.py
MANY, SOME = (10**6, 10**6) if inputs.ON_GPU else (10**5, 10**4)
CHUNK = 10**6  # matrices that the reference takes at once: its float64 eigenvectors take a kilobyte for each
# Near a match and half a turn the peers' arccos, asin and SVD's autograd are rough or NaN, so their tolerance is wider,
# and only this share of their numbers must be right.
ROUGH, SHARE = {torch.float32: 1e-2, torch.float64: 1e-8}, 0.99


@contextmanager
def running(provider: str) -> Iterator[None]:
    """Run the block on one thread and, for ``fused-scalar``, without the CPU's vector instructions in our kernel."""
    if provider == "fused-scalar" and inputs.ON_GPU:
        pytest.skip("there is no scalar kernel on a GPU")
    fused, threads = provider.startswith("fused"), torch.get_num_threads()
    if fused and iff.backend_info()["ops"]["geodesic_distance"] == "reference":
        pytest.skip("the extension is not built")
    environment = {"ATEN_CPU_CAPABILITY": "default"} if provider == "fused-scalar" else {}
    torch.set_num_threads(1)
    try:
        with iff.set_backend("auto" if fused else "reference"), patch.dict(os.environ, environment):
            yield
    finally:
        torch.set_num_threads(threads)


def pair(kind: str, dtype: torch.dtype, size: int) -> tuple[Tensor, Tensor]:
    """Draw theta, and a theta_hat that is near it, where the kernel has a shortcut, or independent of it; det M > 0.

    The noise is bounded and the determinant positive, as for homographies that the loss meets. Otherwise one singular
    theta, or one M next to a reflection, where P jumps, would make up most of the gradients' norm.
    """
    generator = torch.Generator().manual_seed(0)
    noise, more = (2 * torch.rand(2, size, 3, 3, generator=generator, dtype=dtype) - 1).to(inputs.DEVICE)
    theta = torch.eye(3, dtype=dtype, device=inputs.DEVICE) + 0.2 * noise
    return theta, theta + 0.05 * more if kind == "near" else more * torch.linalg.det(more).sign()[:, None, None]


def workload(name: str) -> Workload:
    """Make the workload of geodesic_distance.

    ``name`` is ``dtype-kind-size``, with the gradient of theta_hat, or ``dtype-kind-size-pair``, with both gradients.
    """
    dtype, kind, size, *with_theta = name.split("-")
    theta, theta_hat = pair(kind, getattr(torch, dtype), int(size))
    forward = 2 * theta.nbytes + theta.nbytes // 9
    return Workload(
        function=functional.geodesic_distance,
        reference=lambda *pair: torch.cat(
            [reference.geodesic_distance(*chunks) for chunks in zip(*(m.split(CHUNK) for m in pair), strict=True)]
        ),
        arguments=(theta.requires_grad_(bool(with_theta)), theta_hat.requires_grad_()),
        # Forward reads both matrices and writes the distance; backward reads both and the distance's gradient, and
        # writes gradients.
        bytes={"forward": forward, "both": 2 * forward + theta.nbytes * (2 if with_theta else 1)},
        peers=peers(functional.geodesic_distance, theta.dtype, naive_distance, roma_distance),
    )


def projection(name: str) -> Workload:
    """Make the workload of project_to_so3: the matrices M that geodesic_distance projects."""
    dtype, kind, size = name.split("-")
    theta, theta_hat = pair(kind, getattr(torch, dtype), int(size))
    matrix = torch.linalg.inv(theta) @ theta_hat
    return Workload(
        function=functional.project_to_so3,
        reference=reference.project_to_so3,
        arguments=(matrix.requires_grad_(),),
        # Forward reads M and writes P; backward reads M and P's gradient, and writes M's gradient.
        bytes={"forward": 2 * matrix.nbytes, "both": 5 * matrix.nbytes},
        peers={
            "svd": Peer(lambda m: torch.linalg.svd(m).S, torch.linalg.svdvals),
            **peers(functional.project_to_so3, matrix.dtype, naive_projection, roma_projection),
        },
    )


def peers(
    function: Callable[..., Tensor], dtype: torch.dtype, naive: Callable[..., Tensor], roma: Callable[..., Tensor]
) -> dict[str, Peer]:
    rough = partial(Peer, tolerance=ROUGH[dtype], share=SHARE)
    return {"fused-scalar": Peer(function), "naive": rough(naive), "roma": rough(roma)}


def naive_projection(matrix: Tensor) -> Tensor:
    """Compute ``U diag(1, 1, det(U V^T)) V^T`` literally."""
    u, _, vh = torch.linalg.svd(matrix)
    one = torch.ones_like(matrix[..., 0, 0])
    return u * torch.stack((one, one, torch.linalg.det(u @ vh).detach().sign()), -1)[..., None, :] @ vh


def naive_distance(theta: Tensor, theta_hat: Tensor, lam: float = 0.1) -> Tensor:
    """Compute the paper's formula literally."""
    matrix = torch.linalg.inv(theta) @ theta_hat
    rotation = naive_projection(matrix)
    return arccos_angle(rotation) + lam * (matrix - rotation).square().sum((-2, -1))


def arccos_angle(rotation: Tensor) -> Tensor:
    return ((rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).arccos()


def roma_projection(matrix: Tensor) -> Tensor:
    import roma  # imported here, so that a missing roma stops this provider only

    return roma.special_procrustes(matrix)


def roma_distance(theta: Tensor, theta_hat: Tensor, lam: float = 0.1) -> Tensor:
    import roma

    matrix = torch.linalg.inv(theta) @ theta_hat
    rotation = roma_projection(matrix)
    angle = roma.rotmat_geodesic_distance(rotation, torch.eye(3, dtype=matrix.dtype, device=matrix.device))
    return angle + lam * (matrix - rotation).square().sum((-2, -1))


NEAR, DOUBLE = f"float32-near-{SOME}", f"float64-near-{SOME}"
NAMES = ["float32-near-1", "float32-near-1000", f"float32-near-{MANY}", f"{NEAR}-pair", f"float32-far-{SOME}", DOUBLE]

test_distance = harness.cases("geodesic_distance", workload, [NEAR], ["forward"], PROVIDERS, running)
test_distance_and_gradient = harness.cases("geodesic_distance", workload, NAMES, ["both"], FAST, running)
test_projection = harness.cases("project_to_so3", projection, [NEAR], ["forward"], [*PROVIDERS, "svd"], running)
test_projection_and_gradient = harness.cases("project_to_so3", projection, [NEAR, DOUBLE], ["both"], FAST, running)
if inputs.ON_GPU:  # the fused kernel alone, because the others' temporaries would fill most of the memory
    test_ten_million = harness.cases(
        "geodesic_distance", workload, [f"float32-near-{10**7}"], ["both"], ["fused"], running
    )
