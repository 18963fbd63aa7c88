"""The package makes label maps and images itself, with torch alone; every random number comes from a generator.

- ``street.label_maps`` makes label maps of street scenes, and ``street.paint_street`` one scene, a ``street.Painter``.
- ``rendering.render`` makes the picture of a painted scene.
- ``geometry.depth``, ``normals`` and ``parts`` say what it looks like in space.
- ``shapes.label_maps`` makes label maps of abstract shapes, for networks that must not depend on streets.
"""
