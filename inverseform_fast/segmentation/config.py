"""One dataclass holds all that decides a training run; its fields are the options of ``inverseform-fast train``."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from ..fields import MOST_RATE, MOST_SEED, MOST_THREADS, check_fields, check_positive, check_range

_COMMENT = re.compile(r"^[ \t]*//.*$", re.MULTILINE)
NEUTRAL = "neutral"  # marks a field that a resumed run may change: the result stays the same, but for rounding


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run. Sizes are (height, width) in pixels; a step is one batch.

    Raises:
        ValueError: a value is of another type or out of its range; the message names the field.
    """

    data: Annotated[
        str,
        "Data set: scenes (procedural, needs no files), folder (your own images and labels), camvid, nyud_mt, "
        "nyud_rgbd or pascal_mt.",
    ] = "scenes"
    root: Annotated[str | None, "Folder of the data set; all but scenes need it.", NEUTRAL] = None
    data_options: Annotated[
        dict[str, Any],
        "Option of the data set, such as length=64 of scenes, or cache=true or label_map=0:0,255:1 of folder; "
        "repeatable.",
    ] = field(default_factory=dict)
    train_split: Annotated[str, "Split to train on."] = "train"
    eval_split: Annotated[str, "Split to evaluate on."] = "val"
    out: Annotated[str, "Folder for the checkpoint, logs and report.", NEUTRAL] = "runs/train"

    tasks: Annotated[
        dict[str, float],
        "Task to train, and the weight of its loss; repeatable. All tasks of the data set at weight 1 if not given.",
    ] = field(default_factory=dict)
    model: Annotated[
        str,
        "Model: pyramid, segformer, hrnet, pad_net, mti_net, astmt, or another one that is registered.",
    ] = "pyramid"
    model_options: Annotated[
        dict[str, Any],
        "Option of the model, such as 'auxiliary=[\"edges\"]' of pad_net and mti_net; repeatable.",
    ] = field(default_factory=dict)
    backbone: Annotated[
        str,
        "Backbone: for pyramid, any timm model with a feature at stride 4, such as hrnet_w18; "
        "for segformer, mit_b0 to mit_b5; for hrnet, pad_net and mti_net, hrnet_w18, hrnet_w18_small_v2 and hrnet_w48; "
        "for mti_net also resnet18; for astmt, seresnet26, seresnet50 and seresnet101.",
    ] = "test_resnet"
    pretrained: Annotated[
        bool,
        "Start from a backbone trained on ImageNet. Its weights are downloaded; those of tf_efficientnet_lite0 come "
        "from the extra [lite0].",
    ] = False
    boundary_head: Annotated[
        bool, "Predict boundaries by a head of their own, or headless: take them from the class logits."
    ] = False

    loss: Annotated[
        Literal["ce", "boundary", "inverseform"],
        "ce: cross-entropy; boundary: cross-entropy, that of boundary pixels alone, Dice and boundary F1; "
        "inverseform: all these and InverseForm.",
    ] = "boundary"
    edge: Annotated[float, "Weight of the cross-entropy of boundary pixels alone."] = 4.0
    dice: Annotated[float, "Weight of the Dice loss."] = 4.0
    f1: Annotated[float, "Weight of the boundary F1 loss."] = 16.0
    beta: Annotated[float | None, "Weight of the boundary BCE; 10 with a boundary head, 0 headless if not given."] = (
        None
    )
    gamma: Annotated[float | None, "Weight of InverseForm, if the loss has it; 0.3 if not given."] = None
    inverseform_start: Annotated[int, "First step in which InverseForm counts; it takes no time before."] = 0
    distance: Annotated[
        Literal["log", "euclidean", "geodesic"], "How InverseForm measures a homography's distance from the identity."
    ] = "log"
    radius: Annotated[int, "Radius of the true boundaries, in pixels."] = 2
    net: Annotated[
        str | None,
        "Inverse-transformation network: compact, predictions, or a weight file. If not given, InverseForm takes "
        "compact, and labels are moved by the predicted classes alone.",
    ] = None
    resize: Annotated[
        tuple[int, int] | None,
        "Height and width to which InverseForm resizes boundaries; the nearest multiples of its tile if not given.",
    ] = None

    align_labels: Annotated[
        bool,
        "Move the training labels to where the model sees their boundaries, or train on them as they are.",
    ] = False
    align_start: Annotated[int | None, "First step in which labels are moved; a quarter of the steps if not given."] = (
        None
    )

    augmentation: Annotated[
        str,
        "How training images are changed at random. crop: resized, cropped, flipped, and their colors changed; "
        "warp: turned and scaled about their center, flipped, and resized to --crop.",
    ] = "crop"
    augmentation_options: Annotated[
        dict[str, Any],
        "Option of the augmentation, such as flip=0 or jitter=0 of crop, or rotation=20, 'scales=[1, 1.2, 1.5]' or "
        "fill=zero of warp; repeatable.",
    ] = field(default_factory=dict)
    crop: Annotated[tuple[int, int], "Height and width of what the model is trained on, in pixels."] = (144, 192)
    scale: Annotated[tuple[float, float], "Smallest and largest factor of the random scaling."] = (0.5, 2.0)
    eval_size: Annotated[
        tuple[int, int] | None, "Height and width at which to evaluate; the images' own if not given."
    ] = None

    steps: Annotated[int, "Training steps."] = 2000
    batch_size: Annotated[
        int, "Images per step, of all processes together: a multiple of processes times --accumulate."
    ] = 8
    accumulate: Annotated[
        int,
        "Parts in which each process takes its share of a step's images one after another, to save memory. The result "
        "is that of one part, except that BatchNorm sees a part at a time, and Dice and boundary F1 are means over the "
        "parts.",
    ] = 1
    sync_bn: Annotated[bool, "Let BatchNorm see the images of all processes, or those of each process alone."] = True
    optimizer: Annotated[
        Literal["adamw", "adam", "sgd"],
        "AdamW; Adam, whose weight decay is part of the gradient; or SGD with momentum 0.9.",
    ] = "adamw"
    lr: Annotated[float, "Peak learning rate."] = 2e-3
    weight_decay: Annotated[float, "Weight decay of all but norms and biases."] = 0.01
    warmup: Annotated[int, "Steps of linear warm-up."] = 50
    power: Annotated[float, "Power of the learning rate's polynomial decay to 0."] = 0.9
    decay_every: Annotated[int, "Steps between two changes of the learning rate by its decay, such as an epoch's."] = 1
    clip: Annotated[float | None, "Largest norm of the gradient, which is clipped to it; no limit if not given."] = None
    amp: Annotated[
        Literal["none", "bf16", "fp16"], "Mixed precision of the model; none: float32. With --shard: none or bf16."
    ] = "none"
    seed: Annotated[int, "Seed of the weights, batches and augmentation."] = 0

    device: Annotated[str | None, "Device, such as cpu or cuda:1; by default the GPU, if there is one.", NEUTRAL] = None
    workers: Annotated[int, "Processes that load data; 0: the training process loads them itself.", NEUTRAL] = 0
    threads: Annotated[
        int | None, "CPU threads of PyTorch, whose convolutions round by them; its own choice if not given.", NEUTRAL
    ] = None
    shard: Annotated[
        bool, "Cut weights, gradients and the optimizer's state into a part for each process (FSDP2).", NEUTRAL
    ] = False
    timeout: Annotated[int, "Seconds for which a process waits for another one before the run ends.", NEUTRAL] = 25
    log_every: Annotated[int, "Steps between log entries.", NEUTRAL] = 20
    checkpoint_every: Annotated[int, "Steps between checkpoints.", NEUTRAL] = 500
    eval_every: Annotated[int, "Steps between evaluations; 0: at the end only.", NEUTRAL] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        check_positive(self, "radius", "steps", "batch_size", "accumulate", "lr", "power", "clip")
        check_positive(self, "decay_every", "timeout", "log_every", "checkpoint_every")
        check_positive(self, "crop", "resize", "eval_size")
        check_range(self, 0, "lr", "weight_decay", highest=MOST_RATE)
        check_range(self, 0, "warmup", "workers", "eval_every", "edge", "dice", "f1", "beta", "gamma")
        check_range(self, 0.01, "scale", highest=100)
        check_range(self, 0, "seed", highest=MOST_SEED)
        check_range(self, 1, "threads", highest=MOST_THREADS)
        check_range(self, 0, "inverseform_start", "align_start", highest=self.steps - 1)
        if not all(weight > 0 for weight in self.tasks.values()):
            raise ValueError(f"tasks must be positive weights by name, got {self.tasks}")
        if self.shard and self.amp == "fp16":
            raise ValueError("amp must be none or bf16 where the model is sharded, got 'fp16'")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale must be a range (lowest, highest), got {self.scale}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them (tuples become lists)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            ValueError: a field is unknown, or a value is of another type or out of its range.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"config must hold options of train (fields of TrainConfig), got {', '.join(unknown)}")
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)

    @classmethod
    def from_file(cls, path: str | Path) -> TrainConfig:
        """The configuration of a recipe, or of the ``config.json`` that a run writes.

        The file is a JSON object of fields. A line that begins with ``//`` is a comment.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no JSON object of known fields.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"config must be a JSON file: no file {path}")
        try:
            values = json.loads(_COMMENT.sub("", Path(path).read_text("utf-8-sig")))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"config {path} must be JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"config {path} must be a JSON object, got {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"config {path}: {error}") from error

    def difference(self, other: TrainConfig) -> dict[str, tuple[object, object]]:
        """The fields in which a run with ``other`` gives another result, with both values."""
        old, new = self.to_dict(), other.to_dict()
        hints = get_type_hints(type(self), include_extras=True)
        decisive = [name for name, hint in hints.items() if NEUTRAL not in hint.__metadata__]
        return {name: (old[name], new[name]) for name in decisive if old[name] != new[name]}
