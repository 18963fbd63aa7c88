"""The plan says what is measured of a training step, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from inverseform_fast.bench.setting import Setting

CLASSES: tuple[int, ...] = (11, 19, 40, 150)
TILES: tuple[tuple[int, int], ...] = ((224, 224), (224, 448), (448, 448), (448, 896), (896, 896))


@dataclass(frozen=True)
class Plan:
    """All that is measured on a kind of machine.

    Attributes:
        settings: the settings of whole steps, by name.
        scaled: the setting in which one thing at a time is varied, to measure how the loss alone scales.
        batches, crops: the batch sizes and crops that it gets.
        memory: bytes that the largest batch must fit into; None for all of the GPU's memory.
        largest: the setting whose batch is enlarged.
        slow: providers that take part in the first setting only, and in no search for the largest batch; a CPU
            compiles for minutes.
    """

    settings: dict[str, Setting]
    scaled: Setting
    batches: tuple[int, ...]
    crops: tuple[tuple[int, int], ...]
    memory: int | None
    largest: Setting
    slow: tuple[str, ...] = ()

    def scaling(self) -> Iterator[tuple[str, float, Setting]]:
        """Yield the axis, the position on it, and the setting."""
        for batch_size in self.batches:
            yield "images", batch_size, replace(self.scaled, batch_size=batch_size)
        for crop in self.crops:
            yield "megapixels", crop[0] * crop[1] / 1e6, replace(self.scaled, crop=crop)
        for classes in CLASSES:
            yield "classes", classes, replace(self.scaled, classes=classes)
        for size in TILES:
            yield "tiles", size[0] * size[1] / 224**2, replace(self.scaled, resize=size)


def plan_of(on_gpu: bool) -> Plan:
    if on_gpu:
        base = Setting("hrnet_w18", crop=(512, 1024), batch_size=8, amp="bf16", device="cuda")
        settings = {
            "hrnet_w18": base,
            "hrnet_w48": replace(base, backbone="hrnet_w48"),
            "SegFormer B2": replace(base, model="segformer", backbone="mit_b2"),
            "1024 x 2048": replace(base, crop=(1024, 2048), batch_size=2),
            "480 x 480": replace(base, crop=(480, 480)),
            **{f"{classes} classes": replace(base, classes=classes) for classes in CLASSES if classes != base.classes},
            "headless": replace(base, headless=True),
        }
        scaled = replace(base, batch_size=4)
        crops = ((256, 512), (512, 1024), (1024, 2048))
        # compiled and release are slow: the release's targets take the host seconds in each step.
        return Plan(settings, scaled, (1, 2, 4, 8, 16), crops, None, base, ("compiled", "release"))
    base = Setting("test_resnet", crop=(512, 1024))
    small = replace(base, crop=(256, 512))
    settings = {
        "512 x 1024": base,
        "256 x 512": small,
        "480 x 480": replace(base, crop=(480, 480)),
        **{f"{classes} classes": replace(small, classes=classes) for classes in CLASSES if classes != small.classes},
        "hrnet_w18": replace(small, backbone="hrnet_w18"),
        "SegFormer B0": replace(small, model="segformer", backbone="mit_b0"),
        "headless": replace(small, headless=True),
    }
    crops = ((128, 256), (256, 512), (512, 1024))
    return Plan(settings, small, (1, 2, 4, 8), crops, 2**30, replace(small, crop=(128, 256)), ("compiled",))
