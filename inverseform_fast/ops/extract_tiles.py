"""extract_tiles: its implementations by backend."""

from .. import reference
from .backend import Op

extract_tiles = Op(reference=reference.extract_tiles)
