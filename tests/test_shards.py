"""A sharded model trains as a whole one, and its checkpoint, which is in parts, is whole at any moment."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from many_processes import launch
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from uneven_runs import MISSING, assert_equal_to_rounding, elsewhere, learn, only, resume, uneven_config

from inverseform_fast.segmentation.checkpoint import load_checkpoint, read_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.shards import remove_shards
from inverseform_fast.segmentation.training.learner import Learner


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    return uneven_config(tmp_path, net)


def test_a_sharded_model_trains_and_resumes_as_a_whole_one(config: TrainConfig) -> None:
    """Two processes, three, and one: sharded, and without torchrun."""
    config = dataclasses.replace(config, optimizer="adamw", clip=1.0)
    learn(config)
    sharded = elsewhere(config, shard=True, eval_every=1)
    out = Path(sharded.out)
    for processes, step, work in ((2, 1, learn), (3, 2, resume)):
        ended = launch(processes, work, sharded, 1, logs=Path(f"{config.out}.logs"))
        assert load_checkpoint(out).step == step, ended
        assert set(read_checkpoint(out).shards) == {str(file.relative_to(out)) for file in out.glob("shards-*/*")}
        assert len(read_checkpoint(out).shards) == processes
    again = elsewhere(sharded, shard=False)
    shutil.copytree(out, again.out)
    resume(again)
    assert [process.code for process in launch(1, resume, sharded, logs=Path(f"{config.out}.logs"))] == [0]
    for end in (sharded, again):
        assert not list(Path(end.out).glob("shards-*"))  # all is in one file
        # AdamW makes much of tiny gradients: a step is 2e-3, however small the gradient is.
        assert_equal_to_rounding(config, end, atol=1e-4)


def _fail_while_saving(config: TrainConfig, kind: str) -> None:
    """Trains, and lets the second process fail while it writes its part of the second checkpoint."""

    def fail(self: HuggingFaceStorageWriter, *arguments: Any) -> Any:
        if os.environ["RANK"] == "1" and Path(config.out, "last.pt").exists():
            if kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")
        return write(self, *arguments)

    def not_finite(self: Learner) -> tuple[dict[str, Any], ...]:
        found = states(self)
        if os.environ["RANK"] == "1" and Path(config.out, "last.pt").exists():
            found[0]["layer.weight"].to_local().fill_(torch.inf)
        return found

    write, states = HuggingFaceStorageWriter.write_data, Learner.states
    if kind == "not finite":
        Learner.states = not_finite  # type: ignore[method-assign,assignment]
    else:
        HuggingFaceStorageWriter.write_data = fail  # type: ignore[method-assign,assignment]
    learn(config)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("killed", MISSING),
        ("full", "error: [Errno 28] No space left on device"),
        ("not finite", "error: the state must hold finite numbers, but model.layer.weight does not"),
    ],
)
def test_a_sharded_checkpoint_is_whole_or_the_one_before(config: TrainConfig, kind: str, message: str) -> None:
    config = dataclasses.replace(config, model="plain", shard=True, timeout=3)
    ended = launch(3, _fail_while_saving, config, kind, logs=Path(f"{config.out}.logs"))
    assert only(ended).startswith(f"{message}; stopped at step 2")
    assert f"{config.out}/last.pt holds step 1: " in only(ended)
    assert load_checkpoint(Path(config.out)).step == 1
    ended = launch(2, resume, config, logs=Path(f"{config.out}.logs"))
    assert [process.code for process in ended] == [0, 0], ended
    assert load_checkpoint(Path(config.out)).step == config.steps
    assert not list(Path(config.out).glob("shards-*"))


def test_a_shard_that_is_damaged_or_missing_is_told(config: TrainConfig) -> None:
    config = dataclasses.replace(config, model="plain", shard=True, net=None, loss="ce")
    launch(2, learn, config, 1, logs=Path(f"{config.out}.logs"))
    *_, last = sorted(Path(config.out).glob("shards-1/*"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    message = f"{last} must be a part of the checkpoint, but its checksum says that it is damaged"
    with pytest.raises(ValueError, match=message):
        load_checkpoint(Path(config.out))
    assert only(launch(2, resume, config, logs=Path(f"{config.out}.logs"))) == f"error: {message}\n"
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"{last} is missing, which holds a part of the checkpoint"):
        load_checkpoint(Path(config.out))


def test_nothing_but_older_parts_of_a_checkpoint_is_removed(tmp_path: Path) -> None:
    part = "shard-00001-model-00001-of-00001.safetensors"
    kept, removed = (
        [f"shards-2/{part}", "shards-1/mine.tar", "shards-mine/000.tar"],
        [f"shards-1/{part}", f"shards-0/{part}"],
    )
    for name in (*kept, *removed):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_shards(tmp_path, {kept[0]: "its digest"})
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*")} == set(kept)
    assert not (tmp_path / "shards-0").exists()


def _elsewhere_on_the_second(config: TrainConfig) -> None:
    out = f"{config.out}-of-another-machine" if os.environ["RANK"] == "1" else config.out
    learn(dataclasses.replace(config, out=out))


def test_shards_want_one_folder(config: TrainConfig) -> None:
    config = dataclasses.replace(config, shard=True)
    ended = launch(2, _elsewhere_on_the_second, config, logs=Path(f"{config.out}.logs"))
    assert "out must be one folder that all processes share" in only(ended)
    assert not Path(config.out).exists()


def test_one_process_cannot_shard(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="shard must be off in a training that torchrun did not start"):
        learn(dataclasses.replace(config, shard=True))
