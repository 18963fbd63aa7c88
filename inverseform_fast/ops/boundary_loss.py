"""boundary_loss: its implementations by backend."""

from .. import reference
from .backend import Op

boundary_loss = Op(reference=reference.boundary_loss)
