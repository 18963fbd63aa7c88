"""The Lie algebra of homographies has the right exp, log, samples, displacements and distances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from inverseform_fast import constants, homography

EYE = torch.eye(3)


def coefficients(count: int, length: float, seed: int = 0) -> Tensor:
    a = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a / a.norm(dim=1, keepdim=True) * length


def algebra(a: Tensor) -> Tensor:
    return (a @ homography.basis(a.dtype).flatten(1)).unflatten(-1, (3, 3))


def test_generators_move_the_corners_by_one_unit_each() -> None:
    step = 1e-6
    moved = homography.corner_displacement(homography.exp(step * torch.eye(8, dtype=torch.float64))) / step
    torch.testing.assert_close(moved, torch.ones(8, dtype=torch.float64), rtol=1e-5, atol=0)


def test_velocity_is_how_fast_points_move() -> None:
    points, step = 2 * torch.rand(5, 2, dtype=torch.float64) - 1, 1e-6
    homogeneous = torch.cat((points, torch.ones(5, 1)), 1)
    moved = homogeneous @ homography.exp(step * torch.eye(8, dtype=torch.float64)).mT  # (8, 5, 3)
    expected = (moved[..., :2] / moved[..., 2:] - points) / step
    torch.testing.assert_close(homography.velocity(points).double(), expected.transpose(0, 1), rtol=0, atol=1e-5)


def test_generators_are_traceless_and_orthogonal() -> None:
    basis = homography.basis(torch.float64)
    assert basis.diagonal(dim1=1, dim2=2).sum(1).abs().max() < 1e-15
    gram = basis.flatten(1) @ basis.flatten(1).T
    assert (gram - torch.diag(gram.diag())).abs().max() < 1e-15


@pytest.mark.parametrize(("coefficient", "point", "image"), [(0, (0.0, 0.0), (0.1, 0.0)), (1, (0.0, 0.0), (0.0, 0.1))])
def test_shifts_go_right_and_down(coefficient: int, point: tuple, image: tuple) -> None:
    theta = homography.exp(0.1 * torch.eye(8)[coefficient])
    torch.testing.assert_close((theta @ torch.tensor([*point, 1.0]))[:2], torch.tensor(image))


@pytest.mark.parametrize("length", [1e-6, 0.1, 1.0, 4.0])
def test_exp_is_the_matrix_exponential(length: float) -> None:
    a = coefficients(64, length)
    theta = homography.exp(a)
    torch.testing.assert_close(theta, torch.matrix_exp(algebra(a)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(homography.determinant(theta), torch.ones(64, dtype=torch.float64), rtol=1e-9, atol=0)


def test_exp_of_zero_is_exactly_the_identity_and_minus_a_the_inverse() -> None:
    assert torch.equal(homography.exp(torch.zeros(8)), EYE)
    a = coefficients(64, 0.5).float()
    torch.testing.assert_close(homography.exp(a) @ homography.exp(-a), EYE.expand(64, 3, 3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-3, 0.2, 1.0])
def test_log_inverts_exp_at_any_positive_scale(dtype: torch.dtype, length: float) -> None:
    a = coefficients(64, length).to(dtype)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    for scale in (1.0, 0.01, 30.0):
        torch.testing.assert_close(homography.log(scale * homography.exp(a)), a, rtol=0, atol=tolerance)


def test_log_of_the_identity_is_exactly_zero_and_bad_rows_stay_alone() -> None:
    assert homography.log(EYE).abs().max() == 0
    theta = homography.exp(coefficients(3, 0.1).float())
    damaged = theta.clone()
    damaged[1] = torch.nan
    result = homography.log(damaged)
    assert torch.equal(result[::2], homography.log(theta)[::2])
    assert result[1].isnan().all()


def test_bracket_is_the_commutator() -> None:
    a, b = coefficients(16, 0.5), coefficients(16, 0.3, seed=1)
    expected = algebra(a) @ algebra(b) - algebra(b) @ algebra(a)
    torch.testing.assert_close(algebra(homography.bracket(a, b)), expected)


@pytest.mark.parametrize(("length", "error"), [(0.05, 1e-8), (0.15, 2e-6), (0.3, 1e-4)])
def test_symmetric_product_is_that_of_the_homographies(length: float, error: float) -> None:
    outer, inner = coefficients(256, length), coefficients(256, length, seed=1)
    half = homography.exp(outer / 2)
    expected = homography.log(half @ homography.exp(inner) @ half)
    product = homography.symmetric_product(outer, inner)
    assert (product - expected).norm(dim=1).max() < error < 0.1 * (outer + inner - expected).norm(dim=1).max()
    assert torch.equal(homography.symmetric_product(-outer, -inner), -product)
    zero = torch.zeros(1, 8)
    assert not homography.symmetric_product(zero, zero).any()


def test_constants_may_be_made_without_gradients_and_under_tracers() -> None:
    constants._CONSTANTS.clear()
    with FakeTensorMode():
        assert homography.exp(torch.zeros(2, 8)).shape == (2, 3, 3)
    assert not constants._CONSTANTS
    with torch.inference_mode():
        homography.exp(torch.zeros(2, 8))
    a = coefficients(2, 0.1).requires_grad_()
    homography.exp(a).sum().backward()
    assert a.grad is not None


def test_gradients_of_exp_and_log_agree_with_differences() -> None:
    a = coefficients(3, 0.3).requires_grad_()
    assert torch.autograd.gradcheck(homography.exp, a)
    assert torch.autograd.gradcheck(lambda x: homography.log(homography.exp(x)), a)
    assert torch.autograd.gradcheck(homography.log, homography.exp(a).detach().requires_grad_())


def test_sample_is_uniform_in_length_repeatable_and_reads_in_displacement() -> None:
    a = homography.sample(20_000, 0.2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(a, homography.sample(20_000, 0.2, generator=torch.Generator().manual_seed(1)))
    quartiles = a.norm(dim=1).quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([0.05, 0.1, 0.15]), rtol=0.03, atol=0)
    assert a.mean(0).abs().max() < 2e-3
    ratio = homography.corner_displacement(homography.exp(a)) / a.norm(dim=1)
    assert 0.85 < ratio.mean() < 1  # |a| is the root mean square over directions, a little above the mean


def test_corner_displacement_of_a_shift_and_of_a_perspective() -> None:
    shift = torch.tensor([[1.0, 0, 0.3], [0, 1, 0.4], [0, 0, 1]])
    torch.testing.assert_close(homography.corner_displacement(shift), torch.tensor(0.5))
    assert homography.corner_displacement(shift, shift) == 0
    perspective = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.1, 0, 1]])
    # Corners (+-1, +-1) go to (+-1, +-1) / (1 +- 0.1): both coordinates move by |1 - 1 / (1 +- 0.1)|.
    expected = 2**0.5 * ((1 - 1 / 1.1) + (1 / 0.9 - 1)) / 2
    torch.testing.assert_close(homography.corner_displacement(perspective), torch.tensor(expected))


@pytest.mark.parametrize("kind", homography.DISTANCES)
def test_distances_are_zero_at_a_match_with_zero_gradient_and_grow(kind: str) -> None:
    theta = homography.exp(coefficients(4, 0.2).float())
    theta_hat = theta.clone().requires_grad_()
    distance = homography.distance(theta_hat, theta, kind)
    distance.sum().backward()
    if kind == "log":  # theta^-1 theta is the identity up to rounding only
        assert distance.max() < 1e-6
    else:
        assert distance.abs().max() == 0
        assert theta_hat.grad is not None
        assert theta_hat.grad.abs().max() == 0
    at_identity = EYE.clone().requires_grad_()
    value = homography.distance(at_identity, kind=kind)
    value.backward()
    assert value == 0
    assert at_identity.grad is not None
    assert at_identity.grad.abs().max() == 0
    a = coefficients(1, 1.0).float()
    values = [homography.distance(homography.exp(a * t), kind=kind) for t in (0.02, 0.1, 0.2)]
    assert values[0] < values[1] < values[2]


def test_log_distance_is_the_length_of_the_algebra() -> None:
    a = coefficients(8, 0.3)
    torch.testing.assert_close(homography.distance(homography.exp(a)), a.norm(dim=1))


def test_euclidean_distance_is_the_frobenius_norm() -> None:
    theta = homography.exp(coefficients(5, 0.4))
    expected = (theta - EYE).flatten(1).norm(dim=1)
    torch.testing.assert_close(homography.distance(theta, kind="euclidean"), expected)


def test_exp_and_log_compile_and_take_any_batch() -> None:
    a = coefficients(6, 0.3).float().view(2, 3, 8)
    round_trip = torch.compile(lambda x: homography.log(homography.exp(x)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(round_trip(a), a, rtol=0, atol=1e-6)
    assert homography.exp(torch.zeros(0, 8)).shape == (0, 3, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: homography.exp(torch.zeros(7)), r"a must have shape \(\.\.\., 8\), got \(7,\)"),
        (lambda: homography.log(torch.zeros(3, 4)), r"theta must be floating point of shape \(\.\.\., 3, 3\)"),
        (lambda: homography.sample(3, -1.0), r"max_displacement must be positive \(half tiles\), got -1.0"),
        (
            lambda: homography.distance(EYE, kind="chordal"),
            r"kind must be one of log, euclidean, geodesic, got 'chordal'",
        ),
    ],
)
def test_bad_input_is_an_error_that_names_it(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
