"""One public function per op: it documents the op, checks the input, and calls the op.

All functions take tensors of any strides, predictions in float32, float64, float16 or bfloat16 (the last two are
computed in float32), and labels of an integer dtype, uint8 or int8 to int64. Another dtype is a TypeError. The C++/CUDA
extension computes rotations. C++ kernels on a CPU and Triton kernels on a GPU compute the rest; plain PyTorch does so
in float64. Triton kernels take maps of at most 32000 pixels in height and width that span fewer than 2^31 elements each
(batches may be larger). A channel that ``homography_warp`` reads on a CPU must also span fewer than 2^31 elements.
Kernels give the same bits on any number of CPU threads. They can be differentiated once; under the backend
``"reference"`` all functions have second derivatives (:func:`geodesic_distance` only without damping).
"""

from .geometry import align, geodesic_distance, homography_exp, homography_warp, local_correlation, project_to_so3
from .labels import move_labels, register_labels
from .losses import (
    boundary_f1_loss,
    boundary_f1_sums,
    boundary_loss,
    dice_loss,
    dice_sums,
    segmentation_loss,
)
from .maps import boundary_map, channels_first, extract_tiles, soft_boundary_map

__all__ = [
    "align",
    "boundary_f1_loss",
    "boundary_f1_sums",
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
