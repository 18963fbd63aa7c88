"""The multi-task hosts train by the package's trainer: all stages are supervised, auxiliary tasks are not scored."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import Values, values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import run, scalars, tiny_config

from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.datasets import DATASETS, Sample, Scenes
from inverseform_fast.segmentation.evaluation import evaluate_checkpoint
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.tasks import TASKS
from inverseform_fast.segmentation.training.criterion import Criterion

SMALL = "hrnet_w18_small_v2"


class BrightScenes(Scenes):
    """Scenes with a second task: how bright each pixel is."""

    def __init__(self, split: str, size: tuple[int, int], length: int) -> None:
        super().__init__(split, size=size, length=length)
        self.tasks = {**self.tasks, "brightness": Values(name="brightness")}

    def read(self, index: int) -> Sample:
        sample = super().read(index)
        return sample | {"brightness": sample["image"].as_subclass(Tensor).float().mean(0, keepdim=True) / 256}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "bright-scenes", BrightScenes)
    monkeypatch.setitem(TASKS, "values", Values)


@pytest.mark.parametrize(
    ("model", "backbone", "stages"),
    [
        ("hrnet", SMALL, []),
        ("pad_net", SMALL, ["semantic/initial"]),
        (
            "mti_net",
            SMALL,
            [
                "semantic/initial",
                *(f"{task}/initial_stride{s}" for task in ("semantic", "brightness") for s in (8, 16, 32)),
            ],
        ),
    ],
)
def test_hosts_train_with_inverseform_and_score_main_tasks(
    model: str, backbone: str, stages: list[str], tmp_path: Path, net: str
) -> None:
    options: dict[str, Any] = {"auxiliary": ["brightness"]} if stages else {}
    config = tiny_config(
        tmp_path, net, data="bright-scenes", model=model, backbone=backbone, model_options=options, steps=2,
        log_every=1, tasks={"semantic": 1.0, "brightness": 0.5},
    )  # fmt: skip
    metrics = run(config)
    assert ("brightness/mae" in metrics) == (not stages)
    assert 0 <= metrics["miou"] <= 1
    logs = scalars(config)
    supervised = ["semantic", "brightness", *stages]
    assert {tag for tag in logs if tag.endswith("/total") and tag != "loss/total"} == {
        f"loss/{key}/total" for key in supervised
    }
    assert logs["loss/semantic/inverseform"][2] > 0
    totals = [(0.5 if key.startswith("brightness") else 1.0) * logs[f"loss/{key}/total"][2] for key in supervised]
    assert logs["loss/total"][2] == pytest.approx(sum(totals), rel=1e-5)
    again = evaluate_checkpoint(load_checkpoint(Path(config.out)), device="cpu")
    del metrics["seconds_per_step"]
    assert again == pytest.approx(metrics)
    assert json.loads((Path(config.out) / "config.json").read_text())["model_options"] == options


def test_astmt_trains_one_task_after_another(tmp_path: Path, net: str) -> None:
    config = tiny_config(
        tmp_path, net, data="bright-scenes", model="astmt", backbone="seresnet26", boundary_head=False, steps=2,
        log_every=1, tasks={"semantic": 1.0, "brightness": 0.5},
    )  # fmt: skip
    metrics = run(config)
    assert {"miou", "brightness/mae"} <= metrics.keys()
    logs = scalars(config)
    assert logs["loss/semantic/inverseform"][2] > 0
    tasks = logs["loss/semantic/total"][2] + 0.5 * logs["loss/brightness/total"][2]
    guesses = logs["loss/adversary/semantic"][2] + logs["loss/adversary/brightness"][2]
    assert logs["loss/total"][2] == pytest.approx(0.99 * tasks + 0.01 * guesses, rel=1e-5)
    groups = load_checkpoint(Path(config.out)).optimizer["param_groups"]
    assert {(group["weight_decay"] > 0, group["lr_scale"]) for group in groups} == {
        (decays, scale) for decays in (False, True) for scale in (1.0, 2.0, 10.0)
    }
    assert all(group["lr"] == pytest.approx(groups[0]["lr"] * group["lr_scale"]) for group in groups)
    with pytest.raises(ValueError, match="accumulate and the number of processes must be 1: astmt trains tasks"):
        run(dataclasses.replace(config, accumulate=2, out=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("model", "backbone"), [("hrnet", SMALL), ("pad_net", SMALL), ("mti_net", SMALL), ("astmt", "seresnet26")]
)
def test_hosts_take_inverseform_headless_and_the_aligner_and_neither(model: str, backbone: str, tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, "compact", model=model, backbone=backbone, boundary_head=False, steps=2, log_every=1,
        align_labels=True, align_start=1,
    )  # fmt: skip
    config = dataclasses.replace(config, net=None)  # the aligner's own choice
    run(config)
    logs = scalars(config)
    assert logs["loss/semantic/inverseform"][2] > 0
    assert {2} == {step for tag, values in logs.items() if tag.startswith("align/") for step in values}
    off = dataclasses.replace(config, loss="ce", align_labels=False, out=str(tmp_path / "off"))
    run(off)
    assert not [tag for tag in scalars(off) if "inverseform" in tag or tag.startswith("align/")]


def test_a_stage_costs_what_its_task_does_without_boundary_terms(net: str) -> None:
    config = tiny_config(Path(), net, tasks={"semantic": 2.0})
    tasks = {"semantic": Scenes("train", size=(48, 64), length=1).tasks["semantic"]}
    labels = Scenes("train", size=(48, 64), length=1)[0]["semantic"].as_subclass(Tensor)[None].long()
    final, early = torch.randn(2, 1, 11, 12, 16)
    alone = Criterion(config, tasks)({"semantic": final}, {"semantic": labels}, 0)
    staged = Criterion(config, tasks)({"semantic": final, "semantic/early": early}, {"semantic": labels}, 0)
    plain = Criterion(dataclasses.replace(config, loss="ce"), tasks)({"semantic": early}, {"semantic": labels}, 0)
    assert alone["semantic/inverseform"] > 0
    assert {name: staged[name] for name in alone if name != "total"} == {n: x for n, x in alone.items() if n != "total"}
    assert staged["semantic/early/total"] == plain["semantic/total"] == plain["semantic/segmentation"]
    torch.testing.assert_close(staged["total"], alone["total"] + plain["total"])


class Operations(TorchDispatchMode):
    """Counts the operations that run, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[op.name()] += 1
        return op(*args, **(kwargs or {}))


