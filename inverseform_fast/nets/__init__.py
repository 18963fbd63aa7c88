"""Inverse-transformation networks, the spatial transformer, and their weight files."""

from .align import Align
from .base import InverseTransformNet
from .paper import Aet, Dense
from .registry import ARCHITECTURES
from .spatial_transformer import SpatialTransformer
from .weights import WEIGHTS

__all__ = [
    "ARCHITECTURES",
    "WEIGHTS",
    "Aet",
    "Align",
    "Dense",
    "InverseTransformNet",
    "SpatialTransformer",
]
