"""Homographies as elements of SL(3): basis, exponential, logarithm, sampling, distances (docs/guide/conventions.md).

Coordinates are normalized to [-1, 1] over the tile, with x to the right, y down, and pixel centres as in
``grid_sample`` with ``align_corners=False``. A homography ``theta (..., 3, 3)`` maps output points to input points. It
is ``theta = exp(sum_k a_k G_k)`` with eight generators, each scaled so that a unit coefficient moves the four tile
corners by one unit (half a tile) on average. So ``|a|`` times half the tile size is a displacement in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import checks, functional
from .checks import check_matrices
from .constants import constant
from .devices import choose_device
from .sl3 import GENERATORS as GENERATORS
from .sl3 import basis

DISTANCES = ("log", "euclidean", "geodesic")
CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


def _brackets(dtype: torch.dtype, device: torch.device) -> Tensor:
    """``(8, 64)``: row k has ``[G_i, G_j]_k`` at ``8 i + j``."""
    generators = basis(torch.float64)
    products = generators[:, None] @ generators[None]
    coefficients = _coefficients(products - products.transpose(0, 1))
    return coefficients.flatten(0, 1).T.contiguous().to(device, dtype)


def velocity(points: Tensor) -> Tensor:
    """How fast each generator moves ``points (P, 2)`` (x, y) at the identity: ``(P, 8, 2)``, float32.

    Example:
        >>> iff.homography.velocity(torch.tensor([[1.0, 0.0]]))[0, :2]  # a shift along x, and one along y
        tensor([[1., 0.],
                [0., 1.]])
    """
    checks.check_rows(points, "points", 2)
    homogeneous = torch.cat((points.double(), torch.ones_like(points[:, :1], dtype=torch.float64)), 1)
    moved = (basis(torch.float64, points.device) @ homogeneous[:, None, :, None])[..., 0]
    return (moved[..., :2] - homogeneous[:, None, :2] * moved[..., 2:]).float()


def exp(a: Tensor) -> Tensor:
    """Homography ``(..., 3, 3)``, of determinant 1, that has Lie-algebra coefficients ``a (..., 8)`` in half tiles.

    The order is fixed: a Taylor series of order 8 in A / 32, then five squarings of exp - I, which keeps full relative
    accuracy near the identity. All is computed in float64, so that neither autocast nor TF32 rounds it. It is batched
    and differentiable, and never syncs with the host. ``exp(0)`` is exactly the identity. The result is accurate for
    ``|a|`` up to 4.

    Example:
        >>> shift = torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0])  # along x, by half of half a tile
        >>> iff.homography.exp(shift)
        tensor([[1.0000, 0.0000, 0.5000],
                [0.0000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    return functional.homography_exp(a)


def bracket(first: Tensor, second: Tensor) -> Tensor:
    """Lie bracket ``[A, B] = A B - B A`` of coefficients ``(N, 8)``.

    Example:
        >>> shift, turn = torch.eye(8)[:1], torch.eye(8)[2:3]
        >>> iff.homography.bracket(shift, turn).any()  # a shift and a turn do not commute
        tensor(True)
    """
    checks.check_rows(first, "first", 8)
    checks.check_like("second", second, "first", first)
    products = first[:, :, None] * second[:, None]
    return products.flatten(1) @ constant(_brackets, first.dtype, first.device).T


def symmetric_product(outer: Tensor, inner: Tensor) -> Tensor:
    """``log(exp(outer / 2) exp(inner) exp(outer / 2))`` of coefficients ``(N, 8)``, to third order.

    It follows the Baker-Campbell-Hausdorff formula, whose even terms vanish here. Negating both arguments negates the
    result exactly. For two displacements of 34 pixels on a 224 tile, the error is 0.006 pixels; it grows with their
    fifth power.

    Example:
        >>> shift = torch.tensor([[0.1, 0, 0, 0, 0, 0, 0, 0]])
        >>> iff.homography.symmetric_product(shift, shift)[0, 0]  # one shift after the other
        tensor(0.2000)
    """
    checks.check_rows(outer, "outer", 8)
    checks.check_like("inner", inner, "outer", outer)
    once = bracket(outer, inner)
    return outer + inner - bracket(outer / 24 + inner / 12, once)


def log(theta: Tensor) -> Tensor:
    """Coefficients ``(..., 8)``, in half tiles, of homographies ``theta (..., 3, 3)`` of determinant > 0, of any scale.

    It inverts :func:`exp` wherever no eigenvalue of theta is zero or negative (where one is, that row is meaningless or
    NaN). It takes three square roots, by eight Denman-Beavers steps each, then sums ten terms of the Gregory series.
    All is computed in float64; it is differentiable and never syncs with the host. ``log(identity)`` is exactly zero.

    Example:
        >>> a = torch.tensor([0.1, 0, 0.2, 0, 0, 0, 0, 0])
        >>> torch.allclose(iff.homography.log(iff.homography.exp(a)), a, atol=1e-6)
        True
    """
    check_matrices(theta, "theta")
    root = theta.double()
    root = root / determinant(root).pow(1 / 3)[..., None, None]
    eye = torch.eye(3, dtype=root.dtype, device=root.device)
    for _ in range(3):
        z = eye
        for _ in range(8):
            root, z = (root + inverse(z)) / 2, (z + inverse(root)) / 2
    cayley = (root - eye) @ inverse(root + eye)
    square = cayley @ cayley
    series = eye / 19
    for odd in range(17, 0, -2):
        series = eye / odd + square @ series
    return _coefficients(16 * cayley @ series).to(theta.dtype)


def _coefficients(algebra: Tensor) -> Tensor:
    """``(..., 8)`` of matrices ``(..., 3, 3)`` of sl(3)."""
    generators = constant(basis, algebra.dtype, algebra.device)
    return (algebra[..., None, :, :] * generators).sum((-2, -1)) / generators.square().sum((-2, -1))


def adjoint(theta: Tensor) -> Tensor:
    """``(..., 8, 8)``: takes coefficients of A to those of ``theta A theta^-1``, that is, to other coordinates.

    If ``theta (..., 3, 3)`` maps points to new coordinates, the motion ``exp(a)`` is ``exp(adjoint(theta) @ a)`` there.
    It is computed in float64.

    Example:
        >>> theta = torch.diag(torch.tensor([0.5, 0.5, 1.0]))  # two tiles are one image
        >>> shift = torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0])
        >>> (iff.homography.adjoint(theta) @ shift)[0]
        tensor(0.2500)
    """
    check_matrices(theta, "theta")
    wide = theta.double()[..., None, :, :]
    generators = constant(basis, torch.float64, theta.device)
    return _coefficients(wide @ generators @ inverse(wide)).mT.to(theta.dtype)


def determinant(matrix: Tensor) -> Tensor:
    """Determinant ``(...)`` of ``(..., 3, 3)``, by a triple product; torch.linalg would factorise it and sync on a GPU.

    Example:
        >>> iff.homography.determinant(torch.diag(torch.tensor([2.0, 3.0, 4.0])))
        tensor(24.)
    """
    check_matrices(matrix, "matrix")
    a, b, c = matrix.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1)


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of ``(..., 3, 3)`` by the adjugate. Where a matrix is singular, that row alone is not finite.

    Example:
        >>> iff.homography.inverse(torch.diag(torch.tensor([1.0, 2.0, 4.0])))
        tensor([[1.0000, 0.0000, 0.0000],
                [0.0000, 0.5000, 0.0000],
                [0.0000, 0.0000, 0.2500]])
    """
    check_matrices(matrix, "matrix")
    a, b, c = matrix.unbind(-2)
    bc = torch.linalg.cross(b, c)
    adjugate = torch.stack((bc, torch.linalg.cross(c, a), torch.linalg.cross(a, b)), -1)
    return adjugate / (a * bc).sum(-1)[..., None, None]


def sample(
    count: int,
    max_displacement: float,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Random coefficients ``(count, 8)``: direction uniform on the sphere, ``|a|`` uniform in [0, max_displacement].

    ``max_displacement`` is in half tiles (16 px of a 224 tile: 16 / 112).

    Example:
        >>> a = iff.homography.sample(100, max_displacement=16 / 112)  # up to 16 px of a 224 tile
        >>> a.shape, bool((a.norm(dim=1) <= 16 / 112 + 1e-6).all())
        (torch.Size([100, 8]), True)
    """
    count = checks.check_whole(count, "count", 0)
    max_displacement = checks.check_number(max_displacement, "max_displacement")
    if not 0 < max_displacement < math.inf:
        raise ValueError(f"max_displacement must be positive (half tiles), got {max_displacement}")
    if not isinstance(generator, (torch.Generator, type(None))):
        raise TypeError(f"generator must be a torch.Generator, got {checks.shown(generator)}")
    device = None if device is None else choose_device(device)
    direction = torch.randn(count, 8, generator=generator, device=device)
    radius = torch.rand(count, 1, generator=generator, device=device) * max_displacement
    return direction / direction.norm(dim=1, keepdim=True) * radius


def corner_displacement(theta: Tensor, reference: Tensor | None = None) -> Tensor:
    """Mean distance ``(...)`` in half tiles between where ``theta`` and ``reference (..., 3, 3)`` put the tile corners.

    Without ``reference``, it is how far theta moves the corners.

    Example:
        >>> theta = iff.homography.exp(torch.tensor([0.25, 0, 0, 0, 0, 0, 0, 0]))
        >>> iff.homography.corner_displacement(theta)  # in half tiles: 28 px of a 224 tile
        tensor(0.2500)
    """
    check_matrices(theta, "theta")
    if reference is not None:
        check_matrices(reference, "reference")
        checks.check_same_device("reference", reference, "theta", theta)
        checks.check_broadcast("reference", reference, "theta", theta)
    corners = torch.tensor(CORNERS, dtype=theta.dtype, device=theta.device)
    where = corners if reference is None else _project(reference, corners)
    return (_project(theta, corners) - where).norm(dim=-1).mean(-1)


def distance(theta_hat: Tensor, theta: Tensor | None = None, kind: str = "log") -> Tensor:
    """Distance ``(...)`` of ``theta_hat (..., 3, 3)`` from ``theta``, or from the identity (paper, section 3.3).

    ``"log"`` is ``|Log(theta^-1 theta_hat)|`` in half tiles, and ``"euclidean"`` is ``|theta_hat - theta|_F``.
    ``"geodesic"`` is the angle of the projection of ``theta^-1 theta_hat`` onto SO(3), plus 0.1 times the squared
    projection residual. All have gradient 0 at distance 0.

    Example:
        >>> theta = iff.homography.exp(torch.tensor([0.25, 0, 0, 0, 0, 0, 0, 0]))
        >>> iff.homography.distance(theta, kind="log")
        tensor(0.2500)
    """
    check_distance(kind, "kind")
    check_matrices(theta_hat, "theta_hat")
    if theta is not None:
        check_matrices(theta, "theta")
        checks.check_same_device("theta", theta, "theta_hat", theta_hat)
        checks.check_broadcast("theta", theta, "theta_hat", theta_hat)
    else:
        theta = torch.eye(3, dtype=theta_hat.dtype, device=theta_hat.device)
    if kind == "euclidean":
        return torch.linalg.vector_norm(theta_hat - theta, dim=(-2, -1))
    if kind == "geodesic":
        return functional.geodesic_distance(theta, theta_hat)
    return torch.linalg.vector_norm(log(inverse(theta) @ theta_hat), dim=-1)


def check_distance(kind: str, name: str = "distance") -> None:
    """Raise ValueError unless ``kind``, which errors call ``name``, is one of ``DISTANCES``.

    Example:
        >>> iff.homography.check_distance("riemannian")
        Traceback (most recent call last):
        ValueError: distance must be one of log, euclidean, geodesic, got 'riemannian'
    """
    if not isinstance(kind, str) or kind not in DISTANCES:
        raise ValueError(f"{name} must be one of {', '.join(DISTANCES)}, got {checks.shown(kind)}")


def _project(theta: Tensor, points: Tensor) -> Tensor:
    """Images ``(..., P, 2)`` of ``points (P, 2)`` under ``theta``."""
    homogeneous = points @ theta[..., :2].mT + theta[..., None, :, 2]
    return homogeneous[..., :2] / homogeneous[..., 2:]
