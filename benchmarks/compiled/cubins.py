"""Each Triton kernel is compiled for sm_80, sm_90 and sm_100 with production launch parameters, and its cubin is read.

This needs no GPU: launches are recorded instead of run, compiled with the very arguments that a GPU would get, and the
cubin is read with the cuobjdump that Triton carries. ``python -m benchmarks.compiled.cubins`` writes
``results/cubins.json`` and the table of ``docs/design/triton.md``.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from benchmarks.common import paths
from benchmarks.common.results import Json
from inverseform_fast.files import write_atomically
from inverseform_fast.kernels.align import align, align_backward
from inverseform_fast.kernels.boundary_f1_loss import boundary_f1_loss, boundary_f1_loss_backward
from inverseform_fast.kernels.boundary_loss import boundary_loss
from inverseform_fast.kernels.boundary_map import boundary_map
from inverseform_fast.kernels.channels_first import channels_first, channels_first_backward
from inverseform_fast.kernels.dice_loss import dice_loss, dice_loss_backward
from inverseform_fast.kernels.extract_tiles import extract_tiles, extract_tiles_backward
from inverseform_fast.kernels.homography_exp import homography_exp, homography_exp_backward
from inverseform_fast.kernels.homography_warp import homography_warp, homography_warp_backward
from inverseform_fast.kernels.local_correlation import local_correlation, local_correlation_backward
from inverseform_fast.kernels.move_labels import move_labels
from inverseform_fast.kernels.register_labels import climb
from inverseform_fast.kernels.segmentation_loss import segmentation_loss
from inverseform_fast.kernels.soft_boundary_map import soft_boundary_map, soft_boundary_map_backward
from inverseform_fast.nets import Align

CAPABILITIES = (80, 90, 100)
IMAGES, FULL, LOW, TILED = 8, (1024, 2048), (256, 512), (1120, 2016)  # of a usual step, and the sizes of its maps
RESULTS = paths.RESULTS / "cubins.json"
DOCUMENT = paths.ROOT / "docs/design/triton.md"
BEGIN, END = "<!-- begin table -->", "<!-- end table -->"
SIZES = {"U8", "S8", "U16", "S16", "64", "128"}  # widths of an access in an instruction's name; without one it is 32
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
KINDS = {  # the names of SASS instructions of each kind begin so
    "float": ("FADD", "FMUL", "FFMA", "FMNMX", "FSEL", "FSET", "FCHK", "DADD", "DMUL", "DFMA"),
    "special": ("MUFU",),
    "integer": ("IADD", "IMAD", "IMNMX", "VIMNMX", "VIADD", "ISETP", "LOP3", "SHF", "LEA", "SEL", "PRMT", "I2F", "F2I"),
    "shared": ("LDS", "STS"),
    "barrier": ("BAR",),
    "shuffle": ("SHFL",),
    "load": ("LDG",),
    "store": ("STG",),
    "atomic": ("ATOM", "RED"),
    "local": ("LDL", "STL"),
}


@dataclass
class Launch:
    """A kernel, the arguments that it was launched with, and how many programs."""

    case: str
    kernel: JITFunction
    arguments: tuple[object, ...]
    options: dict[str, object]
    programs: int

    @property
    def name(self) -> str:
        return self.kernel.__name__.lstrip("_")

    @property
    def described(self) -> tuple[object, ...]:
        """The kernel and its arguments, where a tensor's dtype stands for the tensor."""
        arguments = (*self.arguments, *self.options.items())
        return self.kernel, *(x.dtype if isinstance(x, torch.Tensor) else x for x in arguments)


@contextmanager
def not_run(receive: Callable[[Launch], object], case: str = "") -> Iterator[None]:
    """Within the block, launches of Triton kernels are given to ``receive``, and none of them runs."""

    def record(kernel: JITFunction, *arguments: object, grid: tuple[int, ...], warmup: bool, **options: object) -> None:
        receive(Launch(case, kernel, arguments, options, math.prod(grid)))

    with patch.object(JITFunction, "run", record):
        yield


@contextmanager
def recorded(case: str, launches: dict[object, Launch]) -> Iterator[None]:
    """Record the launches of Triton kernels within the block, each once; none of them runs."""
    with not_run(lambda launch: launches.setdefault(launch.described, launch), case):
        yield


def production_launches() -> list[Launch]:
    """List every kernel with the arguments of a usual step: 8 images of 1024 x 2048, 19 classes, logits at 1/4."""
    launches: dict[object, Launch] = {}
    for run_kernels in (_maps_and_losses, _homographies, _network):
        run_kernels(launches)
    first = {(launch.name, launch.case): launch for launch in reversed(launches.values())}  # of all bands of rows
    return list(reversed(first.values()))


