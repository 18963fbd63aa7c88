"""Homographies, rotations and the default network; see :mod:`inverseform_fast.functional`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import checks, ops


def homography_exp(a: Tensor) -> Tensor:
    """Homography that has given Lie-algebra coefficients; see :func:`inverseform_fast.homography.exp`.

    It is computed in float64 and rounded once, whatever the dtype. A row's result does not depend on the other rows.

    Args:
        a: ``(..., 8)`` floating-point coefficients in half tiles.

    Returns:
        ``(..., 3, 3)`` matrices of determinant 1, of a's dtype.

    Raises:
        TypeError, ValueError: wrong dtype or shape.

    Example:
        >>> iff.functional.homography_exp(torch.zeros(1, 8))  # no motion
        tensor([[[1., 0., 0.],
                 [0., 1., 0.],
                 [0., 0., 1.]]])
    """
    checks.check_rows(a, "a", 8)
    return ops.homography_exp(a)


def homography_warp(
    image: Tensor,
    theta: Tensor,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding: str = "zeros",
) -> Tensor:
    """``warp(image, theta)(p) = image(theta p)``: sample the image where the homography sends the result's pixels.

    Coordinates run from -1 to 1 over the image and over the result, with x to the right, y down, and pixel centres as
    in ``grid_sample`` with ``align_corners=False``. Points that a homography sends behind the projection centre count
    as far outside. Where theta sends a pixel to NaN, the result is NaN, or 0 with ``mode="nearest"``. On a GPU, the
    image's gradient is summed in 64-bit fixed point, so that every run gives the same bits; if any of the incoming
    gradient is NaN, all of it is NaN.

    Args:
        image: ``(N, C, H, W)``; floating point, or any dtype of whole numbers up to 2^24 with ``mode="nearest"``.
        theta: ``(N, 3, 3)`` floating-point maps from output points to input points; or ``(N, T, 3, 3)`` for T views of
            each image, which is then read once (the tiles of an image, the two sides of a training pair).
        size: ``(H', W')`` of the result; None keeps the image's size.
        mode: ``"bilinear"``, or ``"nearest"`` for labels.
        padding: ``"zeros"`` or ``"border"``, for points outside the image.

    Returns:
        ``(N, C, H', W')``, or ``(N, T, C, H', W')``, of the image's dtype.

    Raises:
        TypeError, ValueError: wrong dtype, shape, size, mode or padding.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 1, 4)
        >>> theta = torch.eye(3)[None].clone()
        >>> theta[0, 0, 2] = 0.5  # read half a unit to the right: one pixel of four
        >>> iff.functional.homography_warp(image, theta)
        tensor([[[[1., 2., 3., 0.]]]])
    """
    checks.check_homography_warp(image, theta, mode, padding)
    size = image.shape[-2:] if size is None else checks.check_size(size)
    return ops.homography_warp(image, theta, size, mode, padding)


def local_correlation(first: Tensor, second: Tensor, reach: int = 3, groups: int = 1) -> Tensor:
    """How alike each cell's features are to those of nearby cells of the other map, for each group of channels.

    It is the mean of ``first(y, x) * second(y + dy, x + dx)`` over a group's channels, for ``dy`` and ``dx`` from
    ``-reach`` to ``reach``. Cells outside the map count as zero.

    Args:
        first, second: ``(N, C, h, w)`` feature maps.
        reach: largest distance between two cells, in y and in x.
        groups: number of groups, a divisor of C.

    Returns:
        ``(N, groups * (2 reach + 1)^2, h, w)``, in the order of group, dy, dx.

    Raises:
        TypeError, ValueError: wrong dtype, shape, reach or groups.

    Example:
        >>> first = second = torch.ones(1, 8, 5, 5)
        >>> iff.functional.local_correlation(first, second, reach=1).shape  # 3 x 3 offsets
        torch.Size([1, 9, 5, 5])
    """
    reach, groups = checks.check_local_correlation(first, second, reach, groups)
    return ops.local_correlation(first, second, reach, groups)


def align(predicted: Tensor, target: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """One step of the default network: the homography that best explains how each cell moved between two tiles.

    :class:`inverseform_fast.nets.Align` holds the ``weights``. If one needs a gradient, plain PyTorch runs. On a GPU,
    products are in TF32, unless ``torch.backends.cudnn.conv.fp32_precision`` says otherwise.

    Args:
        predicted, target: ``(N, 1, tile, tile)`` boundary probabilities of one dtype; ``tile`` is a multiple of 8.
        weights: ``Align.weights``: those of convolutions and normalization, the prior, and the velocity of each cell.

    Returns:
        Lie-algebra coefficients ``(N, 8)`` in half tiles, to first order in the displacement; float32 (float64 for
        float64 tiles).

    Raises:
        TypeError, ValueError: wrong dtype, shape or device.

    Example:
        >>> net = iff.InverseTransformNet.compact().requires_grad_(False)
        >>> tiles = torch.rand(2, 1, 224, 224)
        >>> iff.functional.align(tiles, tiles, net.weights).abs().max()  # identical tiles need no motion
        tensor(0.)
    """
    checks.check_align(predicted, target, weights)
    return ops.align(predicted, target, weights)


def project_to_so3(matrix: Tensor) -> Tensor:
    """Nearest rotation to each matrix, ``U diag(1, 1, det(U V^T)) V^T`` (paper, section 3.3), with its exact gradient.

    Args:
        matrix: ``(..., 3, 3)`` floating-point matrices.

    Returns:
        ``(..., 3, 3)`` rotations, of determinant +1 whatever the input. A matrix that is not finite gives NaN, in its
        own row only.

    Raises:
        ValueError: wrong dtype or shape.
        NotImplementedError: a kernel's gradient is differentiated again.

    Example:
        >>> iff.functional.project_to_so3(torch.diag(torch.tensor([2.0, 3.0, 4.0])))
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    checks.check_matrices(matrix, "matrix")
    return ops.project_to_so3(matrix)


