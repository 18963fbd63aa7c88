"""Dataclasses hold all that decides a training; their fields are the options of ``train-net`` and ``train-stn``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from ..fields import MOST_RATE, MOST_SEED, check_fields, check_positive, check_range
from ..homography import check_distance
from ..nets import ARCHITECTURES
from ..nets.spatial_transformer import check_kind


@dataclass(frozen=True)
class MapsConfig:
    """Where the label maps of a training come from.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    data: Annotated[
        str, "Data set that the label maps come from: scenes (procedural, needs no files), camvid or folder (your own)."
    ] = "scenes"
    root: Annotated[Path | None, "Folder of the data set; camvid and folder need it."] = None
    data_options: Annotated[
        dict[str, Any], "Option of the data set, such as label_map=0:0,255:1 of folder; repeatable."
    ] = field(default_factory=dict)
    split: Annotated[str, "Split of the data set."] = "train"
    size: Annotated[tuple[int, int], "Height and width of the label maps; those of a data set are resized to it."] = (
        360,
        480,
    )
    scenes: Annotated[int, "How many street scenes to make, if the data are scenes."] = 384

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "size")
        check_range(self, 0, "scenes")


@dataclass(frozen=True)
class NetConfig:
    """All that decides the weights of an inverse-transformation network, apart from the label maps.

    AdamW trains the network, with a linear warm-up over 100 steps and cosine decay.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    architecture: Annotated[str, "Network: align, dense (the paper's) or aet."] = "align"
    tile: Annotated[int, "Edge of the square tiles, in pixels."] = 224
    outputs: Annotated[int, "Numbers that a dense network estimates: 8, 6 or 4."] = 8
    distance: Annotated[str, "Distance to minimise: log, euclidean or geodesic."] = "log"
    max_pixels: Annotated[float, "Largest displacement to learn, in pixels of the tile."] = 24.0
    steps: Annotated[int, "Training steps."] = 3000
    batch_size: Annotated[int, "Pairs per step."] = 32
    lr: Annotated[float, "Peak learning rate; 1e-4 suits dense."] = 2e-3
    weight_decay: Annotated[float, "Weight decay of all parameters."] = 0.01
    seed: Annotated[int, "Seed of the weights, the scenes and the pairs."] = 0
    init: Annotated[str | None, "Weight file to start from; random weights if not given."] = None
    transforms: Annotated[
        str, "Homographies of the pairs: random, stn (from a spatial transformer) or mix (half of each)."
    ] = "random"
    stn: Annotated[str | None, "Weight file that train-stn wrote, for the transforms stn and mix."] = None
    damage_every: Annotated[
        int, "One in so many predictions is blurred, broken and noisy; 0: none, which dense and aet need."
    ] = 2
    predicted_share: Annotated[float, "Share of the pairs that show what models predict, if there are any."] = 2 / 3

    def __post_init__(self) -> None:
        check_fields(self)
        check_distance(self.distance)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        if self.outputs != 8 and self.architecture != "dense":
            raise ValueError(f"outputs must be 8 for architecture {self.architecture}, got {self.outputs}")
        if self.transforms not in ("random", "stn", "mix"):
            raise ValueError(f"transforms must be random, stn or mix, got {self.transforms!r}")
        if (self.stn is None) != (self.transforms == "random"):
            expected = "left out" if self.transforms == "random" else "a weight file"
            raise ValueError(f"stn must be {expected} for transforms {self.transforms}, got {self.stn!r}")
        check_positive(self, "tile", "max_pixels", "steps", "batch_size", "lr")
        check_range(self, 0, "lr", "weight_decay", highest=MOST_RATE)
        check_range(self, 0, "damage_every")
        check_range(self, 0, "seed", highest=MOST_SEED)
        check_range(self, 0, "predicted_share", highest=1)

    @property
    def max_displacement(self) -> float:
        """``max_pixels`` in half tiles."""
        return 2 * self.max_pixels / self.tile


@dataclass(frozen=True)
class StnConfig:
    """All that decides the weights of a spatial transformer, apart from the label maps.

    AdamW trains the transformer, with cosine decay. ``max_pixels`` bounds ``|a|`` of the displacements that it has to
    undo, and of those that it makes.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    tile: Annotated[int, "Edge of the square tiles, in pixels."] = 224
    kind: Annotated[str, "Kind of transformation: affine or homography."] = "homography"
    max_pixels: Annotated[float, "Largest displacement, in pixels of the tile."] = 24.0
    steps: Annotated[int, "Training steps."] = 1000
    batch_size: Annotated[int, "Tiles per step."] = 32
    lr: Annotated[float, "Learning rate at the start; a much higher one makes all tiles move alike."] = 3e-3
    seed: Annotated[int, "Seed of the weights, the scenes and the views."] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_kind(self.kind)
        check_positive(self, "tile", "max_pixels", "steps", "batch_size", "lr")
        check_range(self, 0, "lr", highest=MOST_RATE)
        check_range(self, 0, "max_pixels", highest=2 * self.tile)
        check_range(self, 0, "seed", highest=MOST_SEED)

    @property
    def max_displacement(self) -> float:
        """``max_pixels`` in half tiles."""
        return 2 * self.max_pixels / self.tile


@dataclass(frozen=True)
class TuneConfig:
    """All that decides a network that is tuned on the predictions of a run.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    net: Annotated[str, "Network to start from: predictions, compact, or a weight file."] = "predictions"
    split: Annotated[str | None, "Split to tune on; the one that the run was trained on if not given."] = None
    images: Annotated[int, "Largest number of images, spread evenly over the split. The last fifth is held out."] = 256
    size: Annotated[
        tuple[int, int] | None, "Height and width of the images; the run's eval_size, or their own, if not given."
    ] = None
    max_pixels: Annotated[float, "Largest displacement to learn, in pixels of the tile."] = 24.0
    steps: Annotated[int, "Training steps."] = 400
    batch_size: Annotated[int, "Pairs per step."] = 12
    lr: Annotated[float, "Peak learning rate."] = 1e-3
    seed: Annotated[int, "Seed of the pairs."] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "images", "size", "max_pixels", "steps", "batch_size", "lr")
        check_range(self, 0, "lr", highest=MOST_RATE)
        check_range(self, 0, "seed", highest=MOST_SEED)
