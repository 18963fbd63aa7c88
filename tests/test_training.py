"""Training: what it writes, that it may be stopped at any moment, and that it neither loses nor mixes up results."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from inverseform_fast.files import write_atomically
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import Scenes
from inverseform_fast.segmentation.evaluation import evaluate
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.report import FALSE, MISSING, boundary_errors, colorize
from inverseform_fast.segmentation.training import Criterion, SeededSamples, StepBatches, learning_rate, train
from inverseform_fast.segmentation.transforms import train_transform

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def config(tmp_path: Path, net: str) -> TrainConfig:
    """A run of a second or so."""
    return TrainConfig(
        data_options={"size": [48, 64], "length": 5},
        backbone="test_resnet",
        net=net,
        crop=(32, 48),
        steps=4,
        batch_size=2,
        warmup=1,
        threads=1,
        device="cpu",
        out=str(tmp_path / "run"),
    )


def run(config: TrainConfig, **options: Any) -> dict[str, float]:
    return train(config, console=Console(file=io.StringIO()), **options)


def same(first: Any, second: Any) -> bool:
    """Equality bit for bit, through nested containers."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def assert_same_end(first: TrainConfig, second: TrainConfig) -> None:
    ends = [load_checkpoint(Path(config.out) / "last.pt") for config in (first, second)]
    assert [end.step for end in ends] == [first.steps] * 2
    assert same(ends[0].model, ends[1].model)
    assert same(ends[0].optimizer, ends[1].optimizer)


def test_a_killed_training_resumes_to_the_very_same_weights(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, steps=24, checkpoint_every=3)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, "-m", "inverseform_fast.cli", "train", "--config", str(tmp_path / "config.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    checkpoint = Path(config.out) / "last.pt"
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert 0 < load_checkpoint(checkpoint).step < config.steps

    run(config, resume=True)
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"))
    run(straight)
    assert_same_end(config, straight)


def test_the_number_of_workers_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    runs = [dataclasses.replace(config, workers=w, out=str(tmp_path / f"workers{w}")) for w in (0, 2)]
    metrics = [run(each) for each in runs]
    assert_same_end(*runs)
    assert metrics[0]["miou"] == metrics[1]["miou"]


@pytest.mark.parametrize("loss", ["ce", "boundary", "inverseform"])
@pytest.mark.parametrize("boundary_head", [True, False])
def test_every_loss_trains_and_logs_its_terms(config: TrainConfig, loss: Any, boundary_head: bool) -> None:
    config = dataclasses.replace(config, loss=loss, boundary_head=boundary_head, log_every=2, eval_every=2)
    metrics = run(config)
    assert 0 <= metrics["miou"] <= 1
    events = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    terms = {"total", "segmentation"} if loss == "ce" else {"total", "segmentation", "boundary", "inverseform"}
    assert {tag.removeprefix("loss/") for tag in events.Tags()["scalars"] if tag.startswith("loss/")} == terms
    for tag in [*(f"loss/{term}" for term in terms), "train/lr", "train/images_per_second", "eval/miou", "eval/mba"]:
        values = events.Scalars(tag)
        assert [value.step for value in values] == [2, 4]
        assert all(math.isfinite(value.value) for value in values)
    if loss == "boundary":
        assert all(value.value == 0 for value in events.Scalars("loss/inverseform"))


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd", "lr": 0.05},
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"clip": 0.1},
        {"eval_size": (24, 32)},
        {"inverseform_start": 2},
    ],
)
def test_the_options_of_training_run_and_resume(config: TrainConfig, change: dict[str, Any], tmp_path: Path) -> None:
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"), **change)
    run(straight)
    weights = load_checkpoint(Path(straight.out) / "last.pt").model
    torch.manual_seed(straight.seed)
    start = build_model(straight.backbone, 11).state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    assert not torch.equal(weights["segmentation.weight"], start["segmentation.weight"])

    stopped = dataclasses.replace(config, checkpoint_every=2, out=str(tmp_path / "stopped"), **change)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, console=Console(file=io.StringIO()), datasets=_interrupted_after(config, batches=3))
    run(stopped, resume=True)
    assert_same_end(straight, stopped)


def test_inverseform_counts_from_its_start_on(config: TrainConfig) -> None:
    config = dataclasses.replace(config, inverseform_start=2, log_every=1, gamma=2.0)
    run(config)
    logs = EventAccumulator(str(Path(config.out) / "tensorboard")).Reload()
    term, boundary, total, segmentation = (
        [event.value for event in logs.Scalars(f"loss/{name}")]
        for name in ("inverseform", "boundary", "total", "segmentation")
    )
    assert term[:2] == [0, 0]
    assert min(term[2:]) > 0
    expected = [s + 10 * b + 2 * t for s, b, t in zip(segmentation, boundary, term, strict=True)]
    assert total == pytest.approx(expected, rel=1e-4)


