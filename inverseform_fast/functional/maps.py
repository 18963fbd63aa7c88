"""Boundary maps, tiles of them, and the layout of logits; see :mod:`inverseform_fast.functional`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import checks, ops


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
