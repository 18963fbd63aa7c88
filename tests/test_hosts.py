"""The paper's multi-task hosts have the published sizes, and compute what their papers say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from stand_ins import values
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.models.host_blocks import Distillation
from inverseform_fast.segmentation.models.mti_net import MtiNet
from inverseform_fast.segmentation.tasks import Task

SMALL = "hrnet_w18_small_v2"
NYUD, PASCAL = (480, 640), (512, 512)
SEMANTIC = values(semantic=40)
S_D = values(semantic=40, depth=1)
S_D_E_N = values(semantic=40, depth=1, edges=1, normals=3)
VOC = values(semantic=21)
FIVE = values(semantic=21, parts=7, normals=3, saliency=1, edges=1)
AUXILIARY: Any = {"auxiliary": ["edges", "normals"]}


class Case(NamedTuple):
    """A published network, its number of parameters, and its multiply-adds in units of 10^9.

    The numbers were counted on the public code of the networks' authors; ASTMT's multiply-adds are those of one task.
    """

    model: str
    backbone: str
    tasks: dict[str, Task]
    size: tuple[int, int]
    parameters: int
    gmacs: float
    options: dict[str, Any] = {}  # noqa: RUF012

    def row(self) -> str:
        """The row of the guide's table."""
        auxiliary = self.options.get("auxiliary", ())
        names = ", ".join(f"({name})" if name in auxiliary else name for name in self.tasks)
        size = "x".join(map(str, self.size))
        return f"| `{self.model}` | `{self.backbone}` | {names} | {size} | {self.parameters:,} | {self.gmacs:.2f} |"


CASES = [
    Case("hrnet", SMALL, SEMANTIC, NYUD, 3_945_270, 11.37),
    Case("hrnet", "hrnet_w18", SEMANTIC, NYUD, 9_646_810, 21.70),
    Case("hrnet", "hrnet_w48", SEMANTIC, NYUD, 65_874_520, 109.79),
    Case("hrnet", SMALL, S_D, NYUD, 4_019_251, 12.77),
    Case("pad_net", SMALL, S_D, NYUD, 7_019_056, 70.25),
    Case("pad_net", SMALL, S_D_E_N, NYUD, 12_161_332, 168.90, AUXILIARY),
    Case("mti_net", SMALL, S_D, NYUD, 8_578_179, 17.14),
    Case("mti_net", SMALL, S_D_E_N, NYUD, 14_838_121, 22.88, AUXILIARY),
    Case("hrnet", SMALL, VOC, PASCAL, 3_940_121, 9.62),
    Case("hrnet", SMALL, FIVE, PASCAL, 4_238_213, 14.45),
    Case("pad_net", SMALL, FIVE, PASCAL, 29_304_992, 424.90),
    Case("mti_net", SMALL, FIVE, PASCAL, 24_494_171, 30.31),
    Case("astmt", "seresnet26", FIVE, PASCAL, 31_279_377, 25.94),
    Case("astmt", "seresnet50", FIVE, PASCAL, 49_387_041, 39.23),
    Case("astmt", "seresnet101", FIVE, PASCAL, 85_392_225, 59.77),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.backbone}-{len(case.tasks)}-{case.size}")
