"""The tables show a segmentation model's metrics in per cent, as mean and standard deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

COLUMNS = {
    "miou": "mIoU",
    "mba": "mBA",
    "boundary_f_1px": "boundary F, 1 px",
    "boundary_f_3px": "boundary F, 3 px",
    "boundary_f_5px": "boundary F, 5 px",
    "boundary_iou": "Boundary IoU",
    "pixel_accuracy": "pixel accuracy",
}


def per_cent(shares: Sequence[float | None], signed: bool = False) -> str:
    """Print the mean and, of several shares, the standard deviation in per cent; a dash if a share is not known."""
    known = [100 * share for share in shares if share is not None]
    if not known or len(known) < len(shares):
        return "-"
    mean = format(statistics.mean(known), "+.2f" if signed else ".2f")
    return f"{mean} ± {statistics.stdev(known):.2f}" if len(known) > 1 else mean
