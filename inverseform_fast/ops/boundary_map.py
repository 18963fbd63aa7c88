"""boundary_map: its implementations by backend."""

from .. import reference
from .backend import Op

boundary_map = Op(reference=reference.boundary_map)