def geodesic_distance(
    theta: Tensor,
    theta_hat: Tensor,
    lam: float = 0.1,
    normalize: str | None = None,
    smooth: float = 0.0,
    damping: float = 0.0,
) -> Tensor:
    """``angle(P) + lam |M - P|_F^2``, where P projects ``M = theta^-1 theta_hat`` onto SO(3) (paper, section 3.3).

    The angle is in radians. The distance and its gradient are exactly 0 at a match; near one the gradient is bounded by
    0.7071, where those of SVD and arccos explode.

    Args:
        theta: ``(..., 3, 3)`` true transformations (the identity, if the distance is a loss).
        theta_hat: ``(..., 3, 3)`` estimates; batch dimensions broadcast.
        lam: weight of the squared projection residual.
        normalize: how M is scaled first: None (not at all), ``"frobenius"`` (to ``|M|_F = sqrt 3``) or ``"det"`` (to
            ``det M = 1``); the last two also fix its sign.
        smooth: ``eps`` of ``sqrt(angle^2 + eps^2) - eps``, for optimisers that need a gradient that vanishes at a
            match.
        damping: caps the angle's gradient at ``sqrt 2 / (2 damping s1)`` near reflections and matrices of rank one,
            where P jumps; ``s1`` is the largest singular value of M.

    Returns:
        ``(...)`` distances.

    Raises:
        ValueError: wrong dtype, device, shape or option.
        NotImplementedError: a kernel's gradient is differentiated again.

    Example:
        >>> quarter_turn = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
        >>> iff.functional.geodesic_distance(torch.eye(3), quarter_turn)  # pi / 2
        tensor(1.5708)
    """
    lam, smooth, damping = checks.check_geodesic_distance(theta, theta_hat, lam, normalize, smooth, damping)
    return ops.geodesic_distance(theta, theta_hat, lam, normalize, smooth, damping)
