"""A forward pass of a part of a batch computes what that of the whole batch would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.overrides import TorchFunctionMode

from .sampling import derived_seed

_DROPOUTS = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_FILLS = {Tensor.bernoulli_, Tensor.uniform_, Tensor.normal_}
_FRESH: dict[Any, Callable[[Tensor], Tensor]] = {torch.rand: Tensor.uniform_, torch.randn: Tensor.normal_}


class WholeBatch(TorchFunctionMode):
    """Lets each sample have its own randomness, and BatchNorm the statistics of all processes' samples.

    Dropout and the like draw for each sample from its own seed, whichever process computes it beside whichever other
    samples. This holds for dropout of PyTorch's functions and modules and for ``rand``, ``randn``, ``bernoulli_``,
    ``uniform_`` and ``normal_``, of tensors whose first dimension is a multiple of the number of samples. All other
    draws are the same on every process, and so are those after the pass.

    Args:
        seeds: a seed for each sample of the part.
        share_batch_norm: whether BatchNorm in training sees the samples of all processes; all must have as many.
    """

    def __init__(self, seeds: Sequence[Sequence[int]], share_batch_norm: bool) -> None:
        super().__init__()
        self.seeds, self.share_batch_norm, self.draws = seeds, share_batch_norm, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and self.share_batch_norm:
            return _batch_norm(*args, **kwargs)
        if kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        if func in _FRESH:
            return self._fill(func(*args, **kwargs), _FRESH[func])
        if func in _FILLS:
            return self._fill(args[0], lambda part: func(part, *args[1:], **kwargs))
        if func in _DROPOUTS and _is_random(args[1:], kwargs):
            return self._drop(func, args, kwargs)
        return func(*args, **kwargs)

    def _fill(self, values: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
        if not self._has_samples(values):
            return fill(values)
        self._for_samples(values, fill)
        return values

    def _drop(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        values = args[0] if args else kwargs.pop("input")
        if not self._has_samples(values):
            return func(values, *args[1:], **kwargs)
        return torch.cat(self._for_samples(values, lambda part: func(part, *args[1:], **kwargs)))

    def _has_samples(self, values: Tensor) -> bool:
        return values.ndim > 0 and len(values) > 0 and len(values) % len(self.seeds) == 0

    def _for_samples(self, values: Tensor, work: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Calls ``work`` for the rows of each sample; its seed and the number of the draw fix the randomness."""
        rows, results = len(values) // len(self.seeds), []
        with torch.random.fork_rng(devices=[values.device] if values.is_cuda else []):
            for position, seed in enumerate(self.seeds):
                torch.manual_seed(derived_seed(*seed, self.draws))
                results.append(work(values[position * rows : (position + 1) * rows]))
        self.draws += 1
        return results


def _is_random(args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a dropout that is called with these arguments after its input drops anything."""
    given = dict(zip(("p", "training"), args, strict=False)) | kwargs
    return given.get("p", 0.5) > 0 and given.get("training", True)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Computes ``F.batch_norm`` with the statistics of all processes; PyTorch's SyncBatchNorm refuses a CPU."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    dims, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    mean = _mean_over_processes(x.float().mean(dims))
    centered = x.float() - mean.view(shape)
    variance = _mean_over_processes(centered.square().mean(dims))
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1] * dist.get_world_size()
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(variance.detach() * (count / (count - 1)), momentum)
    result = centered * (variance + eps).rsqrt().view(shape)
    if weight is not None and bias is not None:
        result = result * weight.view(shape) + bias.view(shape)
    return result.to(x.dtype)


def _mean_over_processes(values: Tensor) -> Tensor:
    return all_reduce(values) / dist.get_world_size()
