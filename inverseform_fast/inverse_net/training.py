"""The inverse-transformation network is trained from label maps alone (paper, sections 3.2 and 3.4)."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors import safe_open
from torch import Generator, Tensor
from torch.utils.tensorboard import SummaryWriter

from .. import homography
from ..files import locked, write_atomically
from ..nets import ARCHITECTURES, InverseTransformNet
from ..nets.spatial_transformer import SpatialTransformer
from ..nets.weights import load_strictly
from ..segmentation.progress import bars, say
from ..states import restore_optimizer, stop_explained
from .config import NetConfig
from .label_maps import class_ids
from .pairs import Pairs, Transforms, both_orders, make_pairs
from .pictures import draw_pairs
from .predictions import Predictions, prediction_pairs
from .state import STATE, State, check_out, read_state, write_state

PICTURE = "pairs.png"
LOG_EVERY = 20
WARMUP = 100  # steps


def train_net(
    label_maps: Tensor,
    config: NetConfig,
    out: Path,
    *,
    predictions: Sequence[Predictions] = (),
    resume: bool = False,
    device: str | torch.device = "cpu",
    save_every: int = 200,
    console: Console | None = None,
) -> InverseTransformNet:
    """Trains a network on pairs that are made on the fly; returns it in evaluation mode.

    The folder ``out`` gets ARCHITECTURE.safetensors, the state to resume from, TensorBoard's logs and ``pairs.png``, a
    picture of pairs and of the network's estimates. The pairs of step k are a function of the seed and k, so a resumed
    training continues exactly where it stopped.

    Args:
        label_maps: ``(M, H, W)`` integer class ids, 255 for void.
        config: the options of the training.
        out: folder of all results.
        predictions: what models predict; a share ``config.predicted_share`` of each step's pairs shows it.
        resume: continue from the state in ``out``.
        device: the device of the training.
        save_every: number of steps from one saved state and picture to the next.
        console: shows the progress.

    Raises:
        FileExistsError: ``out`` holds a training, and ``resume`` is not asked for.
        FileNotFoundError: there is nothing to resume.
        BlockingIOError: another process trains into the folder.
        ValueError: the label maps hold fewer than two classes; or the state to resume is damaged, or has another
            configuration.
        FloatingPointError: the error or a weight is no longer finite.
        KeyboardInterrupt, OSError: as they come; the message says what is safe.
    """
    class_ids(label_maps)
    if not predictions:
        config = replace(config, predicted_share=0.0)
    with locked(out):
        check_out(out, resume)
        state = read_state(out, config) if resume else None
        training = _Training(label_maps, predictions, config, device)
        if state:
            training.restore(state, out / STATE)
        with stop_explained(out / STATE, training):
            with SummaryWriter(str(out / "tensorboard"), purge_step=training.step + 1) as writer:
                _run(training, out, writer, console or Console(), save_every)
            net = training.net.eval()
            net.save(out / f"{config.architecture}.safetensors", training=json.dumps(_history(config)))
        return net


def check_files(config: NetConfig) -> None:
    """Checks the weight files that a training starts from, and the sizes of its network.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is damaged or of another network, or a size is wrong.
    """
    _initial(config)
    _transforms(config, "cpu")


class _Training:
    """A network in training, with all that changes from step to step."""

    def __init__(
        self,
        label_maps: Tensor,
        predictions: Sequence[Predictions],
        config: NetConfig,
        device: str | torch.device,
    ) -> None:
        self.config, self.label_maps = config, label_maps.to(device)
        self.predictions = [run.to(device) for run in predictions]
        torch.manual_seed(config.seed)
        self.transforms = _transforms(config, device)
        self.net = _initial(config).train().requires_grad_(True).to(device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step = 0
        self.saved: int | None = None  # the step of the state in the folder
        # The estimates' distance from the truth as a share of the identity's, averaged over the last steps
        self.relative_error = torch.ones((), device=device)

    def restore(self, state: State, path: Path) -> None:
        load_strictly(self.net, state["net"], path, "state")
        restore_optimizer(self.optimizer, state["optimizer"], f"the optimizer's state of {path}")
        self.step = self.saved = state["step"]

    def state(self) -> State:
        return {
            "config": asdict(self.config),
            "step": self.step,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def is_due(self, interval: int) -> bool:
        """Says whether something is due that happens every ``interval`` steps and after the last one."""
        return self.step % interval == 0 or self.step == self.config.steps

    def take_step(self) -> None:
        pairs = self.pairs(self.config.batch_size, _seed(self.config, self.step))
        if not self.net.antisymmetric:
            pairs = both_orders(pairs)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        loss, distance, identity = _distances(self.net, pairs, self.config.distance)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.relative_error = self.relative_error.lerp(distance / identity, 0.05)
        self.step += 1

    def pairs(self, count: int, seed: int) -> Pairs:
        config, generator = self.config, Generator(self.label_maps.device).manual_seed(seed)
        options = config.tile, config.max_displacement, generator
        predicted = round(config.predicted_share * count)
        made = make_pairs(
            self.label_maps,
            count - predicted,
            *options,
            damage_every=config.damage_every,
            transforms=self.transforms,
        )
        if not predicted:
            return made
        shown = prediction_pairs(self.predictions, predicted, *options)
        return Pairs(*(torch.cat(sides) for sides in zip(shown, made, strict=True)))

    def finite_error(self) -> float:
        """Returns the relative error as a number, which waits for the device.

        Raises:
            FloatingPointError: it is not finite.
        """
        error = self.relative_error.item()
        if not math.isfinite(error):
            raise FloatingPointError(f"the error became {error} by step {self.step} at an lr of {self.config.lr}")
        return error


def _run(training: _Training, out: Path, writer: SummaryWriter, console: Console, save_every: int) -> None:
    """Take the steps that are left, with logs, states and pictures on the way."""
    config = training.config
    with bars(console) as progress:
        bar = progress.add_task("network", total=config.steps, completed=training.step, status="")
        logged, clock = training.step, time.perf_counter()
        while training.step < config.steps:
            training.take_step()
            if training.is_due(LOG_EVERY):
                error = training.finite_error()
                speed = (training.step - logged) * config.batch_size / (time.perf_counter() - clock)
                shown = f"{error:.3f} of the identity's distance"
                progress.update(bar, completed=training.step, status=shown)
                if not console.is_terminal:
                    say(console, f"step {training.step} of {config.steps}: {shown}")
                writer.add_scalar("train/relative_error", error, training.step)
                writer.add_scalar("train/lr", training.optimizer.param_groups[0]["lr"], training.step)
                writer.add_scalar("train/pairs_per_second", speed, training.step)
                logged, clock = training.step, time.perf_counter()
            if training.is_due(save_every):
                write_state(out, training.state())
                training.saved = training.step
                _write_picture(training, out, writer)


def _write_picture(training: _Training, out: Path, writer: SummaryWriter) -> None:
    """Draws the network's estimates of six pairs, which are the same each time."""
    figure = draw_pairs(training.net.eval(), training.pairs(6, training.config.seed))
    training.net.train()
    write_atomically(out / PICTURE, lambda file: figure.savefig(file, format="png", dpi=100))
    writer.add_figure("pairs", figure, training.step)