def test_networks_are_as_large_as_published(case: Case) -> None:
    with torch.device("meta"), torch.no_grad():
        model = build_model(case.model, case.backbone, case.tasks, boundary_head=False, **case.options).eval()
        task = ("semantic",) if case.model == "astmt" else ()
        with FlopCounterMode(display=False) as counter:
            predictions = model({"image": torch.empty(1, 3, *case.size)}, *task)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == case.parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(case.gmacs, rel=0.01)
    assert predictions["semantic"].shape[1:] == (case.tasks["semantic"].channels, *(side // 4 for side in case.size))


def test_the_guide_shows_these_sizes() -> None:
    guide = (Path(__file__).parents[1] / "docs/guide/hosts.md").read_text()
    rows = re.findall(r"^\| `\w+` \| `.* \|$", guide, re.MULTILINE)
    assert rows == [case.row() for case in CASES]


TINY = values(semantic=3, depth=1, edges=1)
HOSTS = [("hrnet", SMALL), ("pad_net", SMALL), ("mti_net", SMALL), ("mti_net", "resnet18")]
STAGES = {"hrnet": (), "pad_net": ("initial",), "mti_net": ("initial", *(f"initial_stride{s}" for s in (8, 16, 32)))}


@pytest.mark.parametrize(("name", "backbone"), HOSTS)
def test_every_task_is_predicted_at_every_stage_and_every_weight_learns(name: str, backbone: str) -> None:
    model = build_model(name, backbone, TINY)
    predictions = model({"image": torch.randn(2, 3, 40, 57)})
    strides = dict.fromkeys([*TINY, "boundary"], 4)
    for task in TINY:
        strides |= {f"{task}/{stage}": int(stage.partition("_stride")[2] or 4) for stage in STAGES[name]}
    channels = {"boundary": 1} | {task.name: task.channels for task in TINY.values()}
    assert {key: tuple(x.shape) for key, x in predictions.items()} == {
        key: (2, channels[key.partition("/")[0]], -(-40 // stride), -(-57 // stride)) for key, stride in strides.items()
    }
    sum(x.square().sum() for x in predictions.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", ["pad_net", "mti_net"])
def test_the_finest_prediction_of_an_auxiliary_task_is_its_own(name: str) -> None:
    model = build_model(name, SMALL, TINY, boundary_head=False, auxiliary=["edges"]).eval()
    with torch.no_grad():
        predictions = model({"image": torch.randn(1, 3, 32, 32)})
    assert model.auxiliary == ("edges",)
    assert {"semantic", "semantic/initial", "depth", "depth/initial", "edges"} <= set(predictions)
    assert "edges/initial" not in predictions
    assert predictions["edges"].shape == (1, 1, 8, 8)
    assert sum(key.startswith("edges/") for key in predictions) == len(STAGES[name]) - 1


@pytest.mark.parametrize("name", ["pad_net", "mti_net"])
@pytest.mark.parametrize("auxiliary", [["parts"], list(TINY), "edges"])
def test_wrong_auxiliary_tasks_are_refused(name: str, auxiliary: Any) -> None:
    message = rf"auxiliary must be a list of tasks \(semantic, depth, edges\), but not of all, got {auxiliary!r}"
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        build_model(name, SMALL, TINY, auxiliary=auxiliary)


@pytest.mark.parametrize("name", ["hrnet", "pad_net", "mti_net"])
def test_unknown_backbones_and_options_are_refused(name: str) -> None:
    known = "hrnet_w18, hrnet_w18_small_v2, hrnet_w48" + (", resnet18" if name == "mti_net" else "")
    with pytest.raises(ValueError, match=f"^backbone must be one of {known}, got 'resnet50'"):
        build_model(name, "resnet50", TINY)
    with pytest.raises(ValueError, match=f"model_options must be arguments of the model '{name}': .*'depths'"):
        build_model(name, SMALL, TINY, depths=3)


def test_strict_release_must_be_a_bool() -> None:
    with pytest.raises(ValueError, match="strict_release must be True or False, got 'no'"):
        build_model("mti_net", SMALL, TINY, strict_release="no")


@pytest.mark.parametrize("name", ["hrnet", "pad_net", "mti_net"])
def test_a_boundary_head_changes_no_other_weight_of_the_start(name: str) -> None:
    states = []
    for boundary_head in (False, True):
        torch.manual_seed(3)
        states.append(build_model(name, SMALL, TINY, boundary_head=boundary_head).state_dict())
    headless, with_head = states
    assert all("boundary" in key for key in with_head.keys() - headless.keys())
    assert all(torch.equal(value, with_head[key]) for key, value in headless.items())


def test_the_trunk_starts_and_fuses_as_in_the_multi_task_code() -> None:
    trunk = build_model("hrnet", SMALL, SEMANTIC, boundary_head=False).get_submodule("trunk")
    weights = torch.cat([m.weight.detach().flatten() for m in trunk.modules() if isinstance(m, nn.Conv2d)])
    assert float(weights.std()) == pytest.approx(1e-3, rel=0.01)
    assert {m.momentum for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}
    x = torch.randn(1, 2, 3, 5)
    for up in [m for m in trunk.modules() if isinstance(m, nn.Upsample)]:
        scale: Any = up.scale_factor
        torch.testing.assert_close(up(x), F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False))


def test_a_message_is_gated_by_its_own_attention() -> None:
    distill = Distillation(4, ["a", "b", "c"], ["a", "c"]).double()
    features = {name: torch.randn(2, 4, 5, 6, dtype=torch.float64) for name in "abc"}
    found = distill(features)
    assert list(found) == ["a", "c"]
    for task, result in found.items():
        expected = features[task].clone()
        for other in set("abc") - {task}:
            message, gate = distill.get_parameter(f"messages.{task}.{other}.0.weight").chunk(2)
            x = features[other]
            expected += F.conv2d(x, message, padding=1) * F.conv2d(x, gate, padding=1).sigmoid()
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("strict_release", [False, True])
def test_attention_sums_to_one_over_the_tasks_or_as_published(strict_release: bool) -> None:
    tasks, width = 3, 36
    model = build_model("mti_net", SMALL, TINY, boundary_head=False, strict_release=strict_release)
    assert isinstance(model, MtiNet)
    propagation: Any = model.propagate[0]
    seen: list[Tensor] = []
    propagation.share.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    passed = propagation({name: torch.ones(1, width, 4, 4) for name in TINY})
    [weights] = seen  # the features are 1, so these are the weights
    assert list(passed) == list(TINY)
    channels = weights[0].unbind()
    groups = (
        [channels[tasks * i : tasks * (i + 1)] for i in range(width)]
        if strict_release
        else [channels[i::width] for i in range(width)]
    )
    for group in groups:
        torch.testing.assert_close(torch.stack(group).sum(0), torch.ones(4, 4))
