"""so3, plain PyTorch: projection onto SO(3) and the geodesic distance of homographies, always computed in float64.

P = U diag(1, 1, det(U V^T)) V^T is found as a quaternion (w, v), the top eigenvector of Davenport's 4x4 matrix (Horn
1987), which leaves no sign to choose. Gradients are closed forms that follow from P^T dP = [K^-1 vee(P^T dM)]x; the
autograd of an SVD would divide by s_i^2 - s_j^2, which is 0 at the identity. Second derivatives follow from them.
Notation: H = P^T M, K = tr(H) I - H, vee(A) = (A32 - A23, A13 - A31, A21 - A12), [y]x z = y x z (cross product).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# An eigenvalue below this share of the largest is rounding noise. Along its direction any answer is as good; we take 0.
NOISE = 2.0**-46


def project_to_so3(matrix: Tensor) -> Tensor:
    """Nearest rotation to each (..., 3, 3) matrix of any scale and rank, in float32 (float64 for float64).

    A zero matrix gives the identity; a non-finite one gives NaN, in its place only. The gradient is
    P [K^-1 vee(P^T F)]x with F = df/dP. Where the projection jumps (rank <= 1, or a negative determinant and s2 = s3),
    it takes the pseudo-inverse of K.
    """
    return _Projection.apply(matrix.double()).to(torch.promote_types(matrix.dtype, torch.float32))


def geodesic_distance(
    theta: Tensor,
    theta_hat: Tensor,
    lam: float = 0.1,
    normalize: str | None = None,
    smooth: float = 0.0,
    damping: float = 0.0,
) -> Tensor:
    """angle(P) + lam |M - P|_F^2 of M = theta^-1 theta_hat, in float32 (float64 if either argument is): (...) radians.

    theta, theta_hat: (..., 3, 3), broadcast. A match gives exactly 0 with zero gradients; a singular theta or a
    non-finite matrix gives NaN, in its place only.
    normalize: divides M by sign(det M) |M|_F / sqrt(3) ("frobenius") or by cbrt(det M) ("det"); NaN where that is 0.
    smooth: turns the angle into sqrt(angle^2 + smooth^2) - smooth, whose gradient vanishes at 0.
    damping: the gradient (not the value) takes (K^2 + (damping s1)^2 I)^-1 K for K^-1; s1 is the largest singular value
        of M.
    """
    dtype = torch.promote_types(torch.promote_types(theta.dtype, theta_hat.dtype), torch.float32)
    theta, theta_hat = torch.broadcast_tensors(theta.double(), theta_hat.double())
    return _Geodesic.apply(theta, theta_hat, lam, normalize, smooth, damping)[0].to(dtype)


class _Projection(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor) -> Tensor:
        return _eye(matrix) + _rotation_minus_eye(_quaternion(matrix))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        matrix, rotation = ctx.saved_tensors
        # P^T M stays symmetric, so M + dM turns P by w: dP = P [w]x with K w = vee(P^T dM). For G = df/dP,
        # <G, P [w]x> = vee(P^T G) . w, and K is symmetric: df/dM = P [K^-1 vee(P^T G)]x.
        return rotation @ _cross(_Solution.apply(_k(rotation, matrix), _vee(rotation.mT @ grad)))


class _Solution(torch.autograd.Function):
    """:func:`_solve` with derivatives: of x = K^-1 v, dx = K^-1 (dv - dK x)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, vector: Tensor) -> Tensor:
        return _solve(matrix, vector)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        matrix, solution = ctx.saved_tensors
        grad_vector = _Solution.apply(matrix, grad)
        return -grad_vector[..., None] * solution[..., None, :], grad_vector


