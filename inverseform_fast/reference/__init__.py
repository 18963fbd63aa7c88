"""Every op in plain PyTorch: the truth that kernels are held to.

Names and signatures are those of :mod:`inverseform_fast.functional`, which documents the ops and checks their input, so
that it is trusted here.
"""

from .align import align
from .boundary_f1_loss import boundary_f1_loss, boundary_f1_sums
from .boundary_loss import boundary_loss
from .boundary_map import boundary_map
from .channels_first import channels_first
from .dice_loss import dice_loss, dice_sums
from .extract_tiles import extract_tiles
from .homography_exp import homography_exp
from .homography_warp import homography_warp
from .local_correlation import local_correlation
from .move_labels import move_labels
from .register_labels import register_labels
from .segmentation_loss import segmentation_loss
from .so3 import geodesic_distance, project_to_so3
from .soft_boundary_map import soft_boundary_map

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
