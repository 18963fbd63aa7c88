"""A run on several processes gives what one process gives; when one of them fails, all end with one message."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from many_processes import launch
from torch import Tensor
from training_runs import run
from uneven_runs import (
    COUNT,
    MISSING,
    Plain,
    assert_equal_to_rounding,
    elsewhere,
    learn,
    only,
    resume,
    succeed,
    uneven_config,
    without_pictures,
)

from inverseform_fast.files import locked
from inverseform_fast.segmentation.checkpoint import Checkpoint, load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.evaluation import evaluate_checkpoint
from inverseform_fast.segmentation.models import MODELS, build_model

TOO_LITTLE = "error: there is too little memory for images or batches of this size:"


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    return uneven_config(tmp_path, net)


@pytest.mark.parametrize(
    ("loss", "boundary_head", "count"),
    [
        ("inverseform", True, 2),
        ("inverseform", True, 3),
        ("inverseform", False, 2),
        ("inverseform", False, 3),
        ("ce", True, 2),
    ],
)
def test_several_processes_train_as_one(config: TrainConfig, loss: Any, boundary_head: bool, count: int) -> None:
    """With ``ce``, the boundary head gets no gradient."""
    config = dataclasses.replace(config, loss=loss, boundary_head=boundary_head)
    learn(config)
    several = elsewhere(config)
    succeed(count, several)
    assert_equal_to_rounding(config, several)


def test_boundary_f1_trains_as_in_one_process(config: TrainConfig) -> None:
    config = dataclasses.replace(config, model="plain", loss="boundary", f1=16.0, lr=0.05)
    learn(config)
    several = elsewhere(config)
    succeed(3, several)
    assert_equal_to_rounding(config, several)


@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(config: TrainConfig, count: int) -> None:
    """Dice is left out, since it has no parts, and so is boundary F1; dropout is in."""
    config = dataclasses.replace(config, model="plain", dice=0.0, lr=0.05)
    learn(config)
    several = elsewhere(config, accumulate=3)
    succeed(count, several)
    assert_equal_to_rounding(config, several)


def _learn_all_tasks(config: TrainConfig) -> None:
    MODELS["plain"] = Plain
    with without_pictures():
        run(config)


def test_all_tasks_train_as_in_one_process(config: TrainConfig) -> None:
    names = ["semantic", "parts", "edges", "saliency", "normals", "depth"]
    data = {"size": [48, 64], "length": COUNT, "tasks": names}
    config = dataclasses.replace(config, model="plain", loss="ce", data_options=data, batch_size=4, steps=2)
    config = dataclasses.replace(config, tasks=dict.fromkeys(names, 5.0))
    _learn_all_tasks(config)
    several = elsewhere(config, accumulate=2)
    ended = launch(2, _learn_all_tasks, several, logs=Path(f"{config.out}.logs"))
    assert [process.code for process in ended] == [0, 0], ended
    assert_equal_to_rounding(config, several)


def test_a_run_resumes_on_any_number_of_processes(config: TrainConfig) -> None:
    learn(config)
    resumed = elsewhere(config)
    ended = launch(2, learn, resumed, 1, logs=Path(f"{config.out}.logs"))
    assert all(process.code for process in ended)
    assert "".join(process.error for process in ended) == (
        f"interrupted: stopped at step 1; {resumed.out}/last.pt holds step 1: go on with --resume\n"
    )
    launch(3, resume, resumed, 1, logs=Path(f"{config.out}.logs"))
    assert load_checkpoint(Path(resumed.out)).step == 2
    resume(resumed)
    assert_equal_to_rounding(config, resumed)


def test_without_sync_bn_every_process_has_its_own_statistics_and_the_first_one_keeps_them(config: TrainConfig) -> None:
    learn(config)
    several = elsewhere(config, sync_bn=False)
    succeed(2, several)
    whole, own = (load_checkpoint(Path(each.out)).model for each in (config, several))
    assert not torch.allclose(whole["fuse.0.running_mean"], own["fuse.0.running_mean"], rtol=0.01)


def _fault(config: TrainConfig, kind: str) -> None:
    """Trains, and lets the second process fail in the second step."""
    step = 0

    def count_steps(self: Plain, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        nonlocal step
        step += 1
        if step == 2 and os.environ["RANK"] == "1":
            if kind == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if kind == "hangs":
                time.sleep(100)
            if kind == "memory":
                torch.empty(2**60, dtype=torch.uint8)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(self, inputs)

    forward = Plain.forward
    Plain.forward = count_steps  # type: ignore[method-assign]
    learn(config)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("killed", re.escape(MISSING)),
        ("hangs", re.escape(MISSING)),
        ("memory", f"{TOO_LITTLE} .*can't allocate memory: you tried to allocate 1152921504606846976 bytes.*"),
        ("memory of a GPU", f"{TOO_LITTLE} CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_process_that_fails_ends_the_run_with_one_message(config: TrainConfig, kind: str, message: str) -> None:
    config = dataclasses.replace(config, model="plain", timeout=3)
    started = time.monotonic()
    ended = launch(3, _fault, config, kind, logs=Path(f"{config.out}.logs"))
    kept = f"; stopped at step 1; {config.out}/last.pt holds step 1: go on with --resume\n"
    assert re.fullmatch(message + kept, only(ended))
    assert time.monotonic() - started < 60
    assert load_checkpoint(Path(config.out)).step == 1


_KILLED_ONCE = """
import os, signal, sys
from uneven_runs import Plain, learn
from inverseform_fast.segmentation.config import TrainConfig

