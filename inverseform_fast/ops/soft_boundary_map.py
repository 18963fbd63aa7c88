"""soft_boundary_map: its implementations by backend."""

from .. import reference
from .backend import Op

soft_boundary_map = Op(reference=reference.soft_boundary_map)
