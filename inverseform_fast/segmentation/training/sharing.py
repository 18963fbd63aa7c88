"""A model that all processes train, each with a copy of its own, or each with a part of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from ...states import check_keys
from ..checkpoint import Checkpoint
from ..config import TrainConfig
from ..models import SegmentationModel
from ..processes import Processes
from ..shards import check_shards, contents, flattened, read_shards, unflattened

_BLOCK = 1_000_000  # weights; smaller blocks are gathered together with what is around them


def share_model(model: SegmentationModel, config: TrainConfig, processes: Processes) -> nn.Module:
    """Moves a model to the process's device, and shares it; returns the module to call in training.

    Without ``config.shard`` every process has a copy, and gradients are averaged (``DistributedDataParallel``). With
    it, every process has a part of each weight, of its gradient and of the optimizer's state (``fully_shard``), and
    the weights of a block are gathered while it computes.

    Raises:
        ValueError: there is one process, started without ``torchrun``, and the model is to be sharded.
    """
    device = processes.device
    if processes.store is None:
        if config.shard:
            raise ValueError("shard must be off in a training that torchrun did not start")
        return model.to(device)
    if config.sync_bn and device.type == "cuda":
        convert_sync_batchnorm(model)
    if config.shard:
        # FSDP takes contiguous weights alone.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        mesh = init_device_mesh(device.type, (processes.size,))
        for block in (*_blocks(model), model):
            fully_shard(block, mesh=mesh)
        return model.to(device)
    unused_head = config.boundary_head and (config.loss == "ce" or config.beta == 0)
    return DistributedDataParallel(model.to(device), find_unused_parameters=unused_head)


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model that have many weights; inner blocks come before the outer ones."""
    holders = [module for module in model.modules() if isinstance(module, nn.ModuleList | nn.Sequential)]
    return [
        block
        for holder in reversed(holders)
        for block in holder
        if not isinstance(block, nn.ModuleList | nn.ModuleDict)
        and sum(weight.numel() for weight in block.parameters()) >= _BLOCK
    ]


def share_buffers(model: nn.Module) -> None:
    """Gives every process the first one's buffers: without ``sync_bn``, each has running statistics of its own."""
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Gathers the weights of a sharded model, so that a process may call it as often as it likes; all must enter."""
    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
            part.reshard()


def read_parts(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint, out: Path) -> dict[str, Any]:
    """Reads this process's parts of a checkpoint's tensors into a sharded model; all processes must call this.

    Args:
        optimizer: that of the model.
        checkpoint: one with shards, which are in ``out``.

    Returns:
        The state dict of the optimizer, with sharded tensors.

    Raises:
        FileNotFoundError, ValueError: the shards are not whole, or do not fit.
    """
    check_shards(out, checkpoint.shards)
    weights, moments = unflattened(contents(out, checkpoint.shards))
    own = model.state_dict()
    check_keys(weights, own, f"the model in {out}")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def room(index: int, size: torch.Size) -> Tensor:
        fits = index < len(parameters) and parameters[index].shape == size
        return torch.zeros_like(parameters[index]) if fits else torch.zeros(size)

    rooms = {index: {name: room(index, size) for name, (size, _) in each.items()} for index, each in moments.items()}
    read_shards(out, checkpoint.shards, flattened(own, rooms))
    return checkpoint.optimizer | {"state": rooms}


def shard_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Shards what an optimizer has gathered as the parameters are sharded; all must have the same whole tensors."""
    for parameter, moments in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for name, value in moments.items():
                if value.shape == parameter.shape and name != "step":
                    moments[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)


def averaging(shared: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Lets a step's last passes average the gradients of all processes, so that the others need not."""
    return nullcontext() if wanted or not isinstance(shared, DistributedDataParallel) else shared.no_sync()
