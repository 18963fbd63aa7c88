"""Labels moved to where a prediction sees them; see :mod:`inverseform_fast.functional`."""

from __future__ import annotations

from torch import Tensor

from .. import checks, ops


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