steps = 0
def forward(self, inputs):
    global steps
    steps += self.training
    if steps == 2 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, inputs)

plain, Plain.forward = Plain.forward, forward
learn(TrainConfig.from_file(sys.argv[1]))
print("steps of this process:", steps)
"""


def test_torchrun_goes_on_from_the_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model="plain")
    learn(config)
    killed = elsewhere(config)
    script, options = tmp_path / "script.py", tmp_path / "options.json"
    script.write_text(_KILLED_ONCE)
    options.write_text(json.dumps(killed.to_dict()))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node=2", "--max-restarts=1", str(script), str(options)]
    path = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parents[1])))
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "steps of this process: 2\n" * 2
    assert_equal_to_rounding(config, killed)


def test_a_restart_does_not_resume_what_the_run_has_not_begun(config: TrainConfig) -> None:
    learn(config)
    before = (Path(config.out) / "last.pt").read_bytes()
    ended = launch(2, learn, dataclasses.replace(config, seed=1), logs=Path(f"{config.out}.logs"), attempt=1)
    assert "holds an earlier run" in only(ended)
    assert (Path(config.out) / "last.pt").read_bytes() == before


def _score(out: Path) -> None:
    torch.manual_seed(0)
    dataset = Scenes("val", (48, 64), 2)
    model = build_model("pyramid", "test_resnet", dataset.tasks)
    checkpoint = Checkpoint(TrainConfig(boundary_head=True), dataset.tasks, 0, model.state_dict(), {}, {})
    options = {"size": [48, 64], "length": 2}
    metrics = evaluate_checkpoint(checkpoint, split="val", device="cpu", data_options=options)
    (out / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(metrics))


def test_several_processes_score_each_image_once(tmp_path: Path) -> None:
    """The third process has no image."""
    _score(tmp_path)
    alone = json.loads((tmp_path / "0.json").read_text())
    ended = launch(3, _score, tmp_path, logs=tmp_path)
    assert [process.code for process in ended] == [0] * 3, ended
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_a_folder_in_use_is_refused(config: TrainConfig) -> None:
    with locked(Path(config.out)):
        ended = launch(2, learn, config, logs=Path(f"{config.out}.logs"))
    assert f"process {os.getpid()} on" in only(ended)


def _differ(config: TrainConfig, what: str) -> None:
    second = os.environ["RANK"] == "1"
    if what == "options":
        learn(dataclasses.replace(config, lr=0.1) if second else config)
    scenes = Scenes("train", (48, 64), 4 if second and what == "lengths" else 3, seed=int(second and what == "images"))
    run(config, datasets=(scenes, scenes))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("options", "the same options, but lr is 0.002 of process 0 and 0.1 of process 1"),
        ("lengths", "the same data, but number of train images is '3' of process 0 and '4' of process 1"),
        ("images", "the same data, but digest of train image 0 is '"),
    ],
)
def test_processes_that_differ_say_so(config: TrainConfig, what: str, message: str) -> None:
    ended = launch(2, _differ, config, what, logs=Path(f"{config.out}.logs"))
    assert f"error: all processes must have {message}" in only(ended)
    assert not Path(config.out).exists()


def test_a_batch_must_divide(config: TrainConfig) -> None:
    config = dataclasses.replace(config, batch_size=4)
    ended = launch(3, learn, config, logs=Path(f"{config.out}.logs"))
    assert only(ended) == "error: batch_size must be a multiple of 3, for 3 processes times accumulate 1, got 4\n"
    with pytest.raises(ValueError, match="batch_size must be a multiple of 3, for 1 processes times accumulate 3"):
        learn(dataclasses.replace(config, accumulate=3))