def _maps_and_losses(launches: dict[object, Launch]) -> None:
    for dtype in (torch.uint8, torch.int64):
        labels = torch.empty(IMAGES, *FULL, dtype=dtype)
        with recorded(f"{dtype} labels", launches):
            boundary_map(labels, 2, 255, False)
    with recorded("radius 8", launches):
        boundary_map(labels, 8, 255, False)
    with recorded("release", launches):
        boundary_map(labels, 2, 255, True)

    target = torch.empty(IMAGES, 1, *FULL, dtype=torch.uint8)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        logits, boundary_logits = torch.empty(IMAGES, 19, *LOW, dtype=dtype), torch.empty(IMAGES, 1, *LOW, dtype=dtype)
        with recorded(f"{dtype}", launches):
            segmentation_loss(logits, labels, None, 255, True)
            boundary_loss(boundary_logits, labels, 2, 255, None, True)
            _, slopes = dice_loss(logits, labels, 255, None)
            dice_loss_backward(logits, labels, slopes, 255)
            _, slopes = boundary_f1_loss(logits, labels, 2, 255, 2, None)
            boundary_f1_loss_backward(logits, labels, slopes, 2, 255, 2)
            tiles, _, valid = extract_tiles(boundary_logits, target, TILED, 224, True)
            extract_tiles_backward(tiles, valid, boundary_logits, TILED, 224, True)
            _, logarithm = soft_boundary_map(logits, FULL, 2)
            soft_boundary_map_backward(logarithm, logarithm, logits, 2)
        with recorded(f"{dtype}, to planes", launches):
            channels_first(logits)
        with recorded(f"{dtype}, to channels_last", launches):
            channels_first_backward(logits)
    with recorded("headless", launches):
        boundary_loss(torch.empty(IMAGES, 1, *FULL), labels, 2, 255, None, True)
    with recorded("class weights", launches):
        segmentation_loss(logits, labels, torch.empty(19), 255, True)
    with recorded("counts of a whole batch", launches):
        boundary_loss(boundary_logits, labels, 2, 255, torch.empty(2, dtype=torch.float64), True)
    with recorded("no gradient", launches):
        segmentation_loss(logits, labels, None, 255, False)
    with recorded("same size", launches):
        segmentation_loss(torch.empty(1, 19, *FULL), labels[:1], None, 255, True)
        _, slopes = dice_loss(torch.empty(1, 19, *FULL), labels[:1], 255, None)
        dice_loss_backward(torch.empty(1, 19, *FULL), labels[:1], slopes, 255)
        _, slopes = boundary_f1_loss(torch.empty(1, 19, *FULL), labels[:1], 2, 255, 2, None)
        boundary_f1_loss_backward(torch.empty(1, 19, *FULL), labels[:1], slopes, 2, 255, 2)
    coefficients = torch.empty(IMAGES, 9, 17, 8)  # rows and columns of tiles
    with recorded("int64 labels", launches):
        move_labels(coefficients, labels, 255)
    for level, case in enumerate(("coarse", "fine")):
        with recorded(case, launches):
            climb(torch.empty(IMAGES, 19, *LOW), labels, coefficients, level, 255)
    with recorded("radius 3", launches):
        _, logarithm = soft_boundary_map(logits, FULL, 3)
        soft_boundary_map_backward(logarithm, logarithm, logits, 3)
        _, slopes = boundary_f1_loss(logits, labels, 3, 255, 2, None)
        boundary_f1_loss_backward(logits, labels, slopes, 3, 255, 2)


def _homographies(launches: dict[object, Launch]) -> None:
    image, theta = torch.empty(IMAGES, 1, *FULL), torch.empty(IMAGES, 36, 3, 3)
    for nearest, border in ((False, False), (False, True), (True, True)):
        with recorded(f"{'nearest' if nearest else 'bilinear'}, {'border' if border else 'zeros'}", launches):
            views = homography_warp(image, theta, (224, 224), nearest, border)
            homography_warp_backward(views, image, theta, nearest, border, True, True)
    with recorded("theta alone", launches):
        homography_warp_backward(views, image, theta, False, False, False, True)
    image, theta = torch.empty(IMAGES * 45, 1, 224, 224), torch.empty(IMAGES * 45, 1, 3, 3)
    with recorded("tiles, as in the loss", launches):
        views = homography_warp(image, theta, (224, 224), False, False)
        homography_warp_backward(views, image, theta, False, False, True, True)
    with recorded("tiles, theta alone", launches):
        homography_warp_backward(views, image, theta, False, False, False, True)
    for dtype in (torch.bfloat16, torch.float32):
        coefficients = torch.empty(IMAGES * 45, 8, dtype=dtype)
        with recorded(f"{dtype}", launches):
            homography_exp_backward(homography_exp(coefficients), coefficients)


