"""What every ``bench_<op>.py`` shares: inputs, the providers side by side, the correctness gate and the measurement.

Each case is gated, timed by pytest-benchmark, and appended as one line of JSON to the file that the environment
variable ``INVERSEFORM_BENCH_CASES`` names, so that a crash later on loses nothing.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import cycle, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._functorch import config as functorch

import inverseform_fast as iff
from inverseform_fast.scenes.street import label_maps

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
BATCH, HEIGHT, WIDTH = (8, 1024, 2048) if ON_GPU else (2, 128, 256)
CLASSES = 19
DIRECTIONS = ("forward", "backward", "both")
PROVIDERS = ("release", "reference", "fused", "compiled")
BANDWIDTH = {"H200": 4.3e12, "H100": 3.35e12}  # bytes per second: copied by an H200, nominal for an H100
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of |out - truth| / |truth|, else 0
ROUND = 0.02  # seconds, at least: drowns the synchronisation at a round's end
SPENT = 0.5  # seconds of rounds in a case
COLD = 2**28  # bytes of inputs and outputs to go through before one comes again: several times a GPU's cache


@dataclass(frozen=True)
class Peer:
    """Another implementation: ``truth`` is what holds for it where that is not the op's reference.

    ``share``: of its numbers, the best ones, which alone must be right; the gate leaves out the rest.
    """

    function: Callable[..., Any]
    truth: Callable[..., Any] | None = None
    tolerance: float | None = None
    share: float = 1.0


@dataclass(eq=False)
class Workload:
    """An op on one input: the public function, its reference, what the release or stock PyTorch does, and more peers.

    ``truth_of_release``: the reference that holds for the release where its definition is another. ``bytes``: the
    fewest that must move, by pass.
    """

    function: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: tuple[Any, ...]
    bytes: dict[str, int]
    release: Callable[..., Any] | None = None
    truth_of_release: Callable[..., Any] | None = None
    tolerance: float | None = None
    peers: dict[str, Peer] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        return "-".join(str(a.dtype).removeprefix("torch.") for a in self._tensors())

    @property
    def size(self) -> str:
        return ", ".join("x".join(map(str, a.shape)) for a in self._tensors())

    def _tensors(self) -> list[Tensor]:
        return [a for a in self.arguments if isinstance(a, Tensor)]

    def provider(self, name: str) -> Any:
        function = self._peer(name).function
        return torch.compile(function) if name == "compiled" else function

    def _peer(self, provider: str) -> Peer:
        ours = {"release": Peer(self.release, self.truth_of_release), "fused": Peer(self.function)}
        return (ours | self.peers).get(provider, Peer(self.reference))

    def check(self, results: Sequence[Tensor], direction: str, provider: str) -> None:
        """Raise AssertionError unless the results are those of the reference in float32 (float64 for float64)."""
        peer = self._peer(provider)
        expected = _truth(self, peer.truth or self.reference, direction)
        allowed = next(t for t in (peer.tolerance, self.tolerance, self._allowed()) if t is not None)
        assert len(results) == len(expected), f"{len(results)} results, not {len(expected)}"
        for index, (result, true) in enumerate(zip(results, expected, strict=True)):
            assert result.shape == true.shape, (
                f"result {index} has shape {tuple(result.shape)}, not {tuple(true.shape)}"
            )
            wrong = result.double() - true.double()
            if peer.share < 1:
                ranked = wrong.abs().nan_to_num(torch.inf).flatten().sort().values
                wrong = ranked[: math.ceil(peer.share * len(ranked))]
            error = float(wrong.norm() / true.double().norm().clamp(min=1e-30))
            assert error <= allowed, (
                f"result {index} of {direction} is off by {error:.1e} of its norm, over {allowed:g}"
            )

    def _allowed(self) -> float:
        return max(TOLERANCE.get(a.dtype, 0.0) for a in self._tensors())


def calls(function: Callable[..., Any], arguments: tuple[Any, ...], direction: str) -> Callable[[], Sequence[Tensor]]:
    """What one pass runs: its outputs (forward) or the gradients of all arguments that require one."""
    leaves = [a for a in arguments if isinstance(a, Tensor) and a.requires_grad]

    def outputs() -> list[Tensor]:
        result = function(*arguments)
        return [result] if isinstance(result, Tensor) else list(result)

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return outputs()

    if direction == "forward":
        return forward
    graph = [out for out in outputs() if out.requires_grad]
    cotangents = [_noise(out.shape).to(out.dtype) for out in graph]

    # materialize_grads: stock cross-entropy leaves boundary logits out.
    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(graph, leaves, cotangents, retain_graph=True, materialize_grads=True)

    def both() -> tuple[Tensor, ...]:
        roots = [out for out in outputs() if out.requires_grad]
        return torch.autograd.grad(roots, leaves, cotangents, materialize_grads=True)

    if direction == "backward":
        return backward
    graph.clear()
    return both


@lru_cache(maxsize=2)
def _truth(workload: Workload, function: Callable[..., Any], direction: str) -> Sequence[Tensor]:
    exact = [
        a.detach().to(torch.promote_types(a.dtype, torch.float32)).requires_grad_(a.requires_grad)
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in workload.arguments
    ]
    with iff.set_backend("reference"):
        return calls(function, tuple(exact), direction)()


def backend_of(provider: str) -> iff.set_backend:
    """The backend that a provider runs on; skips the case if it cannot run here."""
    if provider == "compiled" and not ON_GPU:
        pytest.skip("torch.compile of all cases takes a CPU ten minutes")
    try:
        return iff.set_backend(("triton" if ON_GPU else "cpu") if provider == "fused" else "reference")
    except RuntimeError as error:
        pytest.skip(str(error))


def cases(
    op: str,
    make: Callable[[str], Workload],
    names: Sequence[str],
    directions: Sequence[str] = DIRECTIONS,
    providers: Sequence[str] = PROVIDERS,
    running: Callable[[str], AbstractContextManager[Any]] = backend_of,
) -> Callable[..., None]:
    """The pytest-benchmark cases of an op's workloads ``make(name)``: each name in each pass by each provider.

    ``running(provider)`` is what a provider runs in.
    """
    make = lru_cache(maxsize=1)(make)  # the cases of one workload follow each other
    # Compiling takes longest: if time runs out, that is what is lost.
    order = sorted(product(names, directions, providers), key=lambda case: case[2] == "compiled")

    @pytest.mark.benchmark(timer=clock)
    @pytest.mark.parametrize(("name", "direction", "provider"), order)
    def case(benchmark: Any, name: str, direction: str, provider: str) -> None:
        benchmark.group = f"{op} {direction}"
        benchmark.extra_info |= {"op": op, "case": name, "pass": direction, "provider": provider}
        with recorded(benchmark.extra_info), running(provider):
            if provider == "fused" and iff.backend_info()["ops"].get(op) == "reference":
                pytest.skip(f"{op} has no kernel for this device")
            measure(benchmark, make(name), direction, provider)

    return case


def measure(benchmark: Any, workload: Workload, direction: str, provider: str) -> None:
    """Gate one provider, then see what memory it takes, then time it."""
    case = benchmark.extra_info
    case |= {"dtype": workload.dtype, "size": workload.size, "bytes": workload.bytes[direction]}
    # Backward alone runs over one graph again and again, which donated buffers forbid.
    with functorch.patch(donated_buffer=direction != "backward"):
        torch.compiler.reset()
        function = workload.provider(provider)
        call = calls(function, workload.arguments, direction)
        workload.check(call(), direction, provider)
        case |= {"gate": "passed", "peak_bytes": _peak(call)}
        if benchmark.disabled:
            pytest.skip("timing is disabled")
        copies = min(math.ceil(COLD / case["bytes"]), 16) if ON_GPU else 1
        turns = [call, *(calls(function, _copy(workload.arguments), direction) for _ in range(copies - 1))]
        case |= _time(benchmark, turns)
        if ON_GPU:
            if case["median_ms"] < 1e3 * ROUND:
                case["device_ms"] = _device_ms(turns)
            case["roofline_ms"] = 1e3 * case["bytes"] / bandwidth()
            case["share_of_roofline"] = case["roofline_ms"] / (case["device_ms"] or case["median_ms"])
        case["status"] = "measured"


def _time(benchmark: Any, turns: list[Callable[[], Any]]) -> dict[str, Any]:
    """Median and spread of one call, in rounds long enough to drown the synchronisation at their ends."""
    turn = cycle(turns)

    def timed() -> None:
        next(turn)()

    repeats = len(turns)
    while (seconds := _seconds(timed, repeats)) < ROUND:
        repeats *= 2
    rounds = min(max(int(SPENT / seconds), 3), 20)
    benchmark.pedantic(timed, rounds=rounds, iterations=repeats)
    stats = benchmark.stats.stats
    return {"median_ms": 1e3 * stats.median, "iqr_ms": 1e3 * stats.iqr, "rounds": rounds, "repeats": repeats}


def _device_ms(turns: list[Callable[[], Any]]) -> float:
    """Median of one call on the GPU alone: it sleeps until the host, slower than small kernels, has queued them all."""
    turns = turns * math.ceil(8 / len(turns))
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(40_000_000)  # cycles, about 20 ms
        start.record()
        for call in turns:
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / len(turns))
    return statistics.median(times)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start


def clock() -> float:
    """The time at which the device has finished what it was given."""
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak(call: Callable[[], Any]) -> int | None:
    if not ON_GPU:
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def _copy(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.detach().clone().requires_grad_(a.requires_grad) if isinstance(a, Tensor) else a for a in arguments)


@contextmanager
def recorded(case: dict[str, Any]) -> Iterator[None]:
    """Append the case to the record, whether or not it comes to its end."""
    case |= dict.fromkeys(("dtype", "size", "bytes", "reason", "gate", "median_ms", "iqr_ms", "rounds", "repeats"))
    case |= dict.fromkeys(("device_ms", "roofline_ms", "share_of_roofline", "peak_bytes"))
    case["status"] = "failed"
    try:
        yield
    except (pytest.skip.Exception, ModuleNotFoundError) as error:
        case |= {"status": "skipped", "reason": str(error)}
        pytest.skip(str(error))
    except BaseException as error:
        case["reason"] = f"{type(error).__name__}: {error}"[:500]
        case["gate"] = case["gate"] or case["reason"]
        raise
    finally:
        if path := os.environ.get("INVERSEFORM_BENCH_CASES"):
            with open(path, "a") as file:
                file.write(json.dumps(case) + "\n")


@cache
def bandwidth() -> float:
    """Bytes per second between the GPU and its memory: by its name, or measured by a large copy."""
    known = [rate for name, rate in BANDWIDTH.items() if name in torch.cuda.get_device_name()]
    if known:
        return known[0]
    source = torch.ones(2**28, device=DEVICE)
    target = torch.empty_like(source)
    _seconds(lambda: target.copy_(source), 3)
    return 10 * 2 * source.nbytes / _seconds(lambda: target.copy_(source), 10)


@cache
def street_labels(dtype: torch.dtype, images: int = BATCH) -> Tensor:
    """Random street scenes of 11 of the 19 classes, with patches of void: areas, slanted edges and thin poles."""
    generator = torch.Generator().manual_seed(0)
    maps = label_maps(images, HEIGHT, WIDTH, generator)
    maps = torch.stack([torch.randperm(CLASSES, generator=generator)[m.long()] for m in maps])
    void = torch.rand(images, HEIGHT // 16, WIDTH // 16, generator=generator) < 0.03
    void = void.repeat_interleave(16, 1).repeat_interleave(16, 2)
    return maps.masked_fill_(void, 255).to(DEVICE, dtype)


def logits(dtype: torch.dtype) -> Tensor:
    """Class logits at a quarter of the labels' resolution that lean to the labels."""
    classes = torch.arange(CLASSES, device=DEVICE)[:, None, None]
    right = street_labels(torch.uint8)[:, None, 2::4, 2::4] == classes
    return (_noise(right.shape) + 4 * right).to(dtype).requires_grad_()


def boundary_logits(dtype: torch.dtype) -> Tensor:
    """Random boundary logits at a quarter of the labels' resolution."""
    return _noise((BATCH, 1, HEIGHT // 4, WIDTH // 4)).to(dtype).requires_grad_()


def _noise(shape: Sequence[int]) -> Tensor:
    """The same random numbers each time."""
    return torch.randn(shape, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(1))
