"""A workload is an op on one input, with all who compute it and with the results that are right."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import inverseform_fast as iff
from benchmarks.ops.inputs import noise

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 3e-2}  # of |out - truth| / |truth|; others: 0


Function = Callable[..., Any]  # it takes an op's arguments, which differ from op to op
Call = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Peer:
    """Another implementation.

    Attributes:
        truth: the reference for it, if it is not the op's.
        tolerance: the largest relative error, if it is not the workload's.
        share: the share of its numbers that must be right; the check leaves out the worst ones.
    """

    function: Function
    truth: Function | None = None
    tolerance: float | None = None
    share: float = 1.0


@dataclass(eq=False)
class Workload:
    """An op on one input, and all that compute it.

    Attributes:
        function: the public function.
        reference: the op's reference.
        arguments: the arguments of both.
        bytes: the fewest bytes that must move, by pass.
        release: what the paper's release, or stock PyTorch, computes for the same.
        truth_of_release: the reference for the release, if its definition differs.
        tolerance: the largest relative error, if it is not that of the dtypes.
        peers: other implementations by name.
    """

    function: Function
    reference: Function
    arguments: tuple[Any, ...]
    bytes: dict[str, int]
    release: Function | None = None
    truth_of_release: Function | None = None
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

    def provider(self, name: str) -> Function:
        function = self._peer(name).function
        return torch.compile(function) if name == "compiled" else function

    def _peer(self, provider: str) -> Peer:
        peers = {"fused": Peer(self.function), **dict.fromkeys(("reference", "compiled"), Peer(self.reference))}
        if self.release:
            peers["release"] = Peer(self.release, self.truth_of_release)
        return (peers | self.peers)[provider]

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


def calls(function: Function, arguments: tuple[Any, ...], direction: str) -> Call:
    """Return a function that runs one pass; it returns the outputs (forward) or the gradients of all leaves."""
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
    cotangents = [noise(out.shape).to(out.dtype) for out in graph]

    # materialize_grads is needed because stock cross-entropy does not use the boundary logits.
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
def _truth(workload: Workload, function: Function, direction: str) -> Sequence[Tensor]:
    exact = [
        a.detach().to(torch.promote_types(a.dtype, torch.float32)).requires_grad_(a.requires_grad)
        if isinstance(a, Tensor) and a.is_floating_point()
        else a
        for a in workload.arguments
    ]
    with iff.set_backend("reference"):
        return calls(function, tuple(exact), direction)()
