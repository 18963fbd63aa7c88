"""The frozen network, which no checkpoint holds, keeps its weights however a model that owns the loss is made."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import some_labels
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import inverseform_fast as iff
from inverseform_fast.constants import _CONSTANTS
from inverseform_fast.nets import Align, Dense
from inverseform_fast.nets.weights import _plain_tensors

LABELS = some_labels((1, 32, 32), 3)
LOGITS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def loss_of(criterion: nn.Module) -> Tensor:
    return criterion(LOGITS, LABELS).total


def make(net: str) -> iff.BoundaryAwareLoss:
    return iff.BoundaryAwareLoss(
        gamma=0.3, inverseform=iff.InverseFormLoss(net), class_weights=torch.tensor([1.0, 2.0, 3.0], device="cpu")
    )


@pytest.fixture(scope="module")
def expected(net: str) -> Tensor:
    return loss_of(make(net))


def test_a_loss_that_is_made_on_meta_has_its_weights(net: str, expected: Tensor) -> None:
    with torch.device("meta"):
        criterion = make(net)
    assert loss_of(criterion) == expected
    assert loss_of(criterion.to_empty(device="cpu")) == expected


def test_a_loss_that_becomes_uninitialized_keeps_its_weights(net: str, expected: Tensor) -> None:
    model = nn.ModuleDict({"backbone": nn.Conv2d(3, 3, 1), "criterion": make(net)})
    model.to("meta").to_empty(device="cpu")
    assert loss_of(model["criterion"]) == expected


def test_a_loss_that_is_made_of_fake_tensors_has_its_weights(net: str, expected: Tensor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        criterion = make(net)
        criterion.class_weights = None
        assert loss_of(criterion).shape == ()
    criterion.class_weights = torch.tensor([1.0, 2.0, 3.0])
    assert loss_of(criterion) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_changes_no_network(net: str, expected: Tensor, dtype: torch.dtype) -> None:
    """transformers sets it to that of a checkpoint while it makes a model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        criterion = make(net)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(before)
    assert loss_of(criterion) == expected
    assert {tensor.dtype for tensor in criterion.inverseform.net.parameters()} == {torch.float32}


def test_constants_are_made_on_the_host_while_the_default_device_is_meta() -> None:
    before = dict(_CONSTANTS)
    _CONSTANTS.clear()
    try:
        with torch.device("meta"):
            assert iff.homography.log(torch.eye(3, device="cpu")).equal(torch.zeros(8, device="cpu"))
            first = torch.ones(1, 8, device="cpu")
            assert iff.homography.bracket(first, first).abs().max() < 1e-6
    finally:
        _CONSTANTS.update(before)


@pytest.mark.parametrize("make_net", [lambda: Align(32), lambda: Dense(8)], ids=["Align", "Dense"])
def test_a_network_without_weights_is_refused(make_net) -> None:
    with torch.device("meta"):
        net = make_net()
    with pytest.raises(ValueError, match="net must have weights, got a network on the meta device"):
        iff.InverseFormLoss(net)


def test_modules_that_always_go_to_meta_are_refused(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's ``init_empty_weights`` replaces this method."""

    def register(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        module._parameters[name] = nn.Parameter(parameter.to("meta"))

    monkeypatch.setattr(nn.Module, "register_parameter", register)
    with pytest.raises(RuntimeError, match="cannot be loaded while all modules are made on the meta device"):
        iff.InverseFormLoss(net)


def test_a_failed_load_restores_the_defaults() -> None:
    with pytest.raises(KeyError), _plain_tensors("meta"):
        raise KeyError
    assert torch.zeros(1).device.type == "cpu"


def test_another_device_gets_a_copy_once(net: str) -> None:
    """So it is in nn.DataParallel: the replicas share this network, which is on the first device."""
    criterion = iff.InverseFormLoss(net)
    replica = criterion._replicate_for_data_parallel()
    assert replica.net is criterion.net
    elsewhere = torch.zeros(1, device="meta")  # stands for the second GPU
    there = replica.net_for(elsewhere)
    assert {tensor.device.type for tensor in there.state_dict().values()} == {"meta"}
    assert criterion.net_for(elsewhere) is there
    assert criterion.net_for(torch.zeros(1)) is criterion.net
    assert copy.deepcopy(criterion).net_for(torch.zeros(1)) is not criterion.net
    assert criterion.to(torch.float64).net_for(elsewhere) is not there


def test_maps_on_meta_have_a_shape(net: str) -> None:
    criterion = iff.BoundaryAwareLoss(gamma=0.3, inverseform=iff.InverseFormLoss(net))
    for term in criterion(LOGITS.to("meta"), LABELS.to("meta")):
        assert term.is_meta
        assert term.shape == ()


def test_a_transformers_model_that_owns_the_loss_survives_its_checkpoint(net: str, tmp_path: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")

    class Config(transformers.PretrainedConfig):
        model_type = "owner"

    class Owner(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.head = nn.Conv2d(3, 3, 1)
            self.criterion = iff.BoundaryAwareLoss(gamma=0.3, inverseform=iff.InverseFormLoss(net))
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            pass

    model = Owner(Config())
    model.save_pretrained(tmp_path)
    loaded = Owner.from_pretrained(tmp_path)
    assert loss_of(loaded.criterion) == loss_of(model.criterion)