class _Geodesic(torch.autograd.Function):
    """The forward also computes both gradients, which cost little more; the backward only scales them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        theta: Tensor, theta_hat: Tensor, lam: float, normalize: str | None, smooth: float, damping: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        eye, inverse = _eye(theta), _inverse(theta)
        product, difference = inverse @ theta_hat, inverse @ (theta_hat - theta)
        # Near a match, M - I comes from the difference: rounding in 1 + e would lose the direction of a small e.
        near = _norm(theta_hat - theta) < _norm(theta_hat) / 2
        matrix, minus_eye = torch.where(near, eye + difference, product), torch.where(near, difference, product - eye)
        divisor = _divisor(matrix, normalize)
        scaled, minus_eye = matrix / divisor, (minus_eye - (divisor - 1) * eye) / divisor

        quaternion = _quaternion(scaled)
        turn = _rotation_minus_eye(quaternion)
        rotation, residual = eye + turn, minus_eye - turn
        w, v = quaternion[..., :1], quaternion[..., 1:]
        sine = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        angle = 2 * torch.atan2(sine, w)  # arccos would lose half of the digits at 0 and at pi
        hypot = torch.hypot(angle, torch.full_like(angle, smooth))
        # The angle has a cusp at 0 (we take the gradient 0), and two equally good axes at pi (we take one).
        value = torch.where(sine == 0, 0, angle * (angle / (hypot + smooth)))
        axis = torch.where(sine == 0, 0, v / sine * (angle / hypot))
        distance = value[..., 0] + lam * residual.square().sum((-2, -1))

        # The angle grows by axis . w, with w as in _Projection, so its gradient is df/dM = P [K^-1 axis]x. P is the
        # nearest rotation, so M - P is orthogonal to every dP: the residual changes by dM only, its gradient is
        # 2 (M - P).
        grad = rotation @ _cross(_solve(_k(rotation, scaled), axis, damping)) + 2 * lam * residual
        if normalize is not None:  # M / divisor does not depend on M's scale: no gradient along it
            radial = scaled / 3 if normalize == "frobenius" else _adjugate(scaled)[0].mT / 3
            grad = (grad - (grad * scaled).sum((-2, -1), keepdim=True) * radial) / divisor
        # M = theta^-1 theta_hat: dM = theta^-1 (d theta_hat - d theta M).
        grad_theta_hat = inverse.mT @ grad
        return distance, -grad_theta_hat @ matrix.mT, grad_theta_hat

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*inputs[:2], *output[1:])
        ctx.options = inputs[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        theta, theta_hat, *saved = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # they will be differentiated
            saved = _geodesic_gradients(theta, theta_hat, *ctx.options)
        return *(grad[..., None, None] * gradient for gradient in saved), None, None, None, None


def _geodesic_gradients(
    theta: Tensor, theta_hat: Tensor, lam: float, normalize: str | None, smooth: float, damping: float
) -> list[Tensor]:
    """The gradients of :class:`_Geodesic`, by functions that can be differentiated."""
    if damping:
        raise NotImplementedError("geodesic_distance has second derivatives only without damping")
    inverse = _inverse(theta)
    matrix = inverse @ theta_hat
    divisor = _divisor(matrix, normalize)
    scaled = matrix / divisor
    rotation = _Projection.apply(scaled)
    vee = _vee(rotation)  # 2 sin(angle) times the axis
    turned = (vee != 0).any(-1, keepdim=True)
    length = torch.linalg.vector_norm(torch.where(turned, vee, 1), dim=-1, keepdim=True)
    angle = torch.atan2(length, _trace(rotation)[..., 0] - 1)
    at_a_match = vee / (2 * smooth) if smooth else 0  # without smoothing, the angle has a cusp there
    axis = torch.where(turned, vee / length * (angle / (angle.square() + smooth**2).sqrt()), at_a_match)
    grad = rotation @ _cross(_Solution.apply(_k(rotation, scaled), axis)) + 2 * lam * (scaled - rotation)
    if normalize is not None:
        radial = scaled / 3 if normalize == "frobenius" else _adjugate(scaled)[0].mT / 3
        grad = (grad - (grad * scaled).sum((-2, -1), keepdim=True) * radial) / divisor
    grad_theta_hat = inverse.mT @ grad
    return [-grad_theta_hat @ matrix.mT, grad_theta_hat]


def _quaternion(matrix: Tensor) -> Tensor:
    """(..., 4) quaternion (w, v) of the nearest rotation, w >= 0, of any length; v is accurate relative to itself."""
    matrix = matrix * _power_of_two(matrix)
    trace, vee, eye = _trace(matrix), _vee(matrix), _eye(matrix)
    right = torch.cat((vee[..., None, :], matrix + matrix.mT - trace * eye), -2)
    values, vectors = _eigh(torch.cat((torch.cat((trace, vee[..., None]), -2), right), -1))
    largest, top = values[..., -1:], vectors[..., -1]
    # Solve the same eigenvalue equation for what is left of the rotation, g = v / w. Start from the identity if that is
    # near (a symmetric matrix then gives exactly 0, and M = 0 the identity), else from the eigenvector, whose rounding
    # this removes.
    identity = torch.eye(4, dtype=matrix.dtype, device=matrix.device)[0]
    start = torch.where((top[..., :1].abs() > 0.9) | (largest == 0), identity, top)
    rest = (eye + _rotation_minus_eye(start)).mT @ matrix
    g = _solve((largest[..., None] + _trace(rest)) * eye - (rest + rest.mT), _vee(rest))
    w, v = start[..., :1], start[..., 1:]
    product = torch.cat((w - (v * g).sum(-1, keepdim=True), v + w * g + torch.linalg.cross(v, g)), -1)
    return torch.where(product[..., :1] < 0, -product, product)


def _rotation_minus_eye(quaternion: Tensor) -> Tensor:
    cross = _cross(quaternion[..., 1:])
    return (quaternion[..., :1, None] * cross + cross @ cross) * (2 / quaternion.square().sum(-1)[..., None, None])


def _k(rotation: Tensor, matrix: Tensor) -> Tensor:
    h = rotation.mT @ matrix
    return _trace(h) * _eye(h) - h


def _solve(matrix: Tensor, vector: Tensor, damping: float = 0.0) -> Tensor:
    """Pseudo-inverse of a positive semi-definite 3x3 matrix times a vector, damped as in geodesic_distance."""
    values, vectors = _eigh(matrix)
    top = values[..., -1:]
    ratio = values / top
    largest_singular = (1 + ratio[..., 1:2] - ratio[..., :1]) / 2  # K has s2 + s3, s1 + s3, s1 + s2, here over the last
    weights = ratio / (ratio.square() + (damping * largest_singular).square()) / top
    weights = torch.where(values <= NOISE * top, 0, weights)
    return ((vectors * weights[..., None, :]) @ (vectors.mT @ vector[..., None]))[..., 0]


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """eigh, of 0 in place of a non-finite matrix, for which LAPACK would refuse the whole batch.

    The vector that the result is applied to is NaN then.
    """
    finite = matrix.isfinite().all(-1).all(-1)[..., None, None]
    return torch.linalg.eigh(torch.where(finite, matrix, 0))


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse that is inf or NaN for a singular matrix, for which linalg.inv would raise for the whole batch."""
    scale = _power_of_two(matrix)
    adjugate, det = _adjugate(matrix * scale)
    return adjugate / det * scale


