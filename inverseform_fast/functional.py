"""One public function per op: it documents the op, checks the input, and calls the op.

All functions take tensors of any strides, predictions in float32, float64, float16 or bfloat16 (the last two are
computed in float32), and labels of an integer dtype, uint8 or int8 to int64. Another dtype is a TypeError. The C++/CUDA
extension computes rotations. C++ kernels on a CPU and Triton kernels on a GPU compute the rest; plain PyTorch does so
in float64. Triton kernels take maps of at most 32000 pixels in height and width that span fewer than 2^31 elements each
(batches may be larger). A channel that ``homography_warp`` reads on a CPU must also span fewer than 2^31 elements.
Kernels give the same bits on any number of CPU threads. They can be differentiated once; under the backend
``"reference"`` all functions have second derivatives (:func:`geodesic_distance` only without damping).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from . import checks, ops

__all__ = [
    "align",
    "boundary_loss",
    "boundary_map",
    "channels_first",
    "dice_loss",
    "dice_sums",
    "extract_tiles",
    "geodesic_distance",
    "homography_exp",
    "homography_warp",
    "local_correlation",
    "move_labels",
    "project_to_so3",
    "register_labels",
    "segmentation_loss",
    "soft_boundary_map",
]


def boundary_map(labels: Tensor, radius: int = 2, ignore_index: int = 255, release: bool = False) -> Tensor:
    """Boundaries of a label map: 1 where another valid class lies within Euclidean distance ``radius``, else 0.

    A void pixel is 255, and void neighbours make no boundary; neither do the image's borders.

    Args:
        labels: ``(N, H, W)`` class ids; a GPU compares only the low 32 bits of two ids.
        radius: radius of the disk stencil in pixels, at least 1.
        ignore_index: the id that marks void.
        release: reproduce the authors' public code instead, bit for bit: class 0 and void are "no class", nothing is
            255, and the image's border is drawn for every class but 0. (That code's specks in the top-left corner, from
            radius 3 on, are not reproduced.)

    Returns:
        ``(N, H, W)`` uint8 of 0, 1 and 255. With a channel dimension added, it is the target of
        :class:`inverseform_fast.InverseFormLoss`.

    Raises:
        TypeError, ValueError: wrong dtype, shape or radius.

    Example:
        >>> labels = torch.tensor([[[0, 0, 0, 1, 1, 255]]])
        >>> iff.functional.boundary_map(labels, radius=1)
        tensor([[[  0,   0,   1,   1,   0, 255]]], dtype=torch.uint8)
    """
    checks.check_labels(labels)
    radius, ignore_index = checks.check_radius(radius), checks.check_ignore_index(ignore_index)
    return ops.boundary_map(labels, radius, ignore_index, checks.check_flag(release, "release"))


def soft_boundary_map(
    logits: Tensor, size: Sequence[int] | None = None, radius: int = 2, as_logits: bool = False
) -> Tensor:
    """Boundary probability of predicted classes: :func:`boundary_map` for logits, and differentiable in them.

    It is ``1 - prod_d s_d`` over the neighbours d of the disk, the probability that some neighbour's class differs.
    ``s_d = sum_c sqrt(p_c(x) p_c(x + d))`` is the Bhattacharyya coefficient of the two class distributions. For one-hot
    p the result equals ``boundary_map``. Where neighbours agree it is 0, however unsure they are.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        size: ``(H, W)`` that the logits are upsampled to first (bilinear, ``align_corners=False``); None keeps theirs.
        radius: radius of the disk stencil in pixels of the result, at least 1.
        as_logits: give the logits of the probabilities, clamped to [1e-6, 1 - 1e-6], as a boundary head does.

    Returns:
        ``(N, 1, H, W)`` probabilities in [0, 1], or logits; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: wrong dtype, shape, size or radius.

    Example:
        >>> logits = 20 * torch.tensor([[[[1.0, 1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1, 1]]]])  # two classes, side by side
        >>> iff.functional.soft_boundary_map(logits, radius=1).round().int()
        tensor([[[[0, 0, 1, 1, 0, 0]]]], dtype=torch.int32)
    """
    checks.check_maps(logits, "logits")
    size = logits.shape[-2:] if size is None else checks.check_size(size)
    radius, as_logits = checks.check_radius(radius), checks.check_flag(as_logits, "as_logits")
    return ops.soft_boundary_map(ops.channels_first(logits), size, radius, as_logits)


def channels_first(maps: Tensor) -> Tensor:
    """The same maps in planes: contiguous, if their channels lie side by side in memory (``channels_last``).

    The kernels of the losses read one class after the other, so they copy such logits first, by this function. Call it
    yourself for logits that go into several losses, so that they are copied once, as :class:`BoundaryAwareLoss` does.
    Maps of any other strides, and all maps under plain PyTorch, are returned as they are.

    Args:
        maps: ``(N, C, h, w)`` logits.

    Returns:
        ``(N, C, h, w)`` of the same dtype and values. The gradient of a copy is channels_last, as the maps are.

    Raises:
        TypeError, ValueError: wrong dtype or shape.

    Example:
        >>> logits = torch.zeros(2, 19, 64, 128).contiguous(memory_format=torch.channels_last)
        >>> iff.functional.channels_first(logits).is_contiguous()
        True
    """
    checks.check_maps(maps, "maps")
    return ops.channels_first(maps)


def extract_tiles(
    predicted: Tensor, target: Tensor, size: Sequence[int], tile: int = 224, activation: str | None = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """Predicted and true boundary maps, resized and cut into tiles for an inverse-transformation network (paper, 3.4).

    The prediction passes through ``activation``; both maps are resized to ``size`` (bilinear, ``align_corners=False``,
    no antialiasing) and cut without overlap. If void pixels of the target contribute at least 1/1000 to a pixel of the
    result, that pixel is 0 on both sides.

    Args:
        predicted: ``(N, 1, h, w)`` boundary logits of any resolution (probabilities, with ``activation=None``).
        target: ``(N, 1, H, W)`` integer or floating-point map of 0, 1 and 255 (void). Other values are an error on a
            CPU, except under ``torch.compile``. On a GPU, where a check would wait for the device, they count as 0.
        size: ``(H', W')``, multiples of ``tile``.
        tile: edge of a tile in pixels.
        activation: ``"sigmoid"`` or None.

    Returns:
        Two tensors ``(N * H'/tile * W'/tile, 1, tile, tile)``: predicted and true tiles, image by image, row by row.

    Raises:
        TypeError, ValueError: wrong dtype, shape, value, size or activation.

    Example:
        >>> logits, target = torch.randn(2, 1, 64, 128), torch.zeros(2, 1, 256, 512)
        >>> predicted, true = iff.functional.extract_tiles(logits, target, size=(224, 448))
        >>> predicted.shape  # two tiles of each image
        torch.Size([4, 1, 224, 224])
    """
    size, tile = checks.check_extract_tiles(predicted, target, size, tile, activation)
    return ops.extract_tiles(predicted, target, size, tile, activation)


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


def register_labels(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """By which motion of each tile does a prediction find its labels most likely?

    Tiles of about 224 pixels of the labels, each of which overlaps half of the next one, are registered one by one:
    by maximum a posteriori estimation of a homography ``exp(a)`` at which the tile's labels are read, in ten steps of
    the Levenberg-Marquardt method. A reading that is not longer than its own noise lets expect is 0, as it is in tiles
    of fewer than two classes. :class:`inverseform_fast.LabelAligner` moves labels by the readings. There is no
    gradient.

    Args:
        logits: ``(N, C, h, w)`` of any resolution, finite; a class may be impossible (-inf).
        labels: ``(N, H, W)`` class ids; what is no class below C counts as void.
        ignore_index: the id that marks void.

    Returns:
        ``(N, rows, columns, 8)`` float32 (float64 for float64 logits): Lie-algebra coefficients ``a`` in half tiles.
        Rows and columns are ``2 round(H / 224) - 1`` and ``2 round(W / 224) - 1``, at least 1.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device.

    Example:
        >>> labels = torch.zeros(1, 224, 224, dtype=torch.uint8)
        >>> labels[:, 60:160, 50:170] = 1  # a square
        >>> logits = torch.stack((labels == 0, labels == 1), 1) * 20.0
        >>> a = iff.functional.register_labels(logits, labels.roll(8, -1))[0, 0, 0]
        >>> (iff.homography.exp(a)[0, 2] * 112).round()  # pixels along x at which the labels should be read
        tensor(7.)
    """
    checks.check_maps(logits, "logits")
    checks.check_labels(labels, batch=logits.shape[0])
    checks.check_same_device("labels", labels, "logits", logits)
    return ops.register_labels(logits, labels, checks.check_ignore_index(ignore_index))


def move_labels(motion: Tensor, labels: Tensor, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    """Read labels along a flow that blends the motions of overlapping tiles without tearing.

    Between the centres of the tiles, the coefficients are interpolated bilinearly; beyond the outermost ones they are
    constant. So each point has a velocity, which is continuous, and it flows along it for a unit of time, in two steps
    of ``exp``. A flow never folds, and motions that are all one homography stay just that. The flow is taken at points
    of an eighth of a tile, about, and interpolated. There is no gradient.

    Args:
        motion: ``(N, rows, columns, 8)`` Lie-algebra coefficients in the image's coordinates (half images), of tiles
            whose centres divide each edge into equal parts. Labels are read at ``exp(a)``.
        labels: ``(N, H, W)`` class ids; their dtype must hold ``ignore_index``.
        ignore_index: what a pixel becomes whose label would lie outside the image.

    Returns:
        The labels ``(N, H, W)``, read to the nearest pixel, and where they were read relative to the pixel:
        ``(N, 2, H, W)`` float32 (float64 for float64 motion), (x, y) in pixels.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device.

    Example:
        >>> motion = torch.zeros(1, 1, 1, 8)
        >>> motion[..., 0] = 0.5  # half of half an image along x, which is one pixel of four
        >>> labels = torch.tensor([[[1, 2, 3, 4]]])
        >>> iff.functional.move_labels(motion, labels)[0]
        tensor([[[  2,   3,   4, 255]]])
    """
    checks.check_labels(labels)
    checks.check_motion(motion, labels.shape[0])
    checks.check_same_device("labels", labels, "motion", motion)
    ignore_index = checks.check_holds(labels, checks.check_ignore_index(ignore_index))
    return ops.move_labels(motion, labels, ignore_index)


def segmentation_loss(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255
) -> Tensor:
    """Cross-entropy of logits upsampled (bilinear, ``align_corners=False``) to the labels, mean over valid pixels.

    It equals ``F.cross_entropy(F.interpolate(logits, ...), labels, class_weights, ignore_index=...)``, but is 0 with
    zero gradients if no pixel is valid.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        labels: ``(N, H, W)`` class ids.
        class_weights: ``(C,)`` weights of the classes in the mean, at least 0.
        ignore_index: the id that marks void.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes or devices are wrong, a weight is negative, or a class id lies outside [0, C). Values are
            checked on the CPU only, and not under ``torch.compile`` or other transforms. On a GPU, where a check would
            wait for the device, the loss of a wrong class id is NaN instead.

    Example:
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.uint8)
        >>> iff.functional.segmentation_loss(logits, labels)  # four equally likely classes: log 4
        tensor(1.3863)
    """
    ignore_index = checks.check_segmentation_loss(logits, labels, class_weights, ignore_index)
    return ops.segmentation_loss(ops.channels_first(logits), labels, class_weights, ignore_index)


def dice_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255, sums: Tensor | None = None) -> Tensor:
    """Dice loss of the predicted classes (Milletari et al., V-Net, 2016), mean over the classes present.

    The probabilities p are the softmax of logits upsampled (bilinear, ``align_corners=False``) to the labels, and y is
    the one-hot label. A class has the loss ``1 - 2 sum(p y) / (sum(p) + sum(y))``, with sums over all valid pixels of
    the batch. Classes that no valid pixel has are left out. So a small class counts as much as a large one. The loss is
    0 with zero gradients if no pixel is valid.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        labels: ``(N, H, W)`` class ids.
        ignore_index: the id that marks void.
        sums: :func:`dice_sums` of a larger batch, of which this is a part: the loss is then of that batch, and the
            gradient that of this part. None takes the sums of this batch.

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 logits). It is NaN, and so is its gradient, if the logits of a
        valid pixel hold NaN or infinity; a class may have the logit minus infinity, which means that it is impossible.

    Raises:
        ValueError: shapes or devices are wrong, or a class id lies outside [0, C), as in :func:`segmentation_loss`.

    Example:
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 32, 32, dtype=torch.uint8)
        >>> iff.functional.dice_loss(logits, labels)  # p = 1/4 of the one class present: 1 - 2/4 / (1/4 + 1)
        tensor(0.6000)
    """
    ignore_index = checks.check_segmentation_loss(logits, labels, None, ignore_index)
    if sums is not None:
        sums = checks.check_sums(sums, "sums", (3, logits.shape[1]), "logits", logits)
    return ops.dice_loss(ops.channels_first(logits), labels, ignore_index, sums)


def dice_sums(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Each class's sums over the pixels that :func:`dice_loss` is made of: ``sum p y``, ``sum p`` and ``sum y``.

    The sums of the parts of a batch add up to those of the batch. They have no gradient.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        labels: ``(N, H, W)`` class ids.
        ignore_index: the id that marks void.

    Returns:
        ``(3, C)`` float64.

    Raises:
        ValueError: as in :func:`dice_loss`.

    Example:
        >>> logits, labels = torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8)
        >>> iff.functional.dice_sums(logits, labels)[:, 0]  # 128 pixels of class 0, of which p is 1/4
        tensor([ 32.,  32., 128.], dtype=torch.float64)
    """
    ignore_index = checks.check_segmentation_loss(logits, labels, None, ignore_index)
    return ops.dice_sums(ops.channels_first(logits), labels, ignore_index)


