"""ASTMT learns one task at a time, hides from its adversary, and starts from ImageNet's weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from stand_ins import values
from timm.models.senet import SENet, SEResNetBottleneck
from torch import Tensor
from training_runs import tiny_config

import inverseform_fast as iff
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.models.astmt import Astmt
from inverseform_fast.segmentation.models.se_resnet import SEResNet
from inverseform_fast.segmentation.tasks import SemanticTask, Task
from inverseform_fast.segmentation.training.criterion import Criterion

TASKS: dict[str, Task] = {
    **values(depth=1),
    "semantic": SemanticTask(classes=("a", "b", "c")),
    **values(normals=3),
}
SIZE = (32, 48)


def make(tasks: Mapping[str, Task] = TASKS) -> Astmt:
    torch.manual_seed(0)
    model = build_model("astmt", "seresnet26", tasks, boundary_head=False)
    assert isinstance(model, Astmt)
    return model


@pytest.fixture(scope="module")
def model() -> Astmt:
    return make()


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, *SIZE, generator=generator)
    labels = torch.randint(0, 3, (2, *SIZE), generator=generator)
    rest = {name: torch.rand(2, TASKS[name].channels, *SIZE, generator=generator) for name in ("depth", "normals")}
    return images, {"semantic": labels, **rest}


def losses(
    model: Astmt, images: Tensor, targets: dict[str, Tensor], net: str, progress: float = 0.3, **options: Any
) -> Any:
    """The terms of one batch, as a trainer takes them."""
    weights = {"semantic": 2.0, "depth": 1.0, "normals": 1.0}
    config = tiny_config(Path(), net, tasks=weights, boundary_head=False, **options)
    criterion = Criterion(config, TASKS)
    return model.losses(lambda task: model({"image": images}, task), lambda p, t: criterion(p, t, 0), targets, progress)


def test_each_task_takes_a_step_that_leaves_the_others_alone(batch: tuple[Tensor, dict[str, Tensor]], net: str) -> None:
    model = make().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    taken = []
    for terms in losses(model, *batch, net):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        [task] = {name.partition("/")[0] for name in terms if name not in ("total", *(f"adversary/{t}" for t in TASKS))}
        taken.append(task)
        others = {name for name in before for other in TASKS.keys() - {task} if f".{other}." in name}
        assert changed.isdisjoint(others)
        shared = {name for name in before if not any(f".{t}." in name for t in TASKS)}
        assert shared <= changed
        assert {name for name in before if f".{task}." in name} <= changed
        weight = 2.0 if task == "semantic" else 1.0
        expected = 0.99 * weight * terms[f"{task}/total"] + 0.01 * terms[f"adversary/{task}"]
        torch.testing.assert_close(terms["total"], expected)
    assert taken == ["semantic", "depth", "normals"]


def test_inverseform_is_in_the_pass_of_its_task(
    model: Astmt, batch: tuple[Tensor, dict[str, Tensor]], net: str
) -> None:
    first, *rest = losses(model, *batch, net)
    assert first["semantic/inverseform"] > 0
    assert not any("inverseform" in name for terms in rest for name in terms)


def test_a_task_without_a_valid_pixel_is_left_out(
    model: Astmt, batch: tuple[Tensor, dict[str, Tensor]], net: str
) -> None:
    images, targets = batch
    void = targets | {"depth": torch.full_like(targets["depth"], 255)}
    names = [[name for name in terms if name.startswith("adversary/")] for terms in losses(model, images, void, net)]
    assert names == [["adversary/semantic"], ["adversary/normals"]]


def test_the_adversary_sees_where_the_target_is_valid(batch: tuple[Tensor, dict[str, Tensor]], net: str) -> None:
    """Its loss is the cross-entropy of the task's number, of the direction of the gradient, at valid pixels alone."""
    model = make().eval()
    images, targets = batch
    labels = targets["semantic"].clone()
    labels[0] = 255
    labels[1, :, 24:] = 255
    [terms] = losses(model, images, {"semantic": labels}, net)
    with iff.set_backend("reference"):
        predictions = model({"image": images}, "semantic")
        features = predictions["astmt/features"]
        config = tiny_config(Path(), net, boundary_head=False)
        own = Criterion(config, TASKS)({"semantic": predictions["semantic"]}, {"semantic": labels}, 0)["total"]
        [gradient] = torch.autograd.grad(own, features)
    guesses = model.adversary(gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-10))
    expected = -guesses.log_softmax(1)[1, 1, :, :6].mean()
    torch.testing.assert_close(terms["adversary/semantic"], expected, rtol=1e-3, atol=1e-6)


