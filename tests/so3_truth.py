"""Matrices that are hard for so3, and their truth by SVDs in float64, their autograd, and 60-digit arithmetic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Protocol

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize as unit


class So3(Protocol):
    """An implementation: that of ``functional``, or one that moves its arguments to a GPU."""

    @property
    def project_to_so3(self) -> Callable[..., Tensor]: ...

    @property
    def geodesic_distance(self) -> Callable[..., Tensor]: ...


EPS32, EPS64 = 2.0**-24, 2.0**-53
EYE = torch.eye(3)


def gauss(n: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, 3, 3, generator=g, dtype=torch.float64)


def homographies(n: int, g: torch.Generator, noise: float = 0.2) -> Tensor:
    return (EYE + noise * gauss(n, g)).float()


def rotations(n: int, g: torch.Generator) -> Tensor:
    q = torch.linalg.qr(gauss(n, g))[0]
    return q * q.det()[:, None, None]


def cross_matrix(y: Tensor) -> Tensor:
    return torch.linalg.cross(y[..., :, None].expand(*y.shape, 3), EYE.to(y).expand(*y.shape, 3), dim=-2)


def turns(angle: float, n: int, g: torch.Generator) -> Tensor:
    return torch.linalg.matrix_exp(angle * cross_matrix(unit(gauss(n, g)[:, 0], dim=-1)))


def random_matrices(s: Tensor, g: torch.Generator) -> Tensor:
    return rotations(len(s), g) * s.double()[:, None, :] @ rotations(len(s), g)


def families(n: int, g: torch.Generator) -> dict[str, Tensor]:
    (d, e), one, zero = 10 ** (-7 * torch.rand(2, n, generator=g).double()), torch.ones(n), torch.zeros(3, 3)
    fixed = [(3, 2, -0.5), (1, 0.9, -0.89), (1, 0.5, 0), (1, 0.5, 1e-5)]
    fixed += [(1, 0, 0), (1, 1e-2, 5e-3), (1, 1e-3, -5e-4), (1, 1e-5, 5e-6)]
    singular_values: dict[str, tuple[float | Tensor, ...]] = {
        **{f"s = {s}": s for s in fixed},
        "cluster at 1": (1, 1 - d, (1 - d) * (1 - e)),
        "cluster at 1, det < 0": (1, 1 - d, -(1 - d) * (1 - e)),
        "cluster at 0, det < 0": (1, d, -d * (1 - e)),
        "log-uniform": (1, d, torch.where(d > e, e, -e)),
    }
    signs = torch.tensor(list(itertools.product((1.0, -1.0), repeat=3))).diag_embed()
    made = {
        "gauss": gauss(n, g),
        **{f"rotation + {s:g}": rotations(n, g) + s * gauss(n, g) for s in (0, 1e-3)},
        "reflection + 1e-3": -rotations(n, g) + 1e-3 * gauss(n, g),
        "signed permutations": torch.cat([signs[:, list(p)] for p in itertools.permutations(range(3))]),
        "special": torch.stack([EYE, -EYE, zero, zero + 1, EYE * EYE[0], zero + 1e-42]),
        **{f"I + {s:g}": EYE + s * gauss(n, g) for s in (1e-1, 1e-3, 1e-6)},
        **{f"pi - {a:g}": turns(math.pi - a, n, g) for a in (1e-2, 1e-4, 1e-6)},
        **{f"gauss * {s:g}": gauss(n, g) * s for s in (1e-30, 1e-15, 1e-6, 1e6, 1e15, 1e30)},
        **{k: random_matrices(torch.stack([one * x for x in s], 1), g) for k, s in singular_values.items()},
    }
    return {name: matrix.float() for name, matrix in made.items()}


FAMILIES = families(300, torch.Generator().manual_seed(0))
each_family = pytest.mark.parametrize("m", [pytest.param(m, id=name) for name, m in FAMILIES.items()])


def signed_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes U, s, V^T in float64 with det(U V^T) = 1, the sign moved to s3; it is differentiable."""
    u, s, vh = torch.linalg.svd(matrix.double())
    sign = torch.ones_like(s).index_copy(-1, torch.tensor([2]), (u @ vh).det().sign().detach()[..., None])
    return u * sign[..., None, :], s * sign, vh


