"""segmentation_loss: its implementations by backend."""

from .. import reference
from .backend import Op

segmentation_loss = Op(reference=reference.segmentation_loss)