def test_losses_of_classes_and_edges_are_fused_and_nothing_is_enlarged_for_them(net: str) -> None:
    names = ["semantic", "parts", "edges", "saliency"]
    scenes = Scenes("train", size=(48, 64), length=1, tasks=names)
    targets = {name: scenes.read(0)[name][None] for name in names}
    predictions = {name: torch.randn(1, task.channels, 12, 16).requires_grad_() for name, task in scenes.tasks.items()}
    predictions |= {f"{name}/initial": x.detach().clone().requires_grad_() for name, x in predictions.items()}
    criterion = Criterion(tiny_config(Path(), net, loss="ce", gamma=0.3, boundary_head=False), scenes.tasks)
    with Operations() as seen:
        terms = criterion(predictions, targets, 0)
        terms["total"].backward()
    assert terms["edges/inverseform"] > 0
    assert seen.counts["inverseform_fast::segmentation_loss"] == len(predictions)
    assert seen.counts["inverseform_fast::segmentation_loss_backward"] == len(predictions)
    unfused = ("upsample", "softmax", "nll_loss", "cross_entropy", "log_sigmoid")
    assert [name for name in seen.counts if any(word in name for word in unfused)] == []


@pytest.mark.parametrize(("model", "backbone", "backwards"), [("mti_net", SMALL, 1), ("astmt", "seresnet26", 2)])
def test_a_step_goes_backward_once_or_once_for_each_task_in_turn(
    model: str, backbone: str, backwards: int, tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Tensor] = []
    backward = Tensor.backward

    def counted(total: Tensor) -> None:
        calls.append(total)
        backward(total)

    monkeypatch.setattr(Tensor, "backward", counted)
    config = tiny_config(
        tmp_path, net, data="bright-scenes", model=model, backbone=backbone, boundary_head=False, steps=2
    )
    run(config)
    assert len(calls) == config.steps * backwards


def test_only_tasks_with_a_target_have_a_loss() -> None:
    tasks = values(first=1, second=1)
    criterion = Criterion(tiny_config(Path(), "compact"), tasks)
    terms = criterion({"first": torch.zeros(1, 1, 4, 4)}, {"first": torch.ones(1, 1, 4, 4)}, 0)
    assert terms == {"total": torch.tensor(1.0), "first/total": torch.tensor(1.0)}


def test_the_batch_may_be_trained_in_one_step_of_the_optimizer() -> None:
    model = build_model("hrnet", SMALL, values(first=1), boundary_head=False)
    target = {"first": torch.ones(2, 1, 8, 8)}

    def predict() -> dict[str, Tensor]:
        return model({"image": torch.randn(2, 3, 32, 32)})

    [terms] = model.losses(predict, lambda predictions, targets: {**predictions, **targets}, target, 0.5)
    assert terms["first"] is target["first"]
    assert model.lr_scales() == {}
    assert not model.takes_turns