def test_boundaries_are_resized_as_asked(config: TrainConfig) -> None:
    logits = torch.randn(2, 11, 12, 16, generator=torch.Generator().manual_seed(0))
    labels = next(iter(Scenes("train", size=(48, 64), length=1)))["segmentation"].expand(2, -1, -1)

    def term(resize: tuple[int, int] | None) -> torch.Tensor:
        return Criterion(dataclasses.replace(config, resize=resize), 255)({"segmentation": logits}, labels, 0)[
            "inverseform"
        ]

    assert term((64, 64)) == term(None)  # the nearest multiples of the tile, 32
    assert term((32, 32)) != term(None)


def _interrupted_after(config: TrainConfig, batches: int) -> tuple[Any, Any]:
    """The data sets of ``config``, the first of which is as if Ctrl-C were pressed while it reads."""
    scenes, left = Scenes("train", **config.data_options), [batches * config.batch_size]

    class Interrupted(Scenes):
        def __init__(self) -> None:
            self.__dict__.update(scenes.__dict__)

        def read(self, index: int) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return super().read(index)

    return Interrupted(), Scenes("val", **config.data_options)


def test_a_model_learns(config: TrainConfig) -> None:
    scenes = Scenes("train", size=(48, 64), length=4)
    config = dataclasses.replace(config, steps=60, batch_size=4, crop=(48, 64), scale=(1.0, 1.0), loss="ce", lr=5e-3)
    assert run(config, datasets=(scenes, scenes))["pixel_accuracy"] > 0.7


def test_the_report_says_what_was_measured(config: TrainConfig) -> None:
    metrics = run(config)
    out = Path(config.out)
    written = json.loads((out / "metrics.json").read_text())
    assert written == {name: None if math.isnan(value) else value for name, value in metrics.items()}
    report = (out / "report.md").read_text()
    assert f"| mIoU | {100 * metrics['miou']:.1f} |" in report
    assert f"| mBA | {100 * metrics['mba']:.1f} |" in report
    assert f"| IoU road | {100 * metrics['iou/road']:.1f} |" in report
    assert f"| steps | {config.steps} |" in report
    assert "predictions.png" in report
    with Image.open(out / "predictions.png") as picture:
        assert picture.width > 4 * 64
    assert TrainConfig.from_file(out / "config.json") == config


