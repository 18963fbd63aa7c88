"""Symmetries and bounds hold for every implementation of so3, which agree; the extension's ops keep their promises."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from so3_truth import (
    EPS32,
    EPS64,
    EYE,
    FAMILIES,
    So3,
    angle_op,
    condition,
    each_family,
    frobenius,
    gauss,
    homographies,
    random_matrices,
    relative,
    rotations,
    signed_svd,
    svd_distance,
    value_and_gradients,
)
from torch import Tensor

import inverseform_fast as iff
from inverseform_fast import functional, reference
from inverseform_fast.ops import backend

extension = pytest.mark.skipif(bool(backend.MISSING["cpu"]), reason="needs the extension")


def tolerance(m: Tensor) -> Tensor:
    """Returns 64 eps kappa, the tolerance where P is well posed."""
    kappa = condition(signed_svd(m)[1])
    return torch.where(kappa <= 1e3, 64 * EPS32 * kappa.clamp_min(1), torch.inf)


@each_family
def test_rotations_on_either_side_turn_the_projection(so3: So3, g: torch.Generator, m: Tensor) -> None:
    left, right = rotations(len(m), g), rotations(len(m), g)
    turned = (left @ m.double() @ right).float()
    expected = left @ so3.project_to_so3(m).double() @ right
    # Rounding `turned` moves its projection by another eps kappa.
    assert (frobenius(so3.project_to_so3(turned).double() - expected) <= 2 * tolerance(m)).all()


@pytest.mark.parametrize("scale", [2.0**-100, 0.3, 7.0, 2.0**60])
def test_the_angle_ignores_a_positive_scale(so3: So3, scale: float) -> None:
    for name in ("gauss", "I + 0.001", "s = (3, 2, -0.5)", "pi - 0.01"):
        m = FAMILIES[name]
        error = (angle_op(so3)(m * scale) - angle_op(so3)(m)).abs()
        assert (error <= tolerance(m)).all()


@pytest.mark.parametrize("normalize", [None, "frobenius", "det"])
def test_one_gradient_follows_from_the_other(so3: So3, g: torch.Generator, normalize: str | None) -> None:
    theta, theta_hat = homographies(300, g), homographies(300, g)
    _, grad_theta, grad_theta_hat = value_and_gradients(
        partial(so3.geodesic_distance, normalize=normalize), theta, theta_hat
    )
    m = torch.linalg.inv(theta.double()) @ theta_hat.double()
    assert relative(grad_theta, -grad_theta_hat.double() @ m.mT).max() <= 1e-5


@pytest.mark.parametrize("condition_number", [1e3, 1e4, 1e6])
def test_a_badly_conditioned_theta(so3: So3, g: torch.Generator, condition_number: float) -> None:
    """The only error allowed is that of theta^-1: relative, eps times the condition of theta."""
    s = torch.tensor([1.0, 0.5, 1 / condition_number]).double().expand(200, 3)
    theta = random_matrices(s, g).float()
    theta_hat = (theta.double() @ (EYE + 0.1 * gauss(200, g))).float()
    value, *gradients = value_and_gradients(so3.geodesic_distance, theta, theta_hat)
    expected, *truths = value_and_gradients(svd_distance, theta.double(), theta_hat.double())
    allowed = 64 * EPS32 * condition_number
    assert ((value - expected).abs() <= allowed * (1 + expected)).all()
    assert all(torch.quantile(relative(a, b), 0.99) <= allowed for a, b in zip(gradients, truths, strict=True))


def test_float64_agrees_with_lapack(so3: So3, g: torch.Generator) -> None:
    for name in ("gauss", "rotation + 0.001", "I + 0.001", "s = (3, 2, -0.5)", "s = (1, 0.9, -0.89)"):
        m = FAMILIES[name].double() * (1 + 1e-9 * gauss(len(FAMILIES[name]), g))
        u, s, vh = signed_svd(m)
        kappa = condition(s)
        assert (frobenius(so3.project_to_so3(m) - u @ vh) <= 256 * EPS64 * kappa.clamp_min(1))[kappa <= 1e3].all()


def test_a_residual_beyond_float32_is_infinite_and_touches_no_other(so3: So3) -> None:
    theta_hat = torch.stack((EYE, 1e30 * EYE, 1.5 * EYE))
    value, gradient = value_and_gradients(partial(so3.geodesic_distance, EYE), theta_hat)
    assert value[0] == 0
    assert value[1].isinf()
    assert gradient.isfinite().all()
    torch.testing.assert_close(value[2], torch.tensor(0.1 * 3 * 0.25))
    assert not angle_op(so3)(theta_hat).any()


@pytest.mark.parametrize("normalize", ["frobenius", "det"])
@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-126, 2.0**100])
def test_normalized_at_the_ends_of_float32(so3: So3, g: torch.Generator, normalize: str, scale: float) -> None:
    m = (EYE + 0.5 * torch.rand(50, 3, 3, generator=g).round(decimals=1)) * scale  # as exact as a denormal can be
    actual = so3.geodesic_distance(EYE, m, normalize=normalize)
    assert (actual - so3.geodesic_distance(EYE.double(), m.double(), normalize=normalize)).abs().max() <= 4e-6


@extension
@pytest.mark.parametrize("capability", ["", "avx2", "default"])
@pytest.mark.parametrize("normalize", [None, "frobenius", "det"])
def test_all_instruction_sets_agree(
    monkeypatch: pytest.MonkeyPatch, g: torch.Generator, normalize: str | None, capability: str
) -> None:
    pair = homographies(1000, g), homographies(1000, g)
    distance = partial(functional.geodesic_distance, normalize=normalize, smooth=0.01, damping=1e-3)
    with iff.set_backend("reference"):
        expected = value_and_gradients(distance, *pair)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    with iff.set_backend("cpu"):
        actual = value_and_gradients(distance, *pair)
    for a, b in zip(actual, expected, strict=True):
        error = (a - b).abs().reshape(1000, -1).amax(-1) / b.abs().reshape(1000, -1).amax(-1).clamp_min(1)
        assert error.quantile(0.95) <= 4e-6
    m = FAMILIES["rotation + 0.001"]
    with iff.set_backend("cpu"):
        assert frobenius(functional.project_to_so3(m) - reference.project_to_so3(m)).max() <= 4e-6


@extension
@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_on_any_number_of_threads(g: torch.Generator, threads: int) -> None:
    m = torch.cat((homographies(99_999, g, 0.05), gauss(1, g).float()))
    expected = functional.project_to_so3(m[-4097:])
    torch.set_num_threads(threads)
    try:
        projection = functional.project_to_so3(m)
    finally:
        torch.set_num_threads(1)
    assert (frobenius(projection.mT @ projection - EYE) <= 4e-6).all()
    torch.testing.assert_close(projection[-4097:], expected, rtol=0, atol=1e-6)


@extension
def test_one_theta_for_all_is_not_copied() -> None:
    theta_hat = homographies(64, torch.Generator().manual_seed(0))
    options = 0.1, 0, 0.0, 0.0, True, True
    op = torch.ops.inverseform_fast.geodesic_distance
    one, copies = (op(x, theta_hat, *options) for x in (EYE.expand(64, 3, 3), EYE.repeat(64, 1, 1)))
    assert all(torch.equal(a, b) for a, b in zip(one, copies, strict=True))
    with torch.profiler.profile(profile_memory=True) as profile:
        op(EYE.expand(10**5, 3, 3), EYE.expand(10**5, 3, 3), 0.1, 0, 0.0, 0.0, False, False)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert allocated < 1.1 * 4 * 10**5  # the distances alone


@extension
@pytest.mark.parametrize("wanted", [(True, True), (False, True), (False, False)])
def test_the_ops_pass_opcheck(wanted: tuple[bool, bool]) -> None:
    pair = [homographies(7, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    ops = torch.ops.inverseform_fast
    torch.library.opcheck(ops.geodesic_distance.default, (*pair, 0.1, 1, 0.0, 0.0, *wanted))
    torch.library.opcheck(ops.project_to_so3.default, (pair[0].mT,))
    torch.library.opcheck(ops.project_to_so3_backward.default, (*pair, ops.project_to_so3(pair[1])))


@extension
@pytest.mark.parametrize(
    ("theta", "theta_hat", "message"),
    [
        (EYE.half(), EYE.half(), "float32 or float64"),
        (EYE, EYE.double(), "one dtype"),
        (EYE[:2], EYE[:2], r"\(..., 3, 3\)"),
        (EYE, EYE.expand(2, 3, 3), "one shape"),
    ],
)
def test_the_raw_op_refuses_what_it_cannot_read(theta: Tensor, theta_hat: Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.inverseform_fast.geodesic_distance(theta, theta_hat, 0.1, 0, 0.0, 0.0, True, True)


def test_a_second_derivative_of_a_kernel_is_refused(so3: So3) -> None:
    if iff.backend_info()["ops"]["project_to_so3"] == "reference":
        return  # it has them: the next tests
    m = (EYE + 0.1 * torch.arange(9).view(3, 3).sin()).requires_grad_()
    (gradient,) = torch.autograd.grad(angle_op(so3)(m), m, create_graph=True)
    with pytest.raises(NotImplementedError, match="once; choose the backend 'reference'"):
        torch.autograd.grad(gradient.sum(), m)
    (gradient,) = torch.autograd.grad(so3.project_to_so3(m)[0, 1], m, create_graph=True)
    with pytest.raises(NotImplementedError, match="once; choose the backend 'reference'"):
        torch.autograd.grad(gradient.sum(), m)


def some_pairs() -> tuple[Tensor, Tensor]:
    noise = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (EYE + 0.2 * noise[0]).requires_grad_(), (EYE + 0.3 * noise[1]).requires_grad_()


@pytest.mark.parametrize("smooth", [0.0, 0.3])
@pytest.mark.parametrize("normalize", [None, "frobenius", "det"])
def test_the_reference_has_second_derivatives(normalize: str | None, smooth: float) -> None:
    pair = some_pairs()
    assert torch.autograd.gradgradcheck(reference.project_to_so3, pair[1])
    assert torch.autograd.gradgradcheck(
        lambda a, b: reference.geodesic_distance(a, b, normalize=normalize, smooth=smooth), pair
    )


def test_a_gradient_is_the_same_whether_it_will_be_differentiated_or_not() -> None:
    pair = some_pairs()
    once, twice = (
        torch.autograd.grad(reference.geodesic_distance(*pair).sum(), pair, create_graph=again)
        for again in (False, True)
    )
    torch.testing.assert_close(once, twice)


def test_second_derivatives_at_a_match() -> None:
    """Of the smoothed angle alone, they are those of angle^2 / (2 smooth); without smoothing there is a cusp."""
    match = EYE.clone().requires_grad_()
    turn = torch.zeros(3, 3, dtype=torch.float64)
    turn[0, 1], turn[1, 0] = -1, 1  # the rotation's derivative by the angle about z
    for smooth, expected in ((0.5, 2.0), (0.0, 0.0)):
        distance = reference.geodesic_distance(EYE, match, lam=0.0, smooth=smooth)
        (gradient,) = torch.autograd.grad(distance, match, create_graph=True)
        (second,) = torch.autograd.grad((gradient * turn).sum(), match)
        torch.testing.assert_close((second * turn).sum(), torch.tensor(expected, dtype=torch.float64))


def test_damping_has_no_second_derivatives() -> None:
    pair = some_pairs()
    with pytest.raises(NotImplementedError, match="second derivatives only without damping"):
        torch.autograd.grad(reference.geodesic_distance(*pair, damping=0.1).sum(), pair, create_graph=True)


def test_shapes_that_do_not_broadcast_are_refused(so3: So3) -> None:
    with pytest.raises(ValueError, match=r"theta_hat must broadcast with theta \(2, 3, 3\), got \(3, 3, 3\)"):
        so3.geodesic_distance(EYE.expand(2, 3, 3), EYE.expand(3, 3, 3))


def test_half_a_turn_in_all_directions(so3: So3) -> None:
    signs = torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]).diag_embed()
    torch.testing.assert_close(angle_op(so3)(signs), torch.full((3,), math.pi), rtol=0, atol=1e-6)
