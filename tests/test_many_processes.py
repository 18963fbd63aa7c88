"""A run on several processes gives what one process gives; when one of them fails, all end with one message."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from many_processes import Ended, launch
from torch import Tensor, nn
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from training_runs import run, tiny_config

from inverseform_fast.files import locked
from inverseform_fast.segmentation import report
from inverseform_fast.segmentation.checkpoint import Checkpoint, load_checkpoint, read_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Sample, Scenes
from inverseform_fast.segmentation.evaluation import evaluate_checkpoint
from inverseform_fast.segmentation.models import MODELS, SegmentationModel, build_model
from inverseform_fast.segmentation.models.heads import Heads
from inverseform_fast.segmentation.training import sharing
from inverseform_fast.segmentation.training.learner import Learner
from inverseform_fast.segmentation.training.sampling import StepBatches

COUNT = 6  # images
MISSING = (
    "error: process 1 of 3 (counted from 0) ended, was killed (out of memory?), or did nothing for 3 s (--timeout)"
)
TOO_LITTLE = "error: there is too little memory for images or batches of this size:"


class Uneven(Scenes):
    """Scenes of which, in the first step, two have no valid pixel, and the next two have no boundary."""

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        place = FIRST_ORDER.index(index)
        if place < 2:
            sample["semantic"] = torch.full_like(sample["semantic"], 255)
        elif place < 4:
            sample["semantic"] = torch.full_like(sample["semantic"], place)
        return sample


class Plain(SegmentationModel):
    """A model without BatchNorm, and with dropout."""

    def __init__(self, backbone: str, tasks: Any, *, boundary_head: bool = True, pretrained: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 8, 5, stride=4, padding=2)
        self.heads = Heads(8, tasks, boundary_head)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.heads(F.dropout(self.layer(inputs["image"]).relu(), 0.3, self.training), inputs["image"])


FIRST_ORDER = [index for index, _ in next(iter(StepBatches(COUNT, TrainConfig(batch_size=COUNT))))]


def learn(config: TrainConfig, stop: int | None = None, **options: Any) -> dict[str, float]:
    """Trains on uneven scenes, up to ``stop`` steps; pictures take too long."""
    MODELS["plain"] = Plain
    report.draw_rows = lambda *_: None
    sharing._BLOCK = 1000  # weights: the model is small
    train_set, eval_set = Uneven("train", (48, 64), COUNT), Scenes("val", (48, 64), 2)
    if stop is not None:
        several = int(os.environ.get("WORLD_SIZE", 1))
        left = [stop * config.batch_size // several + 2 * (several > 1)]  # two images are compared at the start
        read = train_set.read

        def interrupted(index: int) -> Sample:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return read(index)

        train_set.read = interrupted  # type: ignore[method-assign]
    return run(config, datasets=(train_set, eval_set), **options)


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    config = tiny_config(tmp_path, net, steps=3, batch_size=COUNT, optimizer="sgd", lr=0.002, scale=(1.0, 1.0))
    return dataclasses.replace(config, checkpoint_every=1, beta=2.0, gamma=1.0)


def elsewhere(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The same run in another folder."""
    return dataclasses.replace(config, out=f"{config.out}-{len(list(Path(config.out).parent.iterdir()))}", **changes)


def succeed(count: int, config: TrainConfig) -> None:
    ended = launch(count, learn, config, logs=Path(f"{config.out}.logs"))
    assert [process.code for process in ended] == [0] * count, ended


def assert_equal_to_rounding(first: TrainConfig, second: TrainConfig, atol: float = 1e-5) -> None:
    """Asserts that weights and momenta of both runs are the same but for the order of sums."""
    ends = [load_checkpoint(Path(config.out)) for config in (first, second)]
    assert [end.step for end in ends] == [first.steps] * 2
    torch.testing.assert_close(ends[0].model, ends[1].model, rtol=1e-4, atol=atol)
    torch.testing.assert_close(ends[0].optimizer["state"], ends[1].optimizer["state"], rtol=1e-3, atol=1e-3)


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


@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(config: TrainConfig, count: int) -> None:
    """Dice is left out, since it has no parts; dropout is in."""
    config = dataclasses.replace(config, model="plain", dice=0.0, lr=0.05)
    learn(config)
    several = elsewhere(config, accumulate=3)
    succeed(count, several)
    assert_equal_to_rounding(config, several)


def _learn_all_tasks(config: TrainConfig) -> None:
    MODELS["plain"] = Plain
    report.draw_rows = lambda *_: None
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
    launch(3, _resume, resumed, 1, logs=Path(f"{config.out}.logs"))
    assert load_checkpoint(Path(resumed.out)).step == 2
    _resume(resumed)
    assert_equal_to_rounding(config, resumed)


def _resume(config: TrainConfig, stop: int | None = None) -> None:
    learn(config, stop, resume=True)


def test_a_sharded_model_trains_and_resumes_as_a_whole_one(config: TrainConfig) -> None:
    """Two processes, three, and one: sharded, and without torchrun."""
    config = dataclasses.replace(config, optimizer="adamw", clip=1.0)
    learn(config)
    sharded = elsewhere(config, shard=True, eval_every=1)
    out = Path(sharded.out)
    for processes, step, work in ((2, 1, learn), (3, 2, _resume)):
        ended = launch(processes, work, sharded, 1, logs=Path(f"{config.out}.logs"))
        assert load_checkpoint(out).step == step, ended
        assert set(read_checkpoint(out).shards) == {str(file.relative_to(out)) for file in out.glob("shards-*/*")}
        assert len(read_checkpoint(out).shards) == processes
    again = elsewhere(sharded, shard=False)
    shutil.copytree(out, again.out)
    _resume(again)
    assert [process.code for process in launch(1, _resume, sharded, logs=Path(f"{config.out}.logs"))] == [0]
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
    ended = launch(2, _resume, config, logs=Path(f"{config.out}.logs"))
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
    assert only(launch(2, _resume, config, logs=Path(f"{config.out}.logs"))) == f"error: {message}\n"
    last.unlink()
    with pytest.raises(FileNotFoundError, match=f"{last} is missing, which holds a part of the checkpoint"):
        load_checkpoint(Path(config.out))


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


def test_without_sync_bn_every_process_has_its_own_statistics_and_the_first_one_keeps_them(config: TrainConfig) -> None:
    learn(config)
    several = elsewhere(config, sync_bn=False)
    succeed(2, several)
    whole, own = (load_checkpoint(Path(each.out)).model for each in (config, several))
    assert not torch.allclose(whole["fuse.0.running_mean"], own["fuse.0.running_mean"], rtol=0.01)


def only(ended: Sequence[Ended]) -> str:
    """The one message of processes that all failed."""
    assert all(process.code for process in ended), ended
    messages = [process.error for process in ended if process.error]
    assert len(messages) == 1, ended
    return messages[0]


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
from test_many_processes import Plain, learn
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
