"""Label maps and images that the package makes itself, from torch alone; everything random comes from a generator.

- ``street.label_maps``: label maps of street scenes; ``street.paint_street``: one scene, as a ``street.Painter``;
- ``rendering.render``: the picture of a painted scene;
- ``shapes.label_maps``: label maps of abstract shapes, for networks that must not depend on streets.
"""