def _network(launches: dict[object, Launch]) -> None:
    features = torch.empty(IMAGES * 45, 16, 28, 28)
    with recorded("the network's", launches):
        correlation = local_correlation(features, features, 3, 2)
        local_correlation_backward(correlation, features, features, 3, 2, True, True)
    with recorded("first alone", launches):
        local_correlation_backward(correlation, features, features, 3, 2, True, False)
    tiles, weights = torch.empty(IMAGES * 10, 1, 224, 224), [weight.detach() for weight in Align(224).weights]
    for precision in ("tf32", "ieee"):  # the precision of its products
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=precision == "tf32"):
            with recorded(f"the network's, {precision}", launches):
                found, matrix = align(tiles, tiles, weights)
            with recorded(f"the network's gradient, {precision}", launches):  # with respect to the prediction
                align_backward(found, tiles, tiles, weights, found, matrix, True, False)


def compile_for(launch: Launch, capability: int) -> triton.compiler.CompiledKernel:
    """Compile what a GPU of this compute capability would run."""
    target = GPUTarget("cuda", capability, 32)
    backend = make_backend(target)
    kernel, keywords = launch.kernel, {"debug": False, **launch.options}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, options = bind(*launch.arguments, **keywords)
    options, signature, constants, attributes = kernel._pack_args(backend, keywords, bound, specialization, options)
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=target, options=options.__dict__)


def inspect(compiled: triton.compiler.CompiledKernel) -> Json:
    """Read registers and stack of a thread, shared memory of a program, static instructions and access widths."""
    usage, sass = disassembled(compiled)
    used = resources(usage.splitlines()[-1])
    used["shared"] = max(used["shared"], compiled.metadata.shared)
    return used | {"warps": compiled.metadata.num_warps} | instructions(sass)


def disassembled(compiled: triton.compiler.CompiledKernel) -> tuple[str, str]:
    """Return what cuobjdump says about the resources and the instructions of a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return run("cuobjdump", "-res-usage", file.name), run("cuobjdump", "-sass", file.name)


def resources(line: str) -> dict[str, int]:
    """Read registers, stack and shared memory from cuobjdump's line on a function."""
    keys = {"registers": "REG", "stack": "STACK", "shared": "SHARED"}
    return {name: int(found(rf"{key}:(\d+)", line)[1]) for name, key in keys.items()}


def found(pattern: str, text: str) -> re.Match[str]:
    """Return the first match in a tool's output.

    Raises:
        ValueError: there is none.
    """
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"the output must hold {pattern}, got {text[:200]!r}")
    return match


def instructions(sass: str) -> dict[str, dict[str, int]]:
    """Count the static instructions of a function by kind, and its accesses to global memory by width."""
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", sass, re.MULTILINE)
    kinds = Counter(next((k for k, starts in KINDS.items() if name.startswith(starts)), "other") for name in names)
    return {
        "instructions": {kind: kinds[kind] for kind in (*KINDS, "other") if kinds[kind]},
        "load_bits": _widths(names, "LDG"),
        "store_bits": _widths(names, "STG"),
    }


def _widths(names: list[str], operation: str) -> dict[str, int]:
    accesses = [name.split(".") for name in names if name.startswith(operation)]
    sized = [next((part.lstrip("US") for part in parts if part in SIZES), "32") for parts in accesses]
    return {bits: sized.count(bits) for bits in sorted(set(sized), key=int)}


def run(tool: str, *arguments: str, cwd: str | None = None) -> str:
    return subprocess.run([TOOLS / tool, *arguments], check=True, capture_output=True, text=True, cwd=cwd).stdout


def table() -> list[Json]:
    """Make a row for every production launch and compute capability, in order."""
    return [
        {"kernel": launch.name, "case": launch.case, "sm": capability, **inspect(compile_for(launch, capability))}
        for launch in production_launches()
        for capability in CAPABILITIES
    ]


def as_markdown(rows: list[Json], capability: int) -> str:
    """Write the rows of one compute capability as Markdown."""
    lines = [
        "| kernel | case | registers | shared bytes | warps | load bits | store bits | static instructions |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["sm"] == capability:
            counts = (_counts(row[key]) for key in ("load_bits", "store_bits", "instructions"))
            sizes = (str(row[key]) for key in ("registers", "shared", "warps"))
            cells = (f"`{row['kernel']}`", row["case"].removeprefix("torch."), *sizes, *counts)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def write(results: Path, document: Path, rows: list[Json]) -> None:
    """Write the rows as JSON, and those of sm_90 between the marks of a document."""
    write_atomically(results, lambda file: file.write(json.dumps(rows, indent=1).encode() + b"\n"))
    before, _, rest = document.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{as_markdown(rows, 90)}\n{END}{after}"
    write_atomically(document, lambda file: file.write(text.encode()))


def main() -> None:
    write(RESULTS, DOCUMENT, table())


if __name__ == "__main__":
    main()
