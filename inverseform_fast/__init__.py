"""inverseform_fast: the InverseForm boundary loss for semantic segmentation."""

from . import functional, homography
from .aligner import Alignment, LabelAligner
from .losses import BoundaryAwareLoss, InverseFormLoss, LossTerms
from .nets import InverseTransformNet, SpatialTransformer
from .ops import backend_info, set_backend

__version__ = "0.1.0"
__all__ = [
    "Alignment",
    "BoundaryAwareLoss",
    "InverseFormLoss",
    "InverseTransformNet",
    "LabelAligner",
    "LossTerms",
    "SpatialTransformer",
    "backend_info",
    "functional",
    "homography",
    "set_backend",
]
