"""What the models promise: names, shapes, strides, and the same start with and without a boundary head."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast.segmentation.models import build_model


# A plain pyramid, one whose finest level is stride 4, one with features in NHWC.
@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_mambaout"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (90, 120), (61, 67)])
def test_logits_are_at_a_quarter_of_any_size(backbone: str, height: int, width: int) -> None:
    model = build_model(backbone, 5).eval()
    logits = model(torch.randn(2, 3, height, width))
    quarter = (-(-height // 4), -(-width // 4))
    assert {name: tuple(x.shape) for name, x in logits.items()} == {
        "segmentation": (2, 5, *quarter),
        "boundary": (2, 1, *quarter),
    }
    sum(x.square().sum() for x in logits.values()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("backbone"))


def test_hrnet_is_there_by_name_at_a_size_that_its_strides_do_not_divide() -> None:
    logits = build_model("hrnet_w18", 3, boundary_head=False).eval()(torch.randn(1, 3, 90, 120))
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"segmentation": (1, 3, 23, 30)}


def test_a_boundary_head_changes_no_other_weight_of_the_start() -> None:
    states = []
    for boundary_head in (False, True):
        torch.manual_seed(3)
        states.append(build_model("test_resnet", 4, boundary_head).state_dict())
    headless, with_head = states
    assert {n for n in with_head if n not in headless} == {"boundary.weight", "boundary.bias"}
    assert all(torch.equal(value, with_head[name]) for name, value in headless.items())


def test_padding_to_the_stride_moves_nothing() -> None:
    """A stripe in an image whose size needs padding shows up where it does in one that does not."""
    torch.manual_seed(0)
    model = build_model("test_resnet", 2).eval()
    image = torch.zeros(1, 3, 64, 96)
    image[..., 40:44] = 3.0
    with torch.no_grad():
        whole, cut = model(image)["segmentation"], model(image[..., :60, :92])["segmentation"]
    response = (whole - model(torch.zeros_like(image))["segmentation"]).abs().sum((0, 1, 2))
    response_cut = (cut - model(torch.zeros(1, 3, 60, 92))["segmentation"]).abs().sum((0, 1, 2))
    assert response.argmax() == response_cut.argmax()


def test_an_unknown_backbone_gets_suggestions() -> None:
    with pytest.raises(
        ValueError, match=r"backbone must be the name of a timm model, got 'hrnet_w19'; did you mean .*hrnet_w18"
    ):
        build_model("hrnet_w19", 2)


def test_a_backbone_without_a_fine_level_is_refused() -> None:
    with pytest.raises(ValueError, match=r"stride 4; 'test_vit' has strides \[16, 16, 16\]"):
        build_model("test_vit", 2)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be one of"):
        build_model("test_resnet", 2, model="unet")
