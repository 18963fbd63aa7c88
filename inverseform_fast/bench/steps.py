"""One training step under each way to compute the loss, and that loss alone, on random street scenes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor

import inverseform_fast as iff

from ..segmentation.models import build_model
from ..segmentation.models.base import forward_in_training
from ..segmentation.tasks import SemanticTask
from . import release
from .setting import AMP, PROVIDERS, Setting
from .street import street_labels
from .timing import Clock

PHASES = ("data", "forward", "loss", "backward", "update")
SCENES = 4  # different ones in a batch; the other images of a larger batch repeat them


class Unavailable(Exception):
    """Why a provider cannot run here."""


class Loss:
    """A provider's loss, and the targets that a data loader must make for it.

    Raises:
        ValueError: no such provider. Unavailable: it cannot run here.
    """

    def __init__(self, setting: Setting, provider: str) -> None:
        if provider not in PROVIDERS:
            raise ValueError(f"provider must be one of {', '.join(PROVIDERS)}, got {provider!r}")
        self.setting, self.provider, self.targets_seconds = setting, provider, 0.0
        self.head = provider == "release" or (provider != "stock" and not setting.headless)
        if provider == "release" and find_spec("scipy") is None:
            raise Unavailable("its targets need SciPy: pip install 'inverseform-fast[bench]'")
        try:
            with self.backend():
                self.criterion = self._criterion(torch.device(setting.device))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise Unavailable(str(error)) from error

    def _criterion(self, device: torch.device) -> Callable[..., Tensor]:
        if self.provider == "stock":
            return release.segmentation_loss
        if self.provider == "release":
            return release.Release().to(device)
        inverseform = iff.InverseFormLoss(resize=self.setting.resize)
        criterion = iff.BoundaryAwareLoss(10, 0.3, inverseform=inverseform, edge=0, dice=0, f1=0).to(device)

        def total(logits: Tensor, labels: Tensor, *boundary_logits: Tensor) -> Tensor:
            return criterion(logits, labels, *boundary_logits).total

        return torch.compile(total) if self.provider == "compiled" else total

    def backend(self) -> AbstractContextManager[object]:
        kernels = "triton" if torch.device(self.setting.device).type == "cuda" else "cpu"
        return iff.set_backend(kernels if self.provider == "fused" else "reference")

    def targets(self, labels: Tensor) -> tuple[list[Tensor], float]:
        """What a data loader must make of ``labels (N, H, W)``, and the seconds that the host takes for it.

        Only the release needs something: its boundary maps. Their time is N times the median time of an image, over at
        least three images.
        """
        if self.provider != "release":
            return [], 0.0
        maps, seconds = [], []
        for image in labels if len(labels) >= 3 else labels.repeat(3, 1, 1):
            begin = time.perf_counter()
            maps.append(release.boundary_map(image[None], classes=self.setting.classes))
            seconds.append(time.perf_counter() - begin)
        return [torch.cat(maps[: len(labels)])], len(labels) * statistics.median(seconds)

    def alone(self) -> Callable[[], Tensor]:
        """A call that computes the loss of random logits and its gradients, with targets that were made before."""
        setting, generator = self.setting, torch.Generator().manual_seed(1)
        _, labels = batch(setting)
        size = [-(-side // 4) for side in setting.crop]
        logits = [
            torch.randn(setting.batch_size, channels, *size, generator=generator)
            .to(setting.device, AMP[setting.amp])
            .requires_grad_()
            for channels in ([setting.classes, 1] if self.head else [setting.classes])
        ]
        targets, self.targets_seconds = self.targets(labels)
        labels, *targets = (each.to(setting.device) for each in (labels, *targets))
        segmentation, *boundary = logits

        def call() -> Tensor:
            with self.backend():
                loss = self.criterion(segmentation, labels, *boundary, *targets)
                loss.backward()
            for each in logits:  # at the end, so that the gradients count as memory of this call
                each.grad = None
            return loss.detach()

        return call


class Step:
    """A training step: a model, its optimizer, one batch on the host, and a :class:`Loss`.

    Raises:
        ValueError: see :class:`Loss` and :func:`~inverseform_fast.segmentation.models.build_model`.
        Unavailable: the provider cannot run here.
    """

    def __init__(self, setting: Setting, provider: str) -> None:
        self.setting, self.loss = setting, Loss(setting, provider)
        self.device = torch.device(setting.device)
        torch.manual_seed(0)
        tasks = {"semantic": SemanticTask(classes=tuple(map(str, range(setting.classes))))}
        model = build_model(setting.model, setting.backbone, tasks, boundary_head=self.loss.head)
        self.model = model.to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.images, self.labels = batch(setting)
        self.targets, self.targets_seconds = self.loss.targets(self.labels)

    def run(self, clock: Clock = float) -> list[float]:
        """Do one step; return what the clock says at its beginning and after each of ``PHASES``.

        *Data* is the transfer to the device. The targets were made before, which took ``targets_seconds``.
        """
        amp = AMP[self.setting.amp]
        with self.loss.backend():
            times = [clock()]
            host = (self.images, self.labels, *self.targets)
            images, labels, *targets = (each.to(self.device, non_blocking=True) for each in host)
            times.append(clock())
            with torch.autocast(self.device.type, amp, enabled=amp != torch.float32):
                predictions = forward_in_training(self.model, {"image": images})
            times.append(clock())
            loss = self.loss.criterion(predictions["semantic"], labels, *_boundary(predictions), *targets)
            times.append(clock())
            loss.backward()
            times.append(clock())
            self.optimizer.step()
            self.optimizer.zero_grad()
            times.append(clock())
        return times


def _boundary(predictions: dict[str, Tensor]) -> list[Tensor]:
    return [predictions["boundary"]] if "boundary" in predictions else []


@lru_cache(maxsize=1)
def batch(setting: Setting) -> tuple[Tensor, Tensor]:
    """Images float32 (N, 3, H, W) and labels int64 (N, H, W) of ``setting.classes`` classes, void included."""
    generator = torch.Generator().manual_seed(0)
    labels = street_labels(min(SCENES, setting.batch_size), setting.crop, setting.classes, generator)
    copies = -(-setting.batch_size // len(labels))
    labels = labels.repeat(copies, 1, 1)[: setting.batch_size]
    images = torch.randn(setting.batch_size, 3, *setting.crop, generator=generator)
    pin = torch.cuda.is_available()
    return (images.pin_memory(), labels.pin_memory()) if pin else (images, labels)
