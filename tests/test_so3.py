"""project_to_so3 and geodesic_distance agree with SVDs in float64, their autograd, and 60-digit arithmetic."""

from __future__ import annotations

import math
from functools import partial

import mpmath
import pytest
import torch
from so3_truth import (
    EPS32,
    EPS64,
    EYE,
    FAMILIES,
    So3,
    angle_of,
    angle_op,
    condition,
    cross_matrix,
    each_family,
    frobenius,
    gauss,
    homographies,
    mp_projection,
    mp_value_and_gradients,
    random_matrices,
    relative,
    signed_svd,
    svd_distance,
    svd_gradient,
    turns,
    value_and_gradients,
    vee,
)
from torch import Tensor
from torch.nn.functional import normalize as unit

assert_close = partial(torch.testing.assert_close, rtol=4e-6, atol=4e-6, equal_nan=True)
normalizations = pytest.mark.parametrize("normalize", [None, "frobenius", "det"])
full_types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def assert_projection(so3: So3, m: Tensor) -> None:
    """Asserts rotations everywhere, optimal everywhere, and the unique nearest one where the problem is well posed."""
    p = so3.project_to_so3(m).double()
    u, s, vh = signed_svd(m)
    assert torch.maximum(frobenius(p.mT @ p - EYE), (p.det() - 1).abs()).max() <= 4e-6
    assert ((p * m).sum((-2, -1)) >= s.sum(-1) - 4e-6 * s[:, 0]).all()
    kappa = condition(s)
    assert (frobenius(p - u @ vh) <= 64 * EPS32 * kappa.clamp_min(0.5))[kappa <= 1e3].all()


@each_family
def test_projection_and_its_gradient(so3: So3, g: torch.Generator, m: Tensor) -> None:
    assert_projection(so3, m)
    weight = gauss(len(m), g).float()
    gradient = value_and_gradients(lambda x: so3.project_to_so3(x) * weight, m)[1]
    s = signed_svd(m)[1]
    kappa = condition(s)
    # Only the weight's skew part counts, so that the error is measured against all of it.
    error = frobenius(gradient - svd_gradient(m, weight)) * (s[:, 1] + s[:, 2]) / frobenius(weight)
    assert (error <= 128 * EPS32 * kappa.clamp_min(1))[kappa <= 1e3].all()
    assert gradient[(s[:, 0] > 1e-29) | (kappa < 1e8)].isfinite().all()  # else it may exceed float32


@pytest.mark.parametrize("scale", [1.0, 2.0**1021])
@pytest.mark.parametrize("name", ["gauss", "I + 0.001", "rotation + 0", "s = (1, 0.9, -0.89)", "s = (1, 0.01, 0.005)"])
def test_projection_agrees_with_60_digits(so3: So3, g: torch.Generator, name: str, scale: float) -> None:
    m = FAMILIES[name][:20] * (1 + 1e-9 * gauss(20, g)) * scale
    with mpmath.workdps(60):
        for matrix, p, kappa in zip(m, so3.project_to_so3(m), condition(signed_svd(m / scale)[1]), strict=True):
            error = mpmath.matrix(p.tolist()) - mp_projection(mpmath.matrix(matrix.tolist()))
            assert mpmath.mnorm(error, "f") <= 16 * EPS64 * max(kappa.item(), 1)


def test_hunt_with_a_fresh_seed(so3: So3, g: torch.Generator) -> None:
    print("seed", g.seed())  # pytest shows it when the test fails
    s = (10 ** (-6 * torch.rand(20000, 3, generator=g))).sort(descending=True)[0]
    s[::2, 2] *= -1
    m = (random_matrices(s, g) * 2.0 ** torch.randint(-40, 41, (20000, 1, 1), generator=g)).float()
    assert_projection(so3, m)
    assert all(result.isfinite().all() for result in value_and_gradients(angle_op(so3), m))


@each_family
def test_angle_and_its_gradient(so3: So3, m: Tensor) -> None:
    angle, gradient = value_and_gradients(angle_op(so3), m)
    u, s, vh = signed_svd(m)
    kappa, expected = condition(s), angle_of(u @ vh)
    posed = kappa <= 1e3
    assert (angle <= math.pi + 1e-6).all()
    assert gradient[(s[:, 0] > 1e-29) | (kappa < 1e8)].isfinite().all()
    assert ((angle - expected).abs() <= 64 * EPS32 * kappa.clamp_min(1))[posed].all()
    inside = posed & (expected > 1e-9) & (expected < math.pi - 1e-3)
    error = relative(gradient, svd_gradient(m, u @ vh @ cross_matrix(unit(vee(u @ vh), dim=-1)) / 2))
    assert (error <= torch.where(kappa <= 100, 128, 512) * EPS32 * kappa.clamp_min(1))[inside].all()
    assert (frobenius(gradient) * (s[:, 1] + s[:, 2]) <= math.sqrt(2) * (1 + 1e-4))[posed].all()
    assert ((gradient.double() * m).sum((-2, -1)).abs() <= 1e-5 * kappa)[posed].all()


