"""The labels that every benchmark trains on: random street scenes, with void."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scenes.street import label_maps

VOID, PATCH, SHARE = 255, 16, 0.03  # void comes in patches of so many pixels, which cover this share of an image


def street_labels(images: int, crop: tuple[int, int], classes: int, generator: torch.Generator) -> Tensor:
    """Labels ``(images, *crop)``, int64: areas, slanted edges, thin poles and patches of void."""
    height, width = crop
    scenes = label_maps(images, height, width, generator).long()
    # Scenes have fewer parts than some data sets have classes, so each scene draws the classes of its parts anew.
    classes_of_parts = torch.stack([torch.randint(classes, (256,), generator=generator) for _ in scenes])
    labels = torch.stack([row[scene] for row, scene in zip(classes_of_parts, scenes, strict=True)])
    void = torch.rand(images, -(-height // PATCH), -(-width // PATCH), generator=generator) < SHARE
    labels[void.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, :height, :width]] = VOID
    return labels
