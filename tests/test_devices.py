"""One function chooses the device of every command, and names a device that is not there."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast.devices import choose_device


def test_without_a_name_it_is_the_gpu_if_there_is_one() -> None:
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", ""])
def test_a_device_that_is_not_there_is_named_in_one_line(name: str) -> None:
    with pytest.raises(ValueError, match=f"device must be one that this machine has, got '{name}': .") as raised:
        choose_device(name)
    assert "\n" not in str(raised.value)
