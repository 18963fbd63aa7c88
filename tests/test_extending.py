"""The guide's own task, data set and model work everywhere, although the package does not know them."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training_runs import assert_same_end, run, scalars

from inverseform_fast import cli
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import DATASETS, Sample, SegmentationDataset
from inverseform_fast.segmentation.models import MODELS
from inverseform_fast.segmentation.tasks import TASKS, SemanticTask, Task

GUIDE = Path(__file__).parents[1] / "docs/guide/extend.md"
SCRIPT = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)[0]


@pytest.fixture(scope="module")
def guide() -> Any:
    """The guide's script as a module that can be pickled; it fills the registries, which are put back at the end."""
    registries: list[dict[str, Any]] = [TASKS, DATASETS, MODELS]
    before = [dict(registry) for registry in registries]
    module = sys.modules["guide_script"] = ModuleType("guide_script")
    exec(compile(SCRIPT, GUIDE, "exec"), vars(module))
    yield module
    del sys.modules["guide_script"]
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def config(out: Path, **changes: Any) -> TrainConfig:
    """Makes the configuration of a run of the script's parts on four small images."""
    config = TrainConfig(
        data="clouds",
        data_options={"length": 4, "size": [24, 32]},
        model="pixelwise",
        crop=(24, 32),
        batch_size=4,
        steps=40,
        warmup=1,
        lr=0.05,
        threads=1,
        device="cpu",
        out=str(out),
    )
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def trained(guide: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, dict[str, float]]:
    run_config = config(tmp_path_factory.mktemp("toy"), log_every=1, eval_every=20)
    return run_config, run(run_config)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Calls the command line, which must succeed."""
    monkeypatch.setattr(sys, "argv", ["inverseform-fast", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code


def test_each_part_of_the_script_is_small(guide: Any) -> None:
    sizes = {c.name: c.end_lineno - c.lineno + 1 for c in ast.parse(SCRIPT).body if isinstance(c, ast.ClassDef)}  # type: ignore[operator]
    assert set(sizes) == {"Brightness", "BrightnessLoss", "Clouds", "Pixelwise"}
    assert max(sizes.values()) <= 30
    assert pickle.loads(pickle.dumps(guide.Brightness())) == guide.Brightness()


def test_a_new_task_learns_and_is_logged(trained: tuple[TrainConfig, dict[str, float]]) -> None:
    run_config, metrics = trained
    assert set(metrics) == {"mae", "seconds_per_step"}
    logs = scalars(run_config)
    assert {tag for tag in logs if tag.startswith("loss/")} == {"loss/total", "loss/brightness/total"}
    assert logs["loss/brightness/total"] == logs["loss/total"]
    assert logs["loss/total"][40] < 0.7 * logs["loss/total"][1]
    assert logs["eval/mae"][40] == pytest.approx(metrics["mae"])
    assert metrics["mae"] < 0.2


def test_a_new_task_is_in_the_report(trained: tuple[TrainConfig, dict[str, float]]) -> None:
    run_config, metrics = trained
    report = (Path(run_config.out) / "report.md").read_text()
    assert f"| mae | {metrics['mae']:.3f} |" in report
    assert json.loads((Path(run_config.out) / "metrics.json").read_text())["mae"] == metrics["mae"]
    with Image.open(Path(run_config.out) / "predictions.png") as picture:
        pixels = torch.from_numpy(np.array(picture.convert("RGB").resize((90, 90)))).int()
    colored = pixels.amax(2) - pixels.amin(2) > 60
    assert colored[:, :30].float().mean() > 0.3  # the images; beside them are grey maps of the truth and the prediction
    assert not colored[:, 33:].any()
    assert pixels[10:80, 33:].float().std() > 20


def test_a_new_task_is_evaluated_by_the_command(
    trained: tuple[TrainConfig, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_config, metrics = trained
    call(monkeypatch, "evaluate", run_config.out, "--device", "cpu", "--json", str(tmp_path / "again.json"))
    assert json.loads((tmp_path / "again.json").read_text()) == pytest.approx({"mae": metrics["mae"]})
    assert f"{metrics['mae']:.3f}" in capsys.readouterr().out


def test_a_new_task_resumes_to_the_same_weights(
    trained: tuple[TrainConfig, dict[str, float]], guide: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = config(tmp_path / "stopped", checkpoint_every=15)
    read, left = guide.Clouds.read, iter(range(20 * stopped.batch_size))

    def read_until_interrupted(clouds: Any, index: int) -> Sample:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return read(clouds, index)

    with monkeypatch.context() as patch:
        patch.setattr(guide.Clouds, "read", read_until_interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(stopped)
    call(monkeypatch, "train", "--resume", "--out", stopped.out)
    assert_same_end(trained[0], stopped)


@pytest.fixture
def two_tasks(guide: Any) -> None:
    class LitClouds(guide.Clouds):
        """A data set with two tasks, which pixels are lit and how bright they are, and with a second input."""

        def __init__(self, split: str, length: int, size: list[int]) -> None:
            super().__init__(split, length, size)
            tasks: list[Task] = [SemanticTask(classes=("dark", "lit")), guide.Brightness()]
            self.tasks = {task.name: task for task in tasks}

        def read(self, index: int) -> Sample:
            sample = super().read(index)
            brightness = sample["brightness"]
            return sample | {"semantic": (brightness[0] > 0.5).to(torch.uint8), "sonar": 2 * brightness - 1}

    class WithSonar(guide.Pixelwise):
        """A model that also sees the second input."""

        inputs = ("image", "sonar")

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return super().forward({"image": inputs["image"] + inputs["sonar"]})

    DATASETS["lit-clouds"], MODELS["with-sonar"] = LitClouds, WithSonar


@pytest.mark.usefixtures("two_tasks")
def test_two_tasks_are_trained_at_once_by_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_config = config(tmp_path / "two", data="lit-clouds", model="with-sonar", loss="ce", log_every=1)
    (tmp_path / "config.json").write_text(json.dumps(run_config.to_dict()))
    weights = ("--task", "semantic=2", "--task", "brightness=0.5")
    call(monkeypatch, "train", "--config", str(tmp_path / "config.json"), *weights)
    logs = scalars(run_config)
    for step in (1, 40):
        semantic, brightness = (logs[f"loss/{name}/total"][step] for name in ("semantic", "brightness"))
        assert logs["loss/total"][step] == pytest.approx(2 * semantic + 0.5 * brightness, rel=1e-5)
    metrics = json.loads((tmp_path / "two/metrics.json").read_text())
    assert metrics["pixel_accuracy"] > 0.8
    assert metrics["brightness/mae"] < 0.2
    assert logs["eval/brightness/mae"][40] == pytest.approx(metrics["brightness/mae"])
    report = (tmp_path / "two/report.md").read_text()
    assert f"| mIoU | {100 * metrics['miou']:.1f} |" in report
    assert f"| brightness/mae | {metrics['brightness/mae']:.3f} |" in report
    call(monkeypatch, "evaluate", str(tmp_path / "two"), "--json", str(tmp_path / "again.json"), "--device", "cpu")
    del metrics["seconds_per_step"]
    assert json.loads((tmp_path / "again.json").read_text()) == metrics


@pytest.mark.usefixtures("two_tasks")
def test_one_task_of_two_is_trained_alone(tmp_path: Path) -> None:
    run_config = config(tmp_path, data="lit-clouds", model="with-sonar", steps=2, tasks={"brightness": 3.0})
    metrics = run(run_config)
    assert set(metrics) == {"mae", "seconds_per_step"}
    assert scalars(run_config)["loss/total"][2] == pytest.approx(3 * scalars(run_config)["loss/brightness/total"][2])
    assert not math.isnan(metrics["mae"])


@pytest.mark.usefixtures("two_tasks")
def test_what_a_data_set_or_a_model_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must give the model's inputs image, sonar, but lacks sonar"):
        run(config(tmp_path, model="with-sonar"))
    with pytest.raises(ValueError, match=r"tasks must be tasks of the data set \(semantic, brightness\), got depth"):
        run(config(tmp_path / "other", data="lit-clouds", tasks={"depth": 1.0}))


class Given(SegmentationDataset):
    """One sample, as it is given."""

    def __init__(self, sample: Sample, *tasks: str) -> None:
        super().__init__("train", [SemanticTask(name=name, classes=("a", "b")) for name in tasks], ["0"])
        self.sample = sample

    def read(self, index: int) -> Sample:
        return self.sample


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"image": (3, 4, 6), "masks": (4, 6)}, "read(0) must give semantic, got image, masks"),
        ({"semantic": (4, 6)}, "read(0) must give image, got semantic"),
        (
            {"image": (3, 4, 6), "semantic": (2, 3)},
            "read(0) must give semantic of the image's size (4, 6), got shape (2, 3)",
        ),
    ],
)
def test_a_sample_that_breaks_the_contract_is_told(sample: dict[str, tuple[int, ...]], message: str) -> None:
    dataset = Given({name: torch.zeros(shape, dtype=torch.uint8) for name, shape in sample.items()}, "semantic")
    with pytest.raises(ValueError, match=re.escape(message)):
        dataset[0]


@pytest.mark.parametrize("tasks", [[], ["semantic", "semantic"]])
def test_tasks_must_have_different_names(tasks: list[str]) -> None:
    with pytest.raises(ValueError, match=re.escape(f"tasks must be one or more of different names, got {tasks}")):
        Given({}, *tasks)