def condition(s: Tensor) -> Tensor:
    gap = s[..., 1] + s[..., 2]
    return torch.where(gap > 1e-15 * s[..., 0], s[..., 0] / gap, torch.inf)


def vee(a: Tensor) -> Tensor:
    return torch.stack((a[..., 2, 1] - a[..., 1, 2], a[..., 0, 2] - a[..., 2, 0], a[..., 1, 0] - a[..., 0, 1]), -1)


def angle_of(rotation: Tensor) -> Tensor:
    return torch.atan2(vee(rotation).norm(dim=-1), rotation.diagonal(dim1=-2, dim2=-1).sum(-1) - 1)


def svd_distance(theta: Tensor, theta_hat: Tensor, lam: float = 0.1, smooth: float = 0.0) -> Tensor:
    """Computes the distance by its definition, which autograd can differentiate away from its singularities."""
    m = torch.linalg.inv(theta) @ theta_hat
    u, _, vh = signed_svd(m)
    return (angle_of(u @ vh) ** 2 + smooth**2).sqrt() - smooth + lam * (m - u @ vh).square().sum((-2, -1))


def svd_gradient(matrix: Tensor, wrt_rotation: Tensor) -> Tensor:
    """Computes df/dM = U [(B - B^T)_ij / (s_i + s_j)] V^T, B = U^T df/dP V, also right at repeated singular values."""
    u, s, vh = signed_svd(matrix)
    b = u.mT @ wrt_rotation.double() @ vh.mT
    return u @ ((b - b.mT) / (s[..., :, None] + s[..., None, :] + EYE)) @ vh


def mp_projection(m: mpmath.matrix) -> mpmath.matrix:
    u, _, vh = mpmath.svd_r(m)
    u[:, 2] *= mpmath.sign(mpmath.det(u) * mpmath.det(vh))
    return u * vh


def mp_distance(theta: mpmath.matrix, theta_hat: mpmath.matrix, normalize: str | None) -> mpmath.mpf:
    m = theta**-1 * theta_hat
    if normalize:
        det, norm = mpmath.det(m), mpmath.mnorm(m, "f")
        m *= mpmath.sign(det) / (norm / mpmath.sqrt(3) if normalize == "frobenius" else mpmath.cbrt(abs(det)))
    p = mp_projection(m)
    sine = mpmath.norm([p[2, 1] - p[1, 2], p[0, 2] - p[2, 0], p[1, 0] - p[0, 1]])
    return mpmath.atan2(sine, p[0, 0] + p[1, 1] + p[2, 2] - 1) + mpmath.mnorm(m - p, "f") ** 2 / 10


def mp_value_and_gradients(theta: Tensor, theta_hat: Tensor, normalize: str | None) -> tuple[float, Tensor, Tensor]:
    """Takes differences of 1e-25 in 60 digits, with lam = 1/10; it shares no formula with any implementation."""
    step, gradients = mpmath.mpf(10) ** -25, torch.zeros(2, 3, 3, dtype=torch.float64)
    pair = mpmath.matrix(theta.tolist()), mpmath.matrix(theta_hat.tolist())
    value = mp_distance(*pair, normalize)
    for k, i, j in itertools.product(range(2), range(3), range(3)):
        pair[k][i, j] += step
        gradients[k, i, j] = float((mp_distance(*pair, normalize) - value) / step)
        pair[k][i, j] -= step
    return float(value), gradients[0], gradients[1]


def value_and_gradients(function, *arguments: Tensor) -> tuple[Tensor, ...]:
    leaves = [a.detach().requires_grad_() for a in arguments]
    value = function(*leaves)
    return value.detach(), *torch.autograd.grad(value.sum(), leaves)


def angle_op(so3: So3, **options: float) -> Callable[..., Tensor]:
    return partial(so3.geodesic_distance, EYE, lam=0.0, **options)


def frobenius(matrix: Tensor) -> Tensor:
    return matrix.double().flatten(-2).norm(dim=-1)


def relative(actual: Tensor, expected: Tensor) -> Tensor:
    return frobenius(actual.double() - expected.double()) / frobenius(expected)