def _divisor(matrix: Tensor, normalize: str | None) -> Tensor:
    """(..., 1, 1) that normalization divides M by; exactly 1 for the identity."""
    if normalize is None:
        return torch.ones_like(matrix[..., :1, :1])
    scale = _power_of_two(matrix)
    det, mean_square = _adjugate(matrix * scale)[1], (matrix * scale).square().sum((-2, -1), keepdim=True) / 3
    size = mean_square.sqrt() if normalize == "frobenius" else det.abs() ** (1 / 3)
    return torch.where(det < 0, -size, size) / scale


def _power_of_two(matrix: Tensor) -> Tensor:
    """(..., 1, 1) factor that brings the largest entry into [1, 2), to keep sums and products in range."""
    exponent = torch.frexp(matrix.abs().amax((-2, -1), keepdim=True)).exponent - 1
    return torch.exp2(-exponent.clamp(-1000, 1000).to(matrix.dtype))


def _adjugate(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Adjugate (..., 3, 3) and determinant (..., 1, 1)."""
    a, b, c = matrix.unbind(-2)
    columns = torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)
    return torch.stack(columns, -1), (a * columns[0]).sum(-1)[..., None, None]


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix, keepdim=True)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _eye(like: Tensor) -> Tensor:
    return torch.eye(3, dtype=like.dtype, device=like.device)


def _vee(a: Tensor) -> Tensor:
    return torch.stack((a[..., 2, 1] - a[..., 1, 2], a[..., 0, 2] - a[..., 2, 0], a[..., 1, 0] - a[..., 0, 1]), -1)


def _cross(y: Tensor) -> Tensor:
    zero = torch.zeros_like(y[..., 0])
    a, b, c = y.unbind(-1)
    return torch.stack((zero, -c, b, c, zero, -a, -b, a, zero), -1).unflatten(-1, (3, 3))
