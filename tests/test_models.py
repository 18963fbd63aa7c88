"""The models keep their promises on names, shapes and strides, and start the same with and without a boundary head."""

from __future__ import annotations

import sys

import pytest
import torch

from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.tasks import SemanticTask, Task


def tasks(classes: int) -> dict[str, Task]:
    return {"semantic": SemanticTask(classes=tuple(map(str, range(classes))))}


# A plain pyramid, one whose finest level is stride 4, one with features in NHWC; and SegFormer.
@pytest.mark.parametrize(
    ("model_name", "backbone"),
    [("pyramid", "test_resnet"), ("pyramid", "test_convnext"), ("pyramid", "test_mambaout"), ("segformer", "mit_b0")],
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (61, 67), (19, 33)])
def test_logits_are_at_a_quarter_of_any_size(model_name: str, backbone: str, height: int, width: int) -> None:
    model = build_model(model_name, backbone, tasks(5)).eval()
    logits = model({"image": torch.randn(2, 3, height, width)})
    quarter = (-(-height // 4), -(-width // 4))
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "semantic": (2, 5, *quarter),
        "boundary": (2, 1, *quarter),
    }
    sum(x.square().sum() for x in logits.values()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("backbone"))


@pytest.mark.parametrize(("model_name", "backbone"), [("pyramid", "hrnet_w18"), ("segformer", "mit_b0")])
def test_published_backbones_go_without_a_head_at_a_size_that_their_strides_do_not_divide(
    model_name: str, backbone: str
) -> None:
    model = build_model(model_name, backbone, tasks(3), boundary_head=False).eval()
    logits = model({"image": torch.randn(1, 3, 90, 120)})
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"semantic": (1, 3, 23, 30)}


@pytest.mark.parametrize(("model_name", "backbone"), [("pyramid", "test_resnet"), ("segformer", "mit_b0")])
def test_a_boundary_head_changes_no_other_weight_of_the_start(model_name: str, backbone: str) -> None:
    states = []
    for boundary_head in (False, True):
        torch.manual_seed(3)
        states.append(build_model(model_name, backbone, tasks(4), boundary_head=boundary_head).state_dict())
    headless, with_head = states
    assert {n for n in with_head if n not in headless} == {"heads.boundary.weight", "heads.boundary.bias"}
    assert all(torch.equal(value, with_head[name]) for name, value in headless.items())


def test_padding_to_the_stride_moves_nothing() -> None:
    """A stripe in an image whose size needs padding shows up where it does in one that does not."""
    torch.manual_seed(0)
    model = build_model("pyramid", "test_resnet", tasks(2)).eval()
    image = torch.zeros(1, 3, 64, 96)
    image[..., 40:44] = 3.0
    with torch.no_grad():
        whole, cut = model({"image": image})["semantic"], model({"image": image[..., :60, :92]})["semantic"]
    response = (whole - model({"image": torch.zeros_like(image)})["semantic"]).abs().sum((0, 1, 2))
    response_cut = (cut - model({"image": torch.zeros(1, 3, 60, 92)})["semantic"]).abs().sum((0, 1, 2))
    assert response.argmax() == response_cut.argmax()


def test_an_unknown_backbone_gets_suggestions() -> None:
    with pytest.raises(
        ValueError, match=r"backbone must be the name of a timm model, got 'hrnet_w19'; did you mean .*hrnet_w18"
    ):
        build_model("pyramid", "hrnet_w19", tasks(2))


def test_a_backbone_without_a_fine_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stride 4; 'test_vit' has strides \[16, 16, 16\]"):
        build_model("pyramid", "test_vit", tasks(2))


@pytest.mark.parametrize(("backbone", "published"), [("mit_b0", 3.7e6), ("mit_b2", 27.4e6)])
def test_segformer_is_as_large_as_published(backbone: str, published: float) -> None:
    with torch.device("meta"):
        model = build_model("segformer", backbone, tasks(19), boundary_head=False)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(published, abs=0.05e6)


def test_segformer_has_six_backbones() -> None:
    with pytest.raises(ValueError, match=r"backbone must be one of \['mit_b0', .*'mit_b5'\], got 'hrnet_w18'"):
        build_model("segformer", "hrnet_w18", tasks(2))


def test_only_segformer_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    build_model("pyramid", "test_resnet", tasks(2))
    with pytest.raises(ModuleNotFoundError, match="transformers"):
        build_model("segformer", "mit_b0", tasks(2))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be one of"):
        build_model("unet", "test_resnet", tasks(2))
