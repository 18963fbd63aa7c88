"""segmentation_loss against F.cross_entropy of F.interpolate, values and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_backend import assert_same_when_called, ways
from test_boundary_map import DTYPES, some_labels
from three_way import assert_three_way
from torch import Tensor

from inverseform_fast.functional import segmentation_loss

WEIGHTS = torch.tensor([0.5, 1.0, 3.0, 0.0, 2.0], dtype=torch.float64)
resolutions = pytest.mark.parametrize("resolution", [(8, 10), (2, 3), (4, 5), (13, 7), (1, 1)], ids=str)


def some_logits(n: int = 2, c: int = 5, h: int = 8, w: int = 10, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, c, h, w, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def stock(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignore_index: int = 255) -> Tensor:
    upsampled = F.interpolate(logits, size=labels.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels.long(), class_weights, ignore_index=ignore_index)


def value_and_gradient(loss: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return loss, torch.autograd.grad(loss, logits)[0]


def assert_same(logits: Tensor, actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value_and_gradient(actual, logits), value_and_gradient(expected, logits))


@resolutions
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_interpolate_and_cross_entropy(resolution: tuple[int, int], class_weights: Tensor | None) -> None:
    logits, labels = some_logits(2, 5, *resolution), some_labels((2, 8, 10), 5)
    assert_same(logits, segmentation_loss(logits, labels, class_weights), stock(logits, labels, class_weights))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ignore_index", [100, 0, 3])
def test_labels_of_every_integer_type_and_any_void_id(dtype: torch.dtype, ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index).to(dtype)
    actual = segmentation_loss(logits, labels, WEIGHTS, ignore_index)
    assert_same(logits, actual, stock(logits, labels, WEIGHTS, ignore_index))


@pytest.mark.parametrize("ignore_index", [-1, -100, 7, 70000])
def test_void_ids_outside_the_classes(ignore_index: int) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5, void=ignore_index)
    assert_same(
        logits, segmentation_loss(logits, labels, None, ignore_index), stock(logits, labels, None, ignore_index)
    )


@pytest.mark.parametrize(("dtype", "classes"), [(torch.uint8, 256), (torch.uint8, 300), (torch.int8, 200)])
def test_more_classes_than_the_labels_type_can_count(dtype: torch.dtype, classes: int) -> None:
    logits, labels = some_logits(1, classes, 3, 4), some_labels((1, 3, 4), 128, void=None).to(dtype)
    assert_same(logits, segmentation_loss(logits, labels, None, -1), stock(logits, labels, None, -1))


def test_a_void_id_that_the_type_cannot_hold_marks_nothing() -> None:
    logits, labels = some_logits(1, 256, 3, 4), torch.full((1, 3, 4), 156, dtype=torch.uint8)  # -100 + 256
    assert_same(logits, segmentation_loss(logits, labels, None, -100), stock(logits, labels, None, -100))


@pytest.mark.parametrize("shape", [(2, 8, 10), (2, 4, 5)], ids=str)
def test_an_all_void_batch_gives_zero_with_zero_gradients(shape: tuple[int, int, int]) -> None:
    logits = some_logits(dtype=torch.float32)
    loss, gradient = value_and_gradient(segmentation_loss(logits, torch.full(shape, 255)) * 65536, logits)
    assert loss == 0
    assert not gradient.any()


@pytest.mark.parametrize("resolution", [(8, 10), (2, 3)])
def test_an_empty_batch_gives_zero_and_can_be_trained_on(resolution: tuple[int, int]) -> None:
    logits = some_logits(0, 5, *resolution)
    loss, gradient = value_and_gradient(segmentation_loss(logits, torch.zeros(0, 8, 10, dtype=torch.long)), logits)
    assert loss == 0
    assert gradient.shape == logits.shape


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
@pytest.mark.parametrize("classes", [slice(0, 1), slice(0, 5)], ids=["one class", "all classes"])
def test_what_is_not_finite_in_void_pixels_stays_there(value: float, classes: slice) -> None:
    logits, labels = some_logits(), some_labels((2, 8, 10), 5)
    valid = (labels != 255)[:, None]
    broken = logits.detach().clone()
    broken[:, classes] = torch.where(valid, broken[:, classes], value)
    loss, gradient = value_and_gradient(segmentation_loss(broken.requires_grad_(), labels), broken)
    expected, expected_gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
    torch.testing.assert_close((loss, torch.where(valid, gradient, 0)), (expected, expected_gradient))


def test_a_masked_class_that_no_pixel_has() -> None:
    logits, labels = some_logits(c=4), some_labels((2, 8, 10), 4)
    masked = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)
    assert_same(logits, segmentation_loss(masked, labels), segmentation_loss(logits, labels))


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_large_logits(scale: float) -> None:
    labels = some_labels((2, 8, 10), 5, void=None)
    right = scale * F.one_hot(labels, 5).movedim(-1, 1).float()
    assert segmentation_loss(right, labels) == 0
    torch.testing.assert_close(segmentation_loss(-right, labels).item(), scale + math.log(4), rtol=1e-6, atol=0)


def test_a_single_class_is_always_right() -> None:
    logits, labels = some_logits(c=1), some_labels((2, 8, 10), 1)
    loss, gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
    assert loss == 0
    assert not gradient.any()


@resolutions
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=dtype), some_labels((2, 8, 10), 5)
    loss = segmentation_loss(logits, labels, WEIGHTS.to(dtype))
    assert loss.dtype == torch.float32
    assert torch.autograd.grad(loss, logits, retain_graph=True)[0].dtype == dtype
    assert_same(logits, loss, stock(logits.float(), labels, WEIGHTS.float()))


@resolutions
def test_gradient(resolution: tuple[int, int]) -> None:
    labels = some_labels((1, 8, 10), 3)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels), some_logits(1, 3, *resolution))


@ways
@pytest.mark.parametrize("resolution", [(8, 10), (4, 5)])
def test_any_way_of_calling_it(way: str, resolution: tuple[int, int]) -> None:
    logits, labels = some_logits(2, 5, *resolution, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_same_when_called(way, segmentation_loss, logits, labels, class_weights=WEIGHTS.float())


# (logits' size, labels' size): the usual ratios, none that is whole, the same size, down, up one way only, more than a
# block of pixels in a row, single pixels
SIZES = [
    ((5, 7), (20, 28)), ((6, 5), (12, 10)), ((17, 20), (33, 47)), ((9, 8), (9, 8)), ((20, 31), (7, 50)),
    ((4, 300), (4, 600)), ((1, 2), (5, 19)), ((1, 1), (5, 3)), ((3, 3), (1, 1)),
]  # fmt: skip


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize(("size", "full"), SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_cpu_kernel(size: tuple[int, int], full: tuple[int, int], dtype: torch.dtype) -> None:
    labels = some_labels((2, *full), 5).to(torch.int16)
    assert_three_way(
        "segmentation_loss", some_logits(2, 5, *size, dtype=dtype), labels, class_weights=WEIGHTS.to(dtype)
    )


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("classes", [1, 2, 150])
def test_cpu_kernel_with_any_number_of_classes(classes: int) -> None:
    labels = some_labels((1, 40, 70), classes, void=None)
    assert_three_way("segmentation_loss", some_logits(1, classes, 10, 18, dtype=torch.float32), labels, ignore_index=-1)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_cpu_kernel_with_large_logits(scale: float) -> None:
    logits, labels = scale * some_logits(2, 5, 4, 5, dtype=torch.float32), some_labels((2, 8, 10), 5)
    assert_three_way("segmentation_loss", logits, labels)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_cpu_kernel_keeps_what_is_not_finite_in_void_pixels_out(value: float) -> None:
    logits, labels = some_logits(dtype=torch.float32), some_labels((2, 8, 10), 5)
    void = (labels == 255)[:, None]
    broken = logits.detach().masked_fill(void, value).requires_grad_()
    expected, expected_gradient = value_and_gradient(stock(logits, labels), logits)
    loss, gradient = value_and_gradient(segmentation_loss(broken, labels), broken)
    torch.testing.assert_close((loss, gradient), (expected, expected_gradient))


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_cpu_kernel_lets_nothing_pass_that_is_not_finite_elsewhere(bad: float) -> None:
    logits = some_logits(dtype=torch.float32).detach()
    logits[1, 2, 3, 4] = bad
    loss, gradient = value_and_gradient(
        segmentation_loss(logits.requires_grad_(), torch.zeros(2, 8, 10, dtype=torch.long)), logits
    )
    assert loss.isnan() or loss.isinf()
    assert gradient[1, :, 3, 4].isnan().any()


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_masks_a_class_by_infinity() -> None:
    logits, labels = some_logits(c=4, dtype=torch.float32), some_labels((2, 8, 10), 4)
    masked = torch.cat([logits, torch.full_like(logits[:, :1], -torch.inf)], 1)
    assert_same(logits, segmentation_loss(masked, labels), stock(logits, labels))


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("label", [5, -1, 254])
def test_cpu_kernel_makes_the_loss_nan_for_a_label_that_is_no_class(label: int) -> None:
    labels = torch.zeros(2, 8, 10, dtype=torch.long)
    labels[1, 2, 3] = label  # which the public function refuses, but cannot see under torch.compile
    loss, *_ = torch.ops.inverseform_fast.segmentation_loss_cpu(some_logits().float(), labels, None, 255, True)
    assert loss.isnan()


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_without_a_valid_pixel_or_an_image() -> None:
    for labels in (torch.full((2, 8, 10), 255), torch.zeros(0, 8, 10, dtype=torch.long)):
        logits = some_logits(len(labels), 5, 4, 5, dtype=torch.float32)
        loss, gradient = value_and_gradient(segmentation_loss(logits, labels), logits)
        assert loss == 0
        assert gradient.shape == logits.shape
        assert not gradient.any()


@pytest.mark.usefixtures("cpu_kernels")
def test_cpu_kernel_on_any_number_of_threads() -> None:
    logits, labels = some_logits(2, 5, 17, 20, dtype=torch.float32), some_labels((2, 66, 75), 5)
    one = value_and_gradient(segmentation_loss(logits, labels), logits)
    torch.set_num_threads(3)
    try:
        three = value_and_gradient(segmentation_loss(logits, labels), logits)
    finally:
        torch.set_num_threads(1)
    torch.testing.assert_close(three, one, rtol=0, atol=0)


@pytest.mark.usefixtures("cpu_kernels")
@pytest.mark.parametrize("channels_last", [False, True])
def test_cpu_kernel_as_torch_sees_it(channels_last: bool) -> None:
    logits = some_logits(2, 5, 4, 5, dtype=torch.float32)
    if channels_last:
        logits = logits.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    arguments = (logits, some_labels((2, 8, 10), 5), WEIGHTS.float(), 255, True)
    torch.library.opcheck(torch.ops.inverseform_fast.segmentation_loss.default, arguments)


LABELS = torch.zeros(2, 4, 4, dtype=torch.long)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"logits": torch.zeros(2, 4, 4)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(2, 4, 4\)"),
        ({"logits": torch.zeros(2, 0, 4, 4)}, ValueError, r"logits must have shape \(N, C, h, w\), got \(2, 0, 4, 4\)"),
        ({"logits": torch.zeros(2, 3, 4, 4).long()}, TypeError, "logits must be floating point, got torch.int64"),
        ({"labels": LABELS.float()}, TypeError, "labels must be of an integer dtype.*, got torch.float32"),
        ({"labels": LABELS.bool()}, TypeError, "labels must be of an integer dtype.*, got torch.bool"),
        ({"labels": LABELS[:, None]}, ValueError, r"labels must have shape \(2, H, W\), got \(2, 1, 4, 4\)"),
        ({"labels": LABELS[:1]}, ValueError, r"labels must have shape \(2, H, W\), got \(1, 4, 4\)"),
        ({"labels": LABELS + 3}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[3\]"),
        ({"labels": LABELS - 1}, ValueError, r"labels must lie in \[0, 3\) or be ignore_index=255, found \[-1\]"),
        ({"labels": LABELS + 255, "ignore_index": -1}, ValueError, r"or be ignore_index=-1, found \[255\]"),
        ({"class_weights": torch.ones(4)}, ValueError, r"class_weights must have shape \(3,\), .*got \(4,\)"),
        ({"class_weights": torch.ones(1, 3)}, ValueError, r"class_weights must have shape \(3,\), .*got \(1, 3\)"),
        (
            {"class_weights": torch.ones(3, device="meta")},
            ValueError,
            "class_weights must be on the device of logits, cpu",
        ),
        ({"labels": LABELS.to("meta")}, ValueError, "labels must be on the device of logits, cpu, got meta"),
        ({"class_weights": [1.0, 1.0, 1.0]}, TypeError, "class_weights must be a tensor, got list"),
    ],
)
def test_bad_input_is_named(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        segmentation_loss(**{"logits": torch.zeros(2, 3, 4, 4), "labels": LABELS, **changed})