def test_an_earlier_run_is_neither_lost_nor_mixed_up(config: TrainConfig) -> None:
    run(config)
    out = Path(config.out)
    before = (out / "last.pt").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds an earlier run \(last.pt, metrics.json"):
        run(config)
    with pytest.raises(FileNotFoundError):
        run(dataclasses.replace(config, data="camvid", root="nowhere", data_options={}), overwrite=True)
    assert (out / "last.pt").read_bytes() == before

    (out / "notes.txt").write_text("mine")
    run(dataclasses.replace(config, seed=1), overwrite=True)
    assert (out / "last.pt").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"
    assert len(list((out / "tensorboard").glob("events.*"))) == 1


@pytest.mark.parametrize(("field", "value"), [("lr", 0.01), ("steps", 8), ("crop", (32, 32)), ("seed", 1)])
def test_a_resumed_run_keeps_what_decides_its_result(config: TrainConfig, field: str, value: Any) -> None:
    run(config)
    with pytest.raises(ValueError, match=rf"must keep the configuration of .*last.pt: {field} was .*, now "):
        run(dataclasses.replace(config, **{field: value}), resume=True)


def test_a_resumed_run_may_change_what_does_not(config: TrainConfig) -> None:
    metrics = run(config)
    again = run(dataclasses.replace(config, workers=1, log_every=1, checkpoint_every=1, eval_every=1), resume=True)
    assert math.isnan(again.pop("seconds_per_step"))  # no step was left to take
    del metrics["seconds_per_step"]
    assert json.dumps(again) == json.dumps(metrics)


def test_resuming_needs_a_checkpoint(config: TrainConfig) -> None:
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*last\.pt"):
        run(config, resume=True)
    with pytest.raises(ValueError, match="exclude each other"):
        run(config, resume=True, overwrite=True)


def test_a_damaged_checkpoint_is_named(config: TrainConfig) -> None:
    run(config)
    path = Path(config.out) / "last.pt"
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"last.pt must be a complete checkpoint"):
            run(config, resume=True)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    path = tmp_path / "last.pt"
    torch.save({"format": 1, "model": Malicious()}, path)
    with pytest.raises(ValueError, match="must be a complete checkpoint"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="must be a complete checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "harm").exists()


def test_another_programs_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="must be a checkpoint of inverseform-fast train"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file: Any) -> None:
        file.write(b"half of the new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with path.open() as reader:
        write_atomically(path, lambda file: file.write(b"new"))
        assert reader.read() == "old"  # the new file took the name of the old one, which was not written to
    assert path.read_text() == "new"


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(config: TrainConfig) -> None:
    config = dataclasses.replace(config, lr=1e30, warmup=0, loss="ce", log_every=1, checkpoint_every=1, steps=8)
    with pytest.raises(FloatingPointError, match=r"loss is not finite at step \d.*'segmentation': nan"):
        run(config)
    assert load_checkpoint(Path(config.out) / "last.pt").step < config.steps


def test_the_learning_rate_warms_up_then_decays() -> None:
    config = TrainConfig(steps=100, lr=1.0, warmup=9, power=0.9)
    assert learning_rate(config, 0) == pytest.approx(0.1)
    assert learning_rate(config, 4) == pytest.approx(0.5 * 0.96**0.9)
    assert learning_rate(config, 50) == pytest.approx(0.5**0.9)
    assert 0 < learning_rate(config, 99) < 0.02


def test_batches_are_a_function_of_seed_and_step() -> None:
    config = TrainConfig(steps=10, batch_size=3, seed=5)
    batches = list(StepBatches(7, config))
    assert list(StepBatches(7, config, first=4)) == batches[4:]
    assert list(StepBatches(7, dataclasses.replace(config, seed=6))) != batches
    indices = [index for batch in batches for index, _ in batch]
    for epoch in range(4):  # every pass sees each sample once, in an order of its own
        assert sorted(indices[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert indices[:7] != indices[7:14]
    seeds = [seed for batch in batches for _, seed in batch]
    assert len(set(seeds)) == len(seeds)


def test_augmentation_depends_on_the_key_alone_and_leaves_no_trace() -> None:
    samples = SeededSamples(Scenes("train", size=(48, 64), length=2), train_transform((32, 32)))
    torch.manual_seed(1)
    first = samples[(0, 123)]
    after = torch.rand(())
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(()))
    again, other = samples[(0, 123)], samples[(0, 124)]
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["image"], other["image"])


class _MixedSizes(Scenes):
    """Scenes of which every third is smaller."""

    def read(self, index: int) -> Any:
        image, labels = super().read(index)
        return (image[:, :30], labels[:30]) if index % 3 == 0 else (image, labels)


def test_images_of_several_sizes_are_scored_whatever_the_batch_size() -> None:
    dataset = _MixedSizes("val", size=(48, 64), length=7)
    torch.manual_seed(0)
    model = build_model("test_resnet", 11)
    counts: list[int] = []
    one = evaluate(model, dataset, batch_size=1)
    many = evaluate(model, dataset, batch_size=4, on_images=counts.append)
    assert many == pytest.approx(one, nan_ok=True, abs=1e-3)
    assert sum(counts) == 7
    assert model.training


def test_a_configuration_survives_json(config: TrainConfig) -> None:
    config = dataclasses.replace(config, eval_size=(90, 120), resize=(64, 96), gamma=0.5, amp="bf16")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))).difference(config) == {}
    assert TrainConfig.from_dict(config.to_dict()).crop == (32, 48)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", "many"),
        ("lr", -1.0),
        ("gamma", -0.1),
        ("clip", 0.0),
        ("inverseform_start", 2000),
        ("inverseform_start", -1),
        ("crop", (32, 0)),
        ("crop", (32,)),
        ("resize", (32, 0)),
        ("scale", (2.0, 0.5)),
        ("loss", "dice"),
        ("amp", "fp8"),
    ],
)
def test_a_bad_option_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got "):
        TrainConfig(**{field: value})


def test_a_bad_configuration_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, message in (("{", "must be JSON"), ("[]", "must be a JSON object"), ('{"stepz": 3}', "got stepz")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            TrainConfig.from_file(path)


def test_an_unknown_option_of_the_data_set_is_named(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match=r"data_options must be arguments of the data set 'scenes': .*'depth'"):
        run(dataclasses.replace(config, data_options={"depth": 3}))


def test_the_picture_shows_boundary_errors_and_nothing_else() -> None:
    image = torch.full((3, 20, 30), 100, dtype=torch.uint8)
    target = torch.zeros(20, 30, dtype=torch.uint8)
    target[:, 15:] = 1
    target[5, 3] = 255
    moved = target.clone().masked_fill(target == 255, 0)
    moved[:8] = moved[:8].roll(-4, 1)
    moved[:8, -4:] = 1
    errors = boundary_errors(image, moved.long(), target, ignore_index=255)
    missing, false = ((errors == torch.tensor(color)).all(-1) for color in (MISSING, FALSE))
    assert missing.nonzero().tolist() == [[y, 14] for y in range(6)]  # row 6 is 1 px from the step below it
    assert false.nonzero()[:, 0].max() <= 8
    assert [[y, 10] for y in range(7)] == [[y, x] for y, x in false.nonzero().tolist() if y < 7]
    assert not (missing | false)[9:].any()
    colors = colorize(target, [(1, 2, 3), (4, 5, 6)])
    assert [colors[0, 0].tolist(), colors[0, 29].tolist(), colors[5, 3].tolist()] == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