def _seed(config: NetConfig, step: int) -> int:
    """Mixes the configuration's seed and the step into a 63-bit seed for the step's pairs."""
    return int(np.random.SeedSequence((config.seed, step)).generate_state(1, np.uint64)[0]) >> 1


def learning_rate(config: NetConfig, step: int) -> float:
    """Returns the rate of a step: linear warm-up times cosine decay to 0 over all steps."""
    return config.lr * min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / config.steps)) / 2


def _distances(net: InverseTransformNet, pairs: Pairs, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the loss, and the mean distances of the final estimates and of the identity from the truth.

    In the loss the final estimates count twice, and the earlier ones, which they refine, count once.
    """
    theta = homography.exp(pairs.a)
    *rough, final = (
        homography.distance(homography.exp(a), theta, kind).mean() for a in net.estimates(pairs.predicted, pairs.target)
    )
    return sum(rough, 2 * final), final.detach(), homography.distance(theta, kind=kind).mean()


def _initial(config: NetConfig) -> InverseTransformNet:
    """Makes a new network, or reads that of the file ``config.init``."""
    if config.init is None:
        kind = ARCHITECTURES[config.architecture]
        return kind(**{name: getattr(config, name) for name in kind.sizes})
    net = InverseTransformNet.from_file(config.init)
    expected, found = (", ".join(f"{name} {getattr(owner, name)}" for name in net.sizes) for owner in (config, net))
    if (net.architecture, found) != (config.architecture, expected):
        raise ValueError(
            f"init must hold a network {config.architecture} of {expected}, got {net.architecture} of {found}"
        )
    return net


def _transforms(config: NetConfig, device: str | torch.device) -> Transforms | None:
    """Returns the function that makes the pairs' homographies; None lets :func:`make_pairs` draw random ones."""
    if config.stn is None:
        return None
    stn = SpatialTransformer.from_file(config.stn).requires_grad_(False).to(device)
    if stn.channels != 1:
        raise ValueError(f"stn must be a transformer of 1 channel, got {stn.channels} in {config.stn}")

    def mixed(target: Tensor, generator: Generator) -> Tensor:
        count = len(target)
        a = homography.sample(count, config.max_displacement, generator=generator, device=target.device)
        # The random half is drawn by lot, because a pair's place in the batch decides how it is damaged.
        lot = torch.randperm(count, generator=generator, device=target.device)
        return torch.where((lot < count / 2)[:, None], a, stn.algebra(target))

    return mixed if config.transforms == "mix" else lambda target, _: stn.algebra(target)


def _history(config: NetConfig) -> list[dict[str, Any]]:
    """Returns the configurations of all trainings that led to these weights, in order."""
    stage = {name: value for name, value in asdict(config).items() if name not in ("init", "stn")}
    return [*(training_history(Path(config.init)) if config.init else []), stage]


def training_history(weights: Path) -> list[dict[str, Any]]:
    """Reads, from a weight file that :func:`train_net` wrote, the configurations it was trained with, in order."""
    with safe_open(weights, "pt") as file:
        return json.loads((file.metadata() or {}).get("training", "[]"))
