"""Training the inverse-transformation network from label maps alone (paper, sections 3.2 and 3.4)."""

from __future__ import annotations

import json
import math
import pickle
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from torch import Generator, Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import v2

from .. import homography
from ..files import write_atomically
from ..nets import ARCHITECTURES, InverseTransformNet
from ..nets.spatial_transformer import SpatialTransformer
from ..scenes.shapes import label_maps as shape_labels
from ..scenes.street import label_maps as scene_labels
from ..segmentation.datasets import build_dataset
from .pairs import Pairs, Transforms, both_orders, make_pairs
from .pictures import draw_pairs

STATE, PICTURE = "last.pt", "pairs.png"
LOG_EVERY = 20


@dataclass(frozen=True)
class NetConfig:
    """What decides the weights, the label maps apart.

    Attributes:
        architecture: of the network.
        tile: edge of the tiles in pixels.
        outputs: of the network; other than 8 for "dense" only.
        distance: what is minimised between the estimate and the truth; see
            :func:`inverseform_fast.homography.distance`.
        max_pixels: largest ``|a|``, in pixels of the tile.
        steps, batch_size, lr, weight_decay, seed: of AdamW with linear warm-up over 100 steps and cosine decay.
        damage_every: one in so many pairs is damaged, see :func:`.pairs.make_pairs`; 0: none, as in the paper.
        init: weight file to start from, of the same architecture and tile.
        transforms: where the pairs' homographies come from: "random"; "stn", a spatial transformer that looks at the
            target tile, as in the paper; or "mix", half of the pairs each.
        stn: weight file of that transformer.
    """

    architecture: str = "align"
    tile: int = 224
    outputs: int = 8
    distance: str = "log"
    max_pixels: float = 24.0
    steps: int = 3000
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0
    init: str | None = None
    transforms: str = "random"
    stn: str | None = None
    damage_every: int = 2

    def __post_init__(self) -> None:
        homography.check_distance(self.distance)
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        if self.outputs != 8 and self.architecture != "dense":
            raise ValueError(f"outputs must be 8 for architecture {self.architecture}, got {self.outputs}")
        if self.transforms not in ("random", "stn", "mix"):
            raise ValueError(f"transforms must be random, stn or mix, got {self.transforms!r}")
        if (self.stn is None) != (self.transforms == "random"):
            wanted = "left out" if self.transforms == "random" else "a weight file"
            raise ValueError(f"stn must be {wanted} for transforms {self.transforms}, got {self.stn!r}")
        if self.damage_every < 0:
            raise ValueError(f"damage_every must be at least 0, got {self.damage_every}")
        require_positive(self, "max_pixels", "steps", "batch_size", "lr")

    @property
    def max_displacement(self) -> float:
        """``max_pixels`` in half tiles."""
        return 2 * self.max_pixels / self.tile


def require_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def classes_of(label_maps: Tensor) -> Tensor:
    """The class ids ``(K,)`` of label maps, in order; raise ValueError if they are fewer than two."""
    classes = label_maps.unique()
    classes = classes[classes != 255]
    if len(classes) < 2:
        raise ValueError(f"label_maps must hold at least two classes, got {classes.tolist()}")
    return classes