@normalizations
@full_types
def test_gradient_keeps_its_direction_near_a_match(so3: So3, g: torch.Generator, normalize, dtype) -> None:
    for scale in (1e-7, 1e-5, 1e-3, 1e-1, 1.0):
        theta = homographies(1, g)
        theta_hat, theta = (theta + scale * gauss(1, g)).to(dtype), theta.to(dtype)
        actual = value_and_gradients(partial(so3.geodesic_distance, normalize=normalize), theta, theta_hat)
        with mpmath.workdps(60):
            value, *gradients = mp_value_and_gradients(theta[0], theta_hat[0], normalize)
        tolerance = 1e-11 if dtype == torch.float64 else 5e-6 if scale < 1 else 5e-5
        assert abs(actual[0].item() - value) <= tolerance * value
        assert all(relative(a[0], b) <= tolerance for a, b in zip(actual[1:], gradients, strict=True))


@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_far_from_a_match_agrees_with_autograd_through_svd(so3: So3, g: torch.Generator, smooth: float) -> None:
    pair = homographies(300, g).double(), gauss(300, g)
    value, *gradients = value_and_gradients(partial(so3.geodesic_distance, lam=0.3, smooth=smooth), *pair)
    expected, *truths = value_and_gradients(partial(svd_distance, lam=0.3, smooth=smooth), *pair)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    errors = torch.stack([relative(a, b) for a, b in zip(gradients, truths, strict=True)])
    assert errors.quantile(0.99) <= 1e-11  # beyond that it is the SVD's autograd that errs


@normalizations
@pytest.mark.parametrize("options", [{}, {"smooth": 0.05}, {"damping": 1e-3}], ids=str)
@pytest.mark.parametrize("name", ["I + 0.1", "pi - 0.01", "gauss", "s = (3, 2, -0.5)"])
def test_gradients_agree_with_differences(so3: So3, g: torch.Generator, name: str, options, normalize) -> None:
    theta = homographies(1, g).double().requires_grad_()
    theta_hat = (theta @ FAMILIES[name][:1].double()).detach().requires_grad_()
    distance = partial(so3.geodesic_distance, normalize=normalize, **options)
    assert torch.autograd.gradcheck(distance, (theta, theta_hat), eps=1e-6, atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradcheck(so3.project_to_so3, theta_hat, eps=1e-6, atol=1e-5, rtol=1e-4)


@normalizations
@full_types
def test_a_match_is_exactly_zero(so3: So3, g: torch.Generator, normalize, dtype: torch.dtype) -> None:
    pixels = homographies(99, g) * torch.tensor([[1.0, 1, 224], [1, 1, 224], [1 / 224, 1 / 224, 1]])
    theta = torch.cat((homographies(100, g), gauss(100, g).float(), pixels, EYE[None], -EYE[None])).to(dtype)
    distance = partial(so3.geodesic_distance, normalize=normalize)
    assert all(not result.any() for result in value_and_gradients(distance, theta, theta))
    one_rounding_away = value_and_gradients(distance, theta[:100], theta[:100] * (1 + 2**-23))
    assert all(result.abs().max() <= bound for result, bound in zip(one_rounding_away, (1e-5, 10, 10), strict=True))


def test_zero_and_rank_one_matrices_have_bounded_gradients(so3: So3, g: torch.Generator) -> None:
    assert_close(value_and_gradients(so3.project_to_so3, 0 * EYE), (EYE, 0 * EYE), rtol=0, atol=0)
    a, b = torch.randint(1, 9, (2, 100, 3), generator=g).double()
    assert value_and_gradients(angle_op(so3), a[:, :, None] * b[:, None])[1].abs().max() < 1e6


@full_types
def test_nearly_symmetric_matrices(so3: So3, g: torch.Generator, dtype: torch.dtype) -> None:
    m, eps = gauss(100, g) / 20, torch.finfo(dtype).eps
    m = (EYE + m + m.mT).to(dtype)
    assert all(not result.any() for result in value_and_gradients(angle_op(so3), m))
    a = 1 + torch.rand(100, 3, generator=g).to(dtype)
    b = a * (1 + 1e4 * eps * m[:, 0])  # two zooms: no angle, and an error e that 1 + e would round off
    gradient = value_and_gradients(partial(so3.geodesic_distance, lam=0.5), a.diag_embed(), b.diag_embed())[2]
    assert relative(gradient, ((b - a).double() / a.double() ** 2).diag_embed()).max() <= 64 * eps
    turned = (m + 10 * eps * gauss(100, g)).to(dtype).double()
    k = turned.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None] * EYE - (turned + turned.mT) / 2
    expected = torch.linalg.solve(k, vee(turned)).norm(dim=-1)  # the angle, to first order
    assert ((angle_op(so3)(turned.to(dtype)) - expected).abs() <= 64 * eps * expected).all()


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 0.0])
def test_the_gradient_stays_bounded_up_to_half_a_turn(so3: So3, g: torch.Generator, gap: float) -> None:
    m = torch.cat((turns(math.pi - gap, 100, g).float(), torch.tensor([[-1.0, -1, 1]]).diag_embed()))
    angle, gradient = value_and_gradients(angle_op(so3), m)
    assert ((angle - math.pi).abs() <= gap + 1e-5).all()
    assert (frobenius(gradient) - math.sqrt(0.5)).abs().max() <= 1e-5
    turned = m.double().mT @ gradient.double()  # [n]x / 2, of an axis n that the rotation leaves in place
    assert (vee(turned)[:, None] @ m.double().mT - vee(turned)[:, None]).abs().max() <= 1e-5