def boundary_loss(
    boundary_logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, counts: Tensor | None = None
) -> Tensor:
    """Class-balanced binary cross-entropy of boundary logits against the boundaries of the labels (paper, section 3.5).

    Positives are weighted by the share of negatives among the batch's valid pixels, and negatives by that of positives;
    the mean is over these pixels. The loss is 0 with zero gradients if they are all of one kind, or if there are none.

    Args:
        boundary_logits: ``(N, 1, h, w)``, upsampled (bilinear, ``align_corners=False``) to the labels.
        labels: ``(N, H, W)`` class ids.
        radius: radius of the target's :func:`boundary_map` in pixels.
        ignore_index: the id that marks void.
        counts: ``(2,)`` float64, how many positive and negative pixels a larger batch has, of which this is a part:
            weights and mean are then those of that batch, and the losses of its parts add up to its loss. None counts
            those of this batch.

    Returns:
        Scalar, float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: wrong dtype, shape or radius.

    Example:
        >>> labels = torch.arange(4).repeat_interleave(8).expand(2, 32, 32)  # four stripes
        >>> iff.functional.boundary_loss(torch.zeros(2, 1, 8, 8), labels) > 0
        tensor(True)
    """
    checks.check_maps(boundary_logits, "boundary_logits", channels=1)
    checks.check_labels(labels, batch=boundary_logits.shape[0])
    checks.check_same_device("labels", labels, "boundary_logits", boundary_logits)
    radius, ignore_index = checks.check_radius(radius), checks.check_ignore_index(ignore_index)
    if counts is not None:
        counts = checks.check_sums(counts, "counts", (2,), "boundary_logits", boundary_logits)
    return ops.boundary_loss(boundary_logits, labels, radius, ignore_index, counts)
