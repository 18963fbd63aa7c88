"""Second derivatives, vmap, tracing and fake tensors: they work, or one sentence names the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import some_labels
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import inverseform_fast as iff
from inverseform_fast import functional
from inverseform_fast.nets import Align

LABELS = some_labels((2, 12, 16), 3)
TARGET = functional.boundary_map(LABELS)[:, None]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def tiles(x: Tensor, channel: int) -> Tensor:
    """``(2, 1, 8, 8)`` of ``x (2, 3, 6, 8)``."""
    return torch.cat((x[:, channel], x[:, channel, :2]), 1)[:, None]


torch.manual_seed(0)
LOGITS = random(2, 3, 6, 8)
NET, SMALL = Align(16).requires_grad_(False).double(), Align(8).requires_grad_(False)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "segmentation_loss": lambda x: functional.segmentation_loss(x, LABELS),
    "dice_loss": lambda x: functional.dice_loss(x, LABELS),
    "boundary_f1_loss": lambda x: functional.boundary_f1_loss(x, LABELS),
    "boundary_loss": lambda x: functional.boundary_loss(x[:, :1], LABELS),
    "soft_boundary_map": lambda x: functional.soft_boundary_map(x, (12, 16), as_logits=True),
    "extract_tiles": lambda x: functional.extract_tiles(x[:, :1], TARGET, (16, 16), 16)[0],
    "homography_exp": lambda x: functional.homography_exp(x[:, :, 0] / 8),
    "homography_warp": lambda x: functional.homography_warp(x, torch.eye(3) + x[:, 0, :3, :3] / 20, (5, 7)),
    "local_correlation": lambda x: functional.local_correlation(x, x.flip(1), 1),
    "align": lambda x: functional.align(tiles(x, 0), tiles(x, 1), [weight.to(x.dtype) for weight in SMALL.weights]),
    "InverseFormLoss": lambda x: iff.InverseFormLoss(NET)(x[:, :1], TARGET),
    "geodesic": lambda x: iff.InverseFormLoss(NET, "geodesic")(x[:, :1], TARGET),
    "euclidean": lambda x: iff.InverseFormLoss(NET, "euclidean")(x[:, :1], TARGET),
    "BoundaryAwareLoss": lambda x: iff.BoundaryAwareLoss(gamma=0.3, inverseform=iff.InverseFormLoss(NET), f1=1)(
        x, LABELS
    )[0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_reference_has_second_derivatives(name: str) -> None:
    with iff.set_backend("reference"):
        x = LOGITS.clone().requires_grad_()
        assert torch.autograd.gradgradcheck(FUNCTIONS[name], x, atol=1e-4, rtol=1e-3, fast_mode=True)


@pytest.mark.skipif(bool(iff.ops.backend.MISSING["cpu"]), reason="needs the extension")
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "align"])
def test_kernels_have_one_derivative_and_name_the_way_out(name: str) -> None:
    x = LOGITS.float().requires_grad_()
    (gradient,) = torch.autograd.grad(FUNCTIONS[name](x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="kernels are differentiated once; choose the backend 'reference'"):
        gradient.sum().backward()


def test_vmap_over_logits_and_labels_is_a_loop() -> None:
    criterion = iff.BoundaryAwareLoss(gamma=0.3, inverseform=iff.InverseFormLoss(Align(16)))
    logits = LOGITS.float()
    found = torch.vmap(lambda x, y: criterion(x[None], y[None]).total)(logits, LABELS)
    expected = [criterion(x[None], y[None]).total for x, y in zip(logits, LABELS, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("name", ["BoundaryAwareLoss", "extract_tiles", "homography_warp", "soft_boundary_map"])
def test_a_trace_names_the_way_out(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"torch.jit.trace cannot record this: .*torch.compile or torch.export"):
        torch.jit.trace(FUNCTIONS[name], LOGITS.float())


def test_fake_tensors_have_shapes() -> None:
    criterion = iff.BoundaryAwareLoss()
    with FakeTensorMode():
        terms = criterion(torch.zeros(2, 3, 6, 8), torch.zeros(2, 12, 16, dtype=torch.long))
        tiles, _ = functional.extract_tiles(torch.zeros(2, 1, 6, 8), torch.zeros(2, 1, 12, 16), (16, 16), 16)
    assert [term.shape for term in terms] == [()] * 7
    assert tiles.shape == (2, 1, 16, 16)


def test_make_fx_records_the_loss() -> None:
    criterion, logits = iff.BoundaryAwareLoss(), LOGITS.float()
    graph = make_fx(lambda x: criterion(x, LABELS).total)(logits)
    assert graph(2 * logits) == criterion(2 * logits, LABELS).total


def test_labels_of_torchvision_are_labels() -> None:
    tv_tensors = pytest.importorskip("torchvision.tv_tensors")
    logits = LOGITS.float()
    assert functional.segmentation_loss(logits, tv_tensors.Mask(LABELS)) == functional.segmentation_loss(logits, LABELS)
    assert functional.boundary_map(tv_tensors.Mask(LABELS)).equal(functional.boundary_map(LABELS))