@pytest.mark.parametrize("damping", [1e-1, 1e-3])
def test_damping_caps_the_gradient_and_leaves_the_value(so3: So3, damping: float) -> None:
    m = torch.cat([FAMILIES[f] for f in ("gauss", "signed permutations", "reflection + 1e-3", "s = (1, 0, 0)")])
    value, gradient = value_and_gradients(angle_op(so3, damping=damping), m)
    u, s, vh = signed_svd(m)
    assert torch.equal(value, angle_op(so3)(m))
    assert (frobenius(gradient) <= math.sqrt(2) / (2 * damping * s[:, 0]) * (1 + 1e-4)).all()
    k = s.sum(-1, keepdim=True) - s
    damped = vh.mT @ (k / (k**2 + (damping * s[:, :1]) ** 2)).diag_embed() @ vh
    expected = u @ vh @ cross_matrix((damped @ unit(vee(u @ vh), dim=-1)[..., None])[..., 0])
    inside = (condition(s) < 100) & (value > 1e-6) & (value < math.pi - 1e-3)
    assert relative(gradient, expected)[inside].max() <= 128 * EPS32 * 100


@pytest.mark.parametrize("normalize", ["frobenius", "det"])
def test_normalized_distance_ignores_scale_and_sign(so3: So3, g: torch.Generator, normalize: str) -> None:
    theta, theta_hat = homographies(200, g), homographies(200, g)
    distance = partial(so3.geodesic_distance, normalize=normalize)
    assert_close(distance(-0.3 * theta, 7 * theta_hat), distance(theta, theta_hat), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 32, 224])
@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1, 1e30, 1e200])
def test_extreme_scales_and_pixel_coordinates(so3: So3, g: torch.Generator, size: int, scale: float) -> None:
    to_pixels = torch.tensor([[size, 0, size], [0, size, size], [0, 0, 2]]).double() / 2
    pair = [to_pixels @ homographies(200, g, 0.1).double() @ to_pixels.inverse() for _ in range(2)]
    pair = [(scale * m).to(torch.float32 if 1e-38 < scale < 1e38 else torch.float64) for m in pair]
    value, *gradients = value_and_gradients(so3.geodesic_distance, *pair)
    expected, *truths = value_and_gradients(svd_distance, *(m.double() for m in pair))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(relative(a * scale, b * scale).max() <= 5e-5 for a, b in zip(gradients, truths, strict=True))


