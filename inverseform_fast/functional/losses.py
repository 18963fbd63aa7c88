"""The losses of logits and labels; see :mod:`inverseform_fast.functional`."""

from __future__ import annotations

from torch import Tensor

from .. import checks, ops


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


def boundary_f1_loss(
    logits: Tensor,
    labels: Tensor,
    radius: int = 2,
    ignore_index: int = 255,
    tolerance: int = 2,
    sums: Tensor | None = None,
) -> Tensor:
    """1 - F1 of each class's predicted boundary against its true one, mean over the classes that have a true one.

    The probabilities p are the softmax of logits upsampled (bilinear, ``align_corners=False``) to the labels. A pixel's
    *window* is the square of the pixels within ``radius``, cut off at the image's border. A pixel is *known* if its
    window has no void. There a class's predicted boundary is ``b = p - min(p)``, with the minimum over the window, and
    its true boundary is t = 1 if the label is the class and another class is in the window. Elsewhere both are 0.
    *Near* are pixels with a t of 1 at most ``tolerance`` away in each direction. Precision is ``sum(b near) / sum(b)``,
    recall is ``sum(b t) / sum(t)``, and F1 is ``2 precision recall / (precision + recall)``, or 0 where both are 0. The
    sums are over the batch. The loss is 0 with zero gradients if there is no true boundary.

    The F1 of boundaries by pooling is of Bokhovkin and Burnaev, "Boundary loss for remote sensing imagery semantic
    segmentation", 2019. They sum over each image, and their recall pools the predicted boundary by the tolerance.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        labels: ``(N, H, W)`` class ids.
        radius: pixels from a pixel to the edge of its window, at least 1.
        ignore_index: the id that marks void.
        tolerance: pixels by which a predicted boundary may be off and still be precise, at least 0.
        sums: :func:`boundary_f1_sums` of a larger batch, of which this is a part: the loss is then of that batch, and
            the gradient that of this part. None takes the sums of this batch.

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 logits). It is NaN, and so is its gradient, if the logits of a
        pixel in the window of a known one hold NaN or infinity; a class may have the logit minus infinity.

    Raises:
        ValueError: shapes, devices, radius or tolerance are wrong, or a class id lies outside [0, C), as in
            :func:`segmentation_loss`.

    Example:
        >>> labels = torch.arange(4).repeat_interleave(8).expand(2, 32, 32)  # four stripes
        >>> sure = 50 * torch.nn.functional.one_hot(labels).movedim(-1, 1).float()
        >>> iff.functional.boundary_f1_loss(sure, labels)
        tensor(0.)
        >>> iff.functional.boundary_f1_loss(sure.roll(8, -1), labels)  # nothing of it is near
        tensor(1.)
    """
    ignore_index = checks.check_segmentation_loss(logits, labels, None, ignore_index)
    radius = checks.check_radius(radius)
    tolerance = checks.check_whole(tolerance, "tolerance", 0, " of pixels")
    if sums is not None:
        sums = checks.check_sums(sums, "sums", (4, logits.shape[1]), "logits", logits)
    return ops.boundary_f1_loss(ops.channels_first(logits), labels, radius, ignore_index, tolerance, sums)


def boundary_f1_sums(
    logits: Tensor, labels: Tensor, radius: int = 2, ignore_index: int = 255, tolerance: int = 2
) -> Tensor:
    """Each class's sums over the pixels that :func:`boundary_f1_loss` is made of.

    They are ``sum b``, ``sum b near``, ``sum b t`` and ``sum t``. The sums of the parts of a batch add up to those of
    the batch. They have no gradient.

    Args:
        logits: ``(N, C, h, w)`` class logits.
        labels: ``(N, H, W)`` class ids.
        radius: of the windows in which boundary is sought, in pixels.
        ignore_index: the id that marks void.
        tolerance: how far from the true boundary is near, in pixels.

    Returns:
        ``(4, C)`` float64.

    Raises:
        ValueError: as in :func:`boundary_f1_loss`.

    Example:
        >>> labels = torch.arange(2).repeat_interleave(4).expand(1, 8, 8)  # two halves
        >>> iff.functional.boundary_f1_sums(torch.zeros(1, 2, 8, 8), labels)[:, 0]  # the map is flat: only t counts
        tensor([ 0.,  0.,  0., 16.], dtype=torch.float64)
    """
    ignore_index = checks.check_segmentation_loss(logits, labels, None, ignore_index)
    radius = checks.check_radius(radius)
    tolerance = checks.check_whole(tolerance, "tolerance", 0, " of pixels")
    return ops.boundary_f1_sums(ops.channels_first(logits), labels, radius, ignore_index, tolerance)


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
