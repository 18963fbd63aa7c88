"""so3: the implementations of project_to_so3 and geodesic_distance by backend."""

from .. import reference
from .backend import Op

project_to_so3 = Op(reference=reference.project_to_so3)
geodesic_distance = Op(reference=reference.geodesic_distance)