def test_the_network_gets_the_adversarys_gradient_reversed(batch: tuple[Tensor, dict[str, Tensor]], net: str) -> None:
    """Both get the gradient of the guess; the network gets it with the opposite sign, by a strength that grows."""
    model = make().eval()
    images, labels = batch[0], batch[1]["semantic"]
    # Any adversary is far from sure with the weights of its start.
    for layer in (0, 2):
        torch.nn.init.normal_(model.get_parameter(f"adversary.{layer}.weight"))
    weights = [model.get_parameter(f"{name}.weight") for name in ("decoder.refine.1.conv.shared", "adversary.0")]

    def gradients(progress: float) -> tuple[Tensor, ...]:
        [terms] = losses(model, images, {"semantic": labels}, net, progress, loss="ce")
        return torch.autograd.grad(terms["adversary/semantic"], weights)

    def truth() -> tuple[Tensor, ...]:
        predictions = model({"image": images}, "semantic")
        own = F.cross_entropy(F.interpolate(predictions["semantic"], SIZE, mode="bilinear"), labels)
        [gradient] = torch.autograd.grad(own, predictions["astmt/features"], create_graph=True)
        guesses = model.adversary(gradient / (gradient.norm(dim=1, keepdim=True) + 1e-10))
        number = torch.ones(2, 8, 12, dtype=torch.long)
        return torch.autograd.grad(F.cross_entropy(guesses, number), weights)

    network, adversary = truth()
    assert float(network.abs().max()) > 0
    for progress in (0.01, 1.0):
        found = gradients(progress)
        strength = 2 / (1 + math.exp(-10 * progress)) - 1
        torch.testing.assert_close(found[0], -strength * network, rtol=1e-3, atol=1e-4 * float(network.abs().max()))
        torch.testing.assert_close(found[1], adversary, rtol=1e-3, atol=1e-4 * float(adversary.abs().max()))


def test_learning_rates_are_higher_for_the_tasks_own_weights(model: Astmt) -> None:
    scales = model.lr_scales()
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert scales.keys() <= sizes.keys()
    for name in sizes:
        expected = 10.0 if name.startswith("adversary.") else 3.0 if any(f".{t}." in name for t in TASKS) else 1.0
        assert scales.get(name, 1.0) == expected
    with torch.device("meta"):
        five = build_model("astmt", "seresnet26", values(e=1, s=21, p=7, n=3, sal=1), boundary_head=False)
    sizes = {name: p.numel() for name, p in five.named_parameters()}
    own = [name for name, scale in five.lr_scales().items() if scale == 5]
    assert sum(map(sizes.__getitem__, own)) == 13_454_220  # as counted on the authors' code


def test_weights_start_as_published(model: Astmt) -> None:
    weights = dict(make().named_parameters())
    adapters = [value for name, value in weights.items() if ".adapters." in name]
    assert adapters
    assert not any(value.any() for value in adapters)
    shared = torch.cat(
        [v.detach().flatten() for n, v in weights.items() if n.endswith((".shared.weight", "conv1.weight"))]
    )
    assert float(shared.std()) == pytest.approx(0.01, rel=0.01)


def test_all_tasks_are_predicted_in_evaluation_only(model: Astmt) -> None:
    image = torch.randn(1, 3, 37, 50)
    with torch.no_grad():
        predictions = model.eval()({"image": image})
        assert {name: tuple(x.shape) for name, x in predictions.items()} == {
            name: (1, task.channels, 10, 13) for name, task in TASKS.items()
        }
        torch.testing.assert_close(model({"image": image}, "depth")["depth"], predictions["depth"])
    with pytest.raises(ValueError, match="task must be given in training: astmt learns one at a time"):
        model.train()({"image": image})


def test_imagenet_weights_give_timms_features() -> None:
    torch.manual_seed(0)
    source = SENet(
        SEResNetBottleneck, (2, 2, 2, 2), groups=1, reduction=16, inplanes=64, input_3x3=False,
        downsample_kernel_size=1, downsample_padding=0,
    ).eval()  # fmt: skip
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    trunk = SEResNet("seresnet26", ["a", "b"]).eval()
    for name, adapter in trunk.named_parameters():
        if ".adapters." in name:
            torch.nn.init.zeros_(adapter)
    trunk.copy(source)
    x = torch.randn(1, 64, 16, 16)
    with torch.no_grad():
        for number, stage in enumerate(trunk.stages, 1):
            for task in ("a", "b"):
                y = x
                for block in stage:  # type: ignore[attr-defined]
                    y = block(y, task)
                if number < 4:  # the last stage of ImageNet's has a stride in place of a dilation
                    torch.testing.assert_close(y, source.get_submodule(f"layer{number}")(x))
            x = y
    assert x.shape == (1, 2048, 4, 4)


@pytest.mark.parametrize("depth", [50, 101])
def test_timm_has_the_weights_that_are_copied(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    with torch.device("meta"):
        trunk = SEResNet(f"seresnet{depth}", ["a", "b"])
        monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))  # no download
        trunk.load_imagenet()


def test_what_astmt_cannot_do_is_told() -> None:
    with pytest.raises(ValueError, match="boundary_head must be False for astmt"):
        build_model("astmt", "seresnet26", TASKS)
    with pytest.raises(ValueError, match="backbone must be one of seresnet26, seresnet50, seresnet101, got 'resnet18'"):
        build_model("astmt", "resnet18", TASKS, boundary_head=False)
    with pytest.raises(ValueError, match="pretrained must be False for seresnet26: only seresnet50, seresnet101 have"):
        build_model("astmt", "seresnet26", TASKS, boundary_head=False, pretrained=True)
