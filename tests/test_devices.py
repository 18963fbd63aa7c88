"""One function chooses the device of every command, and names a device that is not there."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast.devices import choose_device
from inverseform_fast.segmentation.processes import own_device


def test_without_a_name_it_is_the_gpu_if_there_is_one() -> None:
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", ""])
def test_a_device_that_is_not_there_is_named_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=f"device must be one that this machine has, got '{name}': .") as raised:
        choose_device(name)
    assert "\n" not in str(raised.value)


def test_a_process_of_torchrun_chooses_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_RANK", "99")
    assert own_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"this machine has, got 'cuda:99': "):
        own_device("cuda")
    with pytest.raises(ValueError, match=r"cuda without a number in a run that torchrun started, got 'cuda:0'"):
        own_device("cuda:0")
