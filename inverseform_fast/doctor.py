"""Reports what is installed, which backend each op runs on, and why others cannot run: for the top of a bug report.

Run ``inverseform-fast doctor``, or ``python -m inverseform_fast.doctor`` where the [train] extra is missing.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from . import InverseTransformNet, backend_info
from .functional import segmentation_loss

PACKAGE = Path(__file__).parent
BASE = ("inverseform-fast", "torch", "triton", "numpy", "safetensors")
EXTRA = ("timm", "torchvision", "torchmetrics", "tensorboard", "matplotlib", "rich", "typer", "transformers")


def report() -> str:
    """The report as lines of text; it says what is missing and raises no error for it."""
    sections = {
        "versions": _versions(BASE),
        "[train] extra": _versions(EXTRA),
        "machine": _machine(),
        "extension": _extension(),
        "backends": iter(backend_info()["backends"].items()),
        "ops": iter(backend_info()["ops"].items()),
        "weights": _weights(),
    }
    lines = []
    for title, rows in sections.items():
        lines += ["", title, *(f"  {name:<20} {value}" for name, value in rows)]
    return "\n".join(lines[1:])


def _versions(packages: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            yield package, "not installed"


def _machine() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "CPU threads", f"{torch.get_num_threads()} of {os.cpu_count()}"
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    yield (
        "instruction set",
        torch.backends.cpu.get_cpu_capability() + (f" (ATEN_CPU_CAPABILITY={asked})" if asked else ""),
    )
    yield "torch build", torch.__version__
    yield "torch's CUDA", torch.version.cuda or "none: this torch is a CPU build"
    if not torch.cuda.is_available():
        yield "GPU", "none that this torch can use; every op runs on the CPU"
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        yield f"GPU {index}", f"{properties.name}, sm_{properties.major}{properties.minor}, {memory}"


def _extension() -> Iterator[tuple[str, str]]:
    yield "package", str(PACKAGE)
    libraries = sorted(name for name in map(Path, torch.ops.loaded_libraries) if name.parent == PACKAGE)
    yield "loaded from", ", ".join(map(str, libraries)) or "nowhere: it was not built, or does not load (see backends)"
    yield "input checks", _input_checks()


def _input_checks() -> str:
    """Tries what the checks are for: a class id that is none."""
    try:
        segmentation_loss(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1), 2))
    except ValueError:
        return "on; on a GPU and in torch.compile without a look at values, which would wait for the device"
    return "off: a label that is no class id was accepted"


def _weights() -> Iterator[tuple[str, str]]:
    try:
        net = InverseTransformNet.compact()
    except (OSError, ValueError) as error:
        yield "compact", f"broken: {error}"
        return
    count = sum(parameter.numel() for parameter in net.parameters())
    yield "compact", f"{count:,} parameters, tiles of {net.tile} x {net.tile}"


if __name__ == "__main__":
    print(report())
