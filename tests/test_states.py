"""A state is read as it was written, or an error names its file; an optimizer takes no state but its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inverseform_fast.states import not_finite, read_state, restore_optimizer, stop_explained, write_state

STATE = {"step": 3, "net": {"a": torch.arange(20.0), "b": torch.eye(3)}}


def as_written(state: Any) -> bool:
    return state["step"] == 3 and all(torch.equal(state["net"][name], value) for name, value in STATE["net"].items())  # type: ignore[attr-defined]


def test_a_flipped_bit_is_noticed_or_does_not_matter(tmp_path: Path) -> None:
    """The zip archive has bytes that nobody reads, such as dates; no flip of one of the others may be overlooked."""
    path = tmp_path / "last.pt"
    write_state(path, STATE)
    whole = path.read_bytes()
    refused = 0
    for index in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << (index * 5) % 8
        path.write_bytes(damaged)
        try:
            state = read_state(path, "state")
        except ValueError as error:
            assert str(error).startswith(f"{path} must be a complete state, but cannot be read: ")  # noqa: PT017
            refused += 1
        else:
            assert as_written(state), index
    assert refused > len(whole) / 5 / 3


def test_an_entry_that_is_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    """All checksums are right, but torch.load would return memory that nobody wrote."""
    path = tmp_path / "last.pt"
    write_state(path, STATE)
    damaged = bytearray(path.read_bytes())
    entry = damaged.rindex(b"PK\x01\x02", 0, damaged.rindex(b"data/0"))
    damaged[entry + 38] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="its checksums say that it is damaged"):
        read_state(path, "state")


@pytest.mark.parametrize("value", [float("nan"), torch.tensor([1.0, float("inf")])])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "last.pt"
    write_state(path, STATE)
    before = path.read_bytes()
    bad = {"optimizer": {"state": [{"exp_avg": value}]}}
    with pytest.raises(FloatingPointError, match=r"but optimizer\.state\.0\.exp_avg does not"):
        write_state(path, bad)
    assert path.read_bytes() == before
    torch.save(bad, path)
    with pytest.raises(
        ValueError, match=r"last\.pt must be a state of finite numbers, but optimizer\.state\.0\.exp_avg"
    ):
        read_state(path, "state")
    assert not_finite(STATE) is None


def optimizer(kind: str) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    options = {"momentum": 0.9} if kind == "SGD" else {}
    made = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    return made


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, device="meta")], ids=["sparse", "meta"])
def test_tensors_without_plain_numbers_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    path = tmp_path / "last.pt"
    torch.save({"model": {"weight": tensor}}, path)
    with pytest.raises(ValueError, match=r"last\.pt must be a complete checkpoint"):
        read_state(path, "checkpoint")


@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_an_optimizer_takes_its_own_state_and_keeps_its_options(kind: str) -> None:
    saved = copy.deepcopy(optimizer(kind).state_dict())
    saved["param_groups"][0]["lr"] = "much"
    fresh = optimizer(kind)
    fresh.state.clear()
    restore_optimizer(fresh, saved, "it")
    assert fresh.param_groups[0]["lr"] == 0.1
    assert str(fresh.state_dict()["state"]) == str(saved["state"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("state"), "it must have the keys state, param_groups, but state is missing"),
        (lambda s: s.update(more=1), "more is unknown"),
        (lambda s: s.update(param_groups=3), "of the 2 parameters of the model, in their groups"),
        (lambda s: s["param_groups"][0].update(params=[0]), "of the 2 parameters of the model, in their groups"),
        (lambda s: s.update(state=[]), "what belongs to the 2 parameters"),
        (lambda s: s["state"].update({7: {}}), "what belongs to the 2 parameters"),
        (lambda s: s["state"][0].pop("exp_avg"), "exp_avg is missing"),
        (
            lambda s: s["state"][0].update(exp_avg=torch.zeros(3)),
            r"exp_avg of parameter 0 must be floats \(2, 3\), got \(3,\)",
        ),
        (lambda s: s["state"][0].update(exp_avg="x"), r"exp_avg of parameter 0 must be floats \(2, 3\), got 'x'"),
        (lambda s: s["state"][0].update(step=torch.tensor(-1.0)), "step of parameter 0 must be at least 0"),
        (lambda s: s["state"][1].update(step=torch.ones(2)), r"step of parameter 1 must be floats \(\), got \(2,\)"),
    ],
)
def test_a_state_of_another_optimizer_is_refused(damage: Callable[[Any], object], message: str) -> None:
    saved = copy.deepcopy(optimizer("AdamW").state_dict())
    damage(saved)
    with pytest.raises(ValueError, match=message):
        restore_optimizer(optimizer("AdamW"), saved, "it")


class Training:
    step: int = 7
    saved: int | None = 5


ERRORS = [
    KeyboardInterrupt(),
    FloatingPointError("nan"),
    OSError(28, "No space", "x"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_stops_a_training_says_what_is_safe(error: BaseException) -> None:
    training, message = Training(), r"stopped at step 7[;,] last\.pt holds step 5: (go on|train anew)"
    with pytest.raises(type(error), match=message) as raised, stop_explained(Path("last.pt"), training):
        raise error
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)
    training.saved = None
    with pytest.raises(type(error), match=r"last\.pt is not written yet"), stop_explained(Path("last.pt"), training):
        raise error