@normalizations
@pytest.mark.parametrize("noise", [0.2, 0.01])  # far from a match, and so near that all rows take the shortcut
def test_a_bad_row_is_nan_and_touches_no_other(
    so3: So3, g: torch.Generator, noise: float, normalize: str | None
) -> None:
    theta, theta_hat = homographies(12, g, noise), homographies(12, g, noise)
    theta_hat[1, 0, 0], theta_hat[3, 2, 1], theta[5, 1, 1], theta[6] = math.nan, math.inf, -math.inf, math.nan
    theta[8], theta[10] = torch.tensor([1.0, 1, 0]).diag(), torch.arange(1.0, 10).view(3, 3)
    bad, good = [1, 3, 5, 6, 8, 10], [0, 2, 4, 7, 9, 11]
    distance = partial(so3.geodesic_distance, normalize=normalize)
    for function, arguments, wrong in ((distance, (theta, theta_hat), bad), (so3.project_to_so3, (theta_hat,), [1, 3])):
        results = value_and_gradients(function, *arguments)
        assert all(result[wrong].isnan().all() for result in results)
        clean = value_and_gradients(function, *(a[good] for a in arguments))
        assert all(torch.equal(result[good], b) for result, b in zip(results, clean, strict=True))


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_bad_number_in_a_symmetric_place_near_a_match(so3: So3, g: torch.Generator, wrong: float) -> None:
    """The angle does not depend on it, so only a check can find it."""
    m = homographies(16, g, 0.01)
    m[3, 0, 0] = wrong
    for function in (partial(so3.geodesic_distance, EYE), so3.project_to_so3):
        results = value_and_gradients(function, m)
        assert all(result[3].isnan().all() and result[:3].isfinite().all() for result in results)


def test_any_number_of_rows_of_any_strides(so3: So3, g: torch.Generator) -> None:
    theta, theta_hat = homographies(260, g)[::2].mT, homographies(130, g).mT
    whole = value_and_gradients(so3.geodesic_distance, theta.contiguous(), theta_hat.contiguous())
    for n in (0, 1, 31, 32, 33, 127, 128, 129):
        part = value_and_gradients(so3.geodesic_distance, theta[:n], theta_hat[:n])
        assert_close(part, tuple(result[:n] for result in whole))
        assert_close(so3.project_to_so3(theta[:n]), so3.project_to_so3(theta[:n].contiguous()))
    assert so3.geodesic_distance(EYE, EYE).shape == ()


def test_batch_dimensions_broadcast(so3: So3, g: torch.Generator) -> None:
    theta, theta_hat = homographies(4, g).view(4, 1, 3, 3), homographies(5, g)
    copies = theta.expand(4, 5, 3, 3).contiguous(), theta_hat.expand(4, 5, 3, 3).contiguous()
    value, left, right = value_and_gradients(so3.geodesic_distance, *copies)
    result = value_and_gradients(so3.geodesic_distance, theta, theta_hat)
    assert_close(result, (value, left.sum(1, keepdim=True), right.sum(0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_compute_in_float32(so3: So3, g: torch.Generator, dtype: torch.dtype) -> None:
    theta, theta_hat = homographies(50, g).to(dtype), homographies(50, g).to(dtype)
    half = value_and_gradients(so3.geodesic_distance, theta, theta_hat)
    expected = value_and_gradients(so3.geodesic_distance, theta.float(), theta_hat.float())
    assert [result.dtype for result in half] == [torch.float32, dtype, dtype]
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(half, expected, strict=True))
    assert so3.project_to_so3(theta).dtype == torch.float32
    assert so3.geodesic_distance(theta, theta_hat.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(so3.geodesic_distance(theta, theta_hat), half[0])


def test_both_compile_without_a_graph_break(so3: So3, g: torch.Generator) -> None:
    theta, theta_hat = homographies(6, g), homographies(6, g)
    theta_hat[2] = math.nan
    distance = partial(so3.geodesic_distance, lam=0.2, normalize="det", smooth=0.01, damping=0.001)
    for function, arguments in ((distance, (theta, theta_hat)), (so3.project_to_so3, (theta_hat,))):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        assert_close(value_and_gradients(compiled, *arguments), value_and_gradients(function, *arguments))
        torch.compiler.reset()
        assert_close(compiled(*arguments), function(*arguments))


def test_vmap_and_functional_gradients(so3: So3, g: torch.Generator) -> None:
    pair = homographies(6, g), homographies(6, g)
    gradients = torch.func.grad(so3.geodesic_distance, (0, 1))
    result = torch.vmap(so3.geodesic_distance)(*pair), *torch.vmap(gradients)(*pair)
    assert_close(result, value_and_gradients(so3.geodesic_distance, *pair))
    assert_close(torch.vmap(so3.project_to_so3)(pair[0]), so3.project_to_so3(pair[0]))