def train_net(
    label_maps: Tensor,
    config: NetConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    save_every: int = 200,
    console: Console | None = None,
) -> InverseTransformNet:
    """Train a network on pairs made on the fly.

    ``out`` gets ARCHITECTURE.safetensors, the state to resume from, TensorBoard's logs and ``pairs.png``, a picture of
    pairs and of what the network makes of them.

    The pairs of step k are a function of the seed and k, so a resumed training goes on exactly where it stopped.

    Args:
        label_maps: ``(M, H, W)`` integer class ids, 255 void.

    Raises:
        FileExistsError: ``out`` holds a training and ``resume`` is not asked for. FileNotFoundError: nothing to resume.
        ValueError: the label maps hold fewer than two classes; the state to resume is damaged, or of another
        configuration.
    """
    classes_of(label_maps)
    console = console or Console()
    state = _read_state(out, config, resume)
    torch.manual_seed(config.seed)
    transforms = _transforms(config, device)
    net = _initial(config).train().requires_grad_(True).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    first = 0
    if state:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    out.mkdir(parents=True, exist_ok=True)
    label_maps = label_maps.to(device)
    writer = SummaryWriter(str(out / "tensorboard"), purge_step=first + 1)
    with _progress(console) as progress, writer:
        task = progress.add_task("network", total=config.steps, completed=first, error=math.nan)
        relative = torch.ones((), device=device)
        logged, clock = first, time.perf_counter()
        for step in range(first, config.steps):
            distance, scale = _step(net, optimizer, label_maps, config, transforms, step)
            relative = relative.lerp(distance / scale, 0.05)
            done = step + 1
            if done % LOG_EVERY == 0 or done == config.steps:
                if not math.isfinite(error := relative.item()):
                    raise FloatingPointError(
                        f"the error became {error} by step {done}: train anew, by a lower lr than {config.lr}"
                    )
                progress.update(task, completed=done, error=error)
                writer.add_scalar("train/relative_error", error, done)
                writer.add_scalar("train/lr", optimizer.param_groups[0]["lr"], done)
                speed = (done - logged) * config.batch_size / (time.perf_counter() - clock)
                writer.add_scalar("train/pairs_per_second", speed, done)
                logged, clock = done, time.perf_counter()
            if done % save_every == 0 or done == config.steps:
                _write_state(out, config, net, optimizer, done)
                _write_picture(out, writer, net, label_maps, config, transforms, done)
                if not console.is_terminal:
                    console.print(f"step {done} of {config.steps}: {relative.item():.3f} of the identity's distance")
    net.eval()
    net.save(out / f"{config.architecture}.safetensors", training=json.dumps(_history(config)))
    return net


def _history(config: NetConfig) -> list[dict[str, Any]]:
    """The configurations of all trainings that led to these weights, the last one last."""
    stage = {name: value for name, value in asdict(config).items() if name not in ("init", "stn")}
    return [*(training_history(Path(config.init)) if config.init else []), stage]


def training_history(weights: Path) -> list[dict[str, Any]]:
    """The configurations that a weight file of :func:`train_net` says it was trained with, in order."""
    with safe_open(weights, "pt") as file:
        return json.loads((file.metadata() or {}).get("training", "[]"))


def _transforms(config: NetConfig, device: str | torch.device) -> Transforms | None:
    """Where the pairs' homographies come from; None: from :func:`make_pairs`, random ones."""
    if config.stn is None:
        return None
    stn = SpatialTransformer.from_file(config.stn).requires_grad_(False).to(device)
    if stn.channels != 1:
        raise ValueError(f"stn must be a transformer of 1 channel, got {stn.channels} in {config.stn}")

    def mixed(target: Tensor, generator: Generator) -> Tensor:
        count = len(target)
        a = homography.sample(count, config.max_displacement, generator=generator, device=target.device)
        # By lot, for a pair's place in the batch decides how it is damaged.
        lot = torch.randperm(count, generator=generator, device=target.device)
        return torch.where((lot < count / 2)[:, None], a, stn.algebra(target))

    return mixed if config.transforms == "mix" else lambda target, _: stn.algebra(target)


def _initial(config: NetConfig) -> InverseTransformNet:
    if config.init is None:
        kind = ARCHITECTURES[config.architecture]
        return kind(**{name: getattr(config, name) for name in kind.sizes})
    net = InverseTransformNet.from_file(config.init)
    wanted, found = (", ".join(f"{name} {getattr(of, name)}" for name in net.sizes) for of in (config, net))
    if (net.architecture, found) != (config.architecture, wanted):
        raise ValueError(
            f"init must hold a network {config.architecture} of {wanted}, got {net.architecture} of {found}"
        )
    return net


