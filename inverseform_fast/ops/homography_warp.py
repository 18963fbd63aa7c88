"""homography_warp: its implementations by backend."""

from .. import reference
from .backend import Op

homography_warp = Op(reference=reference.homography_warp)