def _step(
    net: InverseTransformNet,
    optimizer: torch.optim.Optimizer,
    label_maps: Tensor,
    config: NetConfig,
    transforms: Transforms | None,
    step: int,
) -> tuple[Tensor, Tensor]:
    """One step of training; the mean distance of the estimates, and that of predicting the identity."""
    seed = int(np.random.SeedSequence((config.seed, step)).generate_state(1, np.uint64)[0]) >> 1
    generator = torch.Generator(label_maps.device).manual_seed(seed)
    pairs = _pairs(label_maps, config.batch_size, config, transforms, generator)
    if not net.antisymmetric:
        pairs = both_orders(pairs)
    lr = config.lr * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / config.steps)) / 2
    for group in optimizer.param_groups:
        group["lr"] = lr
    theta = homography.exp(pairs.a)
    *rough, distance = (
        homography.distance(homography.exp(a), theta, config.distance).mean()
        for a in net.estimates(pairs.predicted, pairs.target)
    )
    optimizer.zero_grad()
    sum(rough, 2 * distance).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return distance.detach(), homography.distance(theta, kind=config.distance).mean()


def _pairs(
    label_maps: Tensor, count: int, config: NetConfig, transforms: Transforms | None, generator: Generator
) -> Pairs:
    return make_pairs(
        label_maps,
        count,
        config.tile,
        config.max_displacement,
        generator,
        damage_every=config.damage_every,
        transforms=transforms,
    )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("error {task.fields[error]:.3f} of the identity's"),
        TimeRemainingColumn(),
        console=console,
    )


def _write_state(
    out: Path, config: NetConfig, net: InverseTransformNet, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state = {"config": asdict(config), "step": step, "net": net.state_dict(), "optimizer": optimizer.state_dict()}
    write_atomically(out / STATE, lambda file: torch.save(state, file))


def _write_picture(
    out: Path,
    writer: SummaryWriter,
    net: InverseTransformNet,
    label_maps: Tensor,
    config: NetConfig,
    transforms: Transforms | None,
    step: int,
) -> None:
    """The same six pairs each time."""
    generator = Generator(label_maps.device).manual_seed(config.seed)
    pairs = _pairs(label_maps, 6, config, transforms, generator)
    figure = draw_pairs(net.eval(), pairs)
    net.train()
    write_atomically(out / PICTURE, lambda file: figure.savefig(file, format="png", dpi=100))
    writer.add_figure("pairs", figure, step)


def check_out(out: Path, resume: bool) -> None:
    """Raise rather than let an earlier training be lost: see :func:`train_net`."""
    if not resume and (out / STATE).exists():
        raise FileExistsError(f"{out} holds a training: resume it, or choose another folder")
    if resume and not (out / STATE).is_file():
        raise FileNotFoundError(f"nothing to resume at {out / STATE}")


def _read_state(out: Path, config: NetConfig, resume: bool) -> dict[str, Any] | None:
    """The state to resume from, if any."""
    check_out(out, resume)
    if not resume:
        return None
    path = out / STATE
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} must be a complete training state, but cannot be read: {error}") from error
    if NetConfig(**state["config"]) != config:  # not as dicts: an older state lacks newer fields
        raise ValueError(f"a resumed training must keep its configuration {state['config']}, got {asdict(config)}")
    return state


def collect_label_maps(
    data: str, split: str, root: Path | None, size: tuple[int, int], scenes: int, shapes: int, seed: int
) -> Tensor:
    """Label maps ``(M, H, W)`` uint8 of ``size`` (height, width): procedural scenes and shapes, or those of a data set.

    Raises:
        FileNotFoundError, ValueError: see :func:`inverseform_fast.segmentation.datasets.build_dataset`.
    """
    if data == "scenes":
        generator = torch.Generator().manual_seed(seed)
        return torch.cat((scene_labels(scenes, *size, generator), shape_labels(shapes, *size, generator)))
    dataset = build_dataset(data, split, root)
    resize = v2.Resize(size, v2.InterpolationMode.NEAREST_EXACT)
    return torch.stack([resize(dataset[index]["semantic"]).as_subclass(Tensor) for index in range(len(dataset))])
