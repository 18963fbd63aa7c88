"""The metrics equal definitions written out here, in NumPy and SciPy, and agree with torchmetrics."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from inverseform_fast.segmentation.metrics import BoundaryMetrics, RegionMetrics, SegmentationMetrics
from inverseform_fast.segmentation.metrics.boundary import (
    boundary_f_scores,
    boundary_overlap,
    dilate,
    disk_half_widths,
    ellipse_half_widths,
    mean_boundary_accuracy,
)

CLASSES = 5
VOID = 255


def random_labels(seed: int, height: int = 60, width: int = 83, void: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws a blobby truth (H, W) with void strips and specks, and a prediction, which is shifted and has errors."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(CLASSES, height, width)), sigma=(0, 6, 6))
    target = fields.argmax(0)
    prediction = np.roll(target, (2, -1), (0, 1))
    noise = rng.random((height, width)) < 0.01
    prediction[noise] = rng.integers(0, CLASSES, noise.sum())
    if void:
        target[rng.random((height, width)) < 0.01] = VOID
        target[height // 3 : height // 3 + 3] = VOID
    return torch.from_numpy(prediction), torch.from_numpy(target)


def footprint(half_widths: list[int]) -> np.ndarray:
    radius = len(half_widths) // 2
    columns = np.arange(-radius, radius + 1)
    return np.array([np.abs(columns) <= half_width for half_width in half_widths])


def opencv_ellipse(radius: int) -> np.ndarray:
    """Repeats the loop of OpenCV's getStructuringElement(MORPH_ELLIPSE), whose cvRound rounds halves to even."""
    size = 2 * radius + 1
    element = np.zeros((size, size), bool)
    for i in range(size):
        dy = i - radius
        dx = int(np.rint(radius * np.sqrt((radius * radius - dy * dy) / (radius * radius))))
        element[i, max(radius - dx, 0) : min(radius + dx + 1, size)] = True
    return element


def mba_by_definition(prediction: np.ndarray, target: np.ndarray) -> float:
    """Computes CascadePSP's mBA, with each class's morphological gradient taken over valid pixels."""
    height, width = target.shape
    valid = target != VOID
    scores = []
    for i in range(5):
        radius = 1 + int(((width + height) / 300 - 1) / 5 * i)
        region = np.zeros(target.shape, bool)
        for c in np.unique(target[valid]):
            inside, outside = valid & (target == c), valid & (target != c)
            kernel = opencv_ellipse(radius)
            gradient = ndimage.binary_dilation(inside, kernel) & ndimage.binary_dilation(outside, kernel)
            region |= gradient & valid
        if region.any():
            scores.append((prediction == target)[region].mean())
    return float(np.mean(scores)) if scores else math.nan


def boundary_map_by_definition(mask: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Marks the pixels that differ from their right, lower or lower-right neighbour, if both are valid."""
    height, width = mask.shape
    boundary = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            for v, u in ((y, x + 1), (y + 1, x), (y + 1, x + 1)):
                if v < height and u < width and valid[y, x] and valid[v, u] and mask[y, x] != mask[v, u]:
                    boundary[y, x] = True
    return boundary


def f_by_definition(prediction: np.ndarray, target: np.ndarray, c: int, tolerance: float) -> float:
    valid = target != VOID
    predicted = boundary_map_by_definition(prediction == c, valid)
    true = boundary_map_by_definition(target == c, valid)
    if not predicted.any() and not true.any():
        return math.nan
    if not predicted.any() or not true.any():
        return 0.0
    precision = (ndimage.distance_transform_edt(~true)[predicted] <= tolerance).mean()
    recall = (ndimage.distance_transform_edt(~predicted)[true] <= tolerance).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize(
    ("radius", "rows"),
    [
        (1, ["010", "111", "010"]),
        (2, ["00100", "11111", "11111", "11111", "00100"]),
        (3, ["0001000", "0111110", "1111111", "1111111", "1111111", "0111110", "0001000"]),
    ],
)
def test_the_ellipse_is_opencvs(radius: int, rows: list[str]) -> None:
    expected = np.array([[c == "1" for c in row] for row in rows])
    np.testing.assert_array_equal(footprint(ellipse_half_widths(radius)), expected)


def test_the_ellipse_follows_opencvs_formula_for_every_radius() -> None:
    for radius in range(1, 30):
        np.testing.assert_array_equal(footprint(ellipse_half_widths(radius)), opencv_ellipse(radius))


@pytest.mark.parametrize("radius", [0, 1, 3, 5, 9])
def test_a_disk_is_a_euclidean_ball(radius: int) -> None:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    np.testing.assert_array_equal(footprint(disk_half_widths(radius)), np.hypot(y, x) <= radius)


@pytest.mark.parametrize(("height", "width"), [(20, 31), (4, 40), (1, 1), (40, 3)])
@pytest.mark.parametrize("half_widths", [disk_half_widths(5), ellipse_half_widths(4)])
def test_dilation_agrees_with_scipy_also_where_the_footprint_exceeds_the_image(
    height: int, width: int, half_widths: list[int]
) -> None:
    values = torch.randint(-50, 50, (2, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    lowest = np.iinfo(np.int32).min
    for plane, dilated in zip(values, dilate(values, half_widths), strict=True):
        expected = ndimage.grey_dilation(plane.numpy(), footprint=footprint(half_widths), mode="constant", cval=lowest)
        np.testing.assert_array_equal(dilated.numpy(), expected)


@pytest.mark.parametrize("void", [False, True])
@pytest.mark.parametrize(("height", "width"), [(60, 83), (150, 480)])  # the second has radii 1 to 4
def test_mba_is_its_definition(void: bool, height: int, width: int) -> None:
    for seed in range(3):
        prediction, target = random_labels(seed, height, width, void)
        expected = mba_by_definition(prediction.numpy(), target.numpy())
        assert mean_boundary_accuracy(prediction, target) == pytest.approx(expected, abs=1e-12)
        assert 0.1 < expected < 0.95


@pytest.mark.parametrize("void", [False, True])
def test_boundary_f_is_its_definition(void: bool) -> None:
    prediction, target = random_labels(0, 40, 53, void)
    target[target == 3] = 2  # a class that only the prediction has
    prediction[prediction == 1] = 2  # and one that only the truth has
    tolerances = (0, 1, 3, 5)
    scores = boundary_f_scores(prediction, target, CLASSES + 1, tolerances)
    expected = [
        [f_by_definition(prediction.numpy(), target.numpy(), c, tolerance) for c in range(CLASSES + 1)]
        for tolerance in tolerances
    ]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), equal_nan=True, rtol=0, atol=1e-12)
    assert scores[:, 1].eq(0).all()
    assert scores[:, 3].eq(0).all()
    assert scores[:, CLASSES].isnan().all()


def test_boundary_f_of_more_classes_than_a_word_has_bits() -> None:
    prediction, target = random_labels(0, 40, 53)
    spread = torch.tensor([0, 62, 63, 64, 149])  # of CLASSES
    many = torch.where(target == VOID, VOID, spread[target.clamp(max=CLASSES - 1)])
    scores = boundary_f_scores(spread[prediction], many, 150, (1, 3))
    few = boundary_f_scores(prediction, target, CLASSES, (1, 3))
    torch.testing.assert_close(scores[:, spread], few, equal_nan=True, rtol=0, atol=0)
    assert scores.isnan().sum() == few.isnan().sum() + 2 * (150 - CLASSES)


def boundary_region_by_definition(labels: np.ndarray, valid: np.ndarray, c: int, distance: int) -> np.ndarray:
    """Computes the reference's region: the mask minus its 3x3 erosions, in a frame of zeros; void counts as inside."""
    inside = np.pad((labels == c) | ~valid, 1)
    inside[0], inside[-1], inside[:, 0], inside[:, -1] = (False,) * 4
    eroded = ndimage.binary_erosion(inside, np.ones((3, 3)), iterations=distance)[1:-1, 1:-1]
    return (labels == c) & valid & ~eroded


@pytest.mark.parametrize(("ratio", "distance"), [(0.001, 1), (0.02, 2), (0.1, 10)])
@pytest.mark.parametrize("void", [False, True])
def test_boundary_iou_is_its_definition(void: bool, ratio: float, distance: int) -> None:
    prediction, target = random_labels(3, void=void)
    target[target == 4] = 2  # a class that only the prediction has
    valid = (target != VOID).numpy()
    overlap = boundary_overlap(prediction, target, CLASSES + 1, ratio)
    for c in range(CLASSES + 1):
        predicted, true = (boundary_region_by_definition(m.numpy(), valid, c, distance) for m in (prediction, target))
        assert overlap[:, c].tolist() == [(predicted & true).sum(), (predicted | true).sum()]
    metrics = SegmentationMetrics(CLASSES + 1, dilation_ratio=ratio)
    metrics.update(prediction[None], target[None])
    intersection, union = overlap[:, :CLASSES].double()
    assert metrics.compute()["boundary_iou"] == pytest.approx(float((intersection / union).mean()))


def test_overlap_metrics_agree_with_torchmetrics_over_batches() -> None:
    metrics = SegmentationMetrics(CLASSES + 2)  # two classes that never occur
    jaccard = MulticlassJaccardIndex(CLASSES + 2, ignore_index=VOID)
    accuracy = MulticlassAccuracy(CLASSES + 2, ignore_index=VOID, average="micro")
    for seed in range(3):
        prediction, target = (labels[None] for labels in random_labels(seed))
        metrics.update(prediction, target)
        jaccard.update(prediction, target)
        accuracy.update(prediction, target)
    result = metrics.compute()
    assert result["miou"] == pytest.approx(float(jaccard.compute()), abs=1e-6)
    assert result["pixel_accuracy"] == pytest.approx(float(accuracy.compute()), abs=1e-6)
    assert math.isnan(result["iou/6"])
    assert result["miou"] == pytest.approx(np.mean([result[f"iou/{c}"] for c in range(CLASSES)]))


def test_a_data_set_is_averaged_over_images_then_classes() -> None:
    pairs = [random_labels(seed, 40, 53) for seed in range(3)]
    pairs[0][1][pairs[0][1] == 4] = 0
    pairs[0][0][pairs[0][0] == 4] = 0  # the first image is without class 4 on either side
    metrics = SegmentationMetrics(CLASSES, tolerances=(1, 3))
    metrics.update(torch.stack([p for p, _ in pairs[:2]]), torch.stack([t for _, t in pairs[:2]]))
    metrics.update(pairs[2][0][None], pairs[2][1][None])
    result = metrics.compute()
    expected = np.nanmean([mba_by_definition(p.numpy(), t.numpy()) for p, t in pairs])
    assert result["mba"] == pytest.approx(expected)
    for tolerance in (1, 3):
        scores = [[f_by_definition(p.numpy(), t.numpy(), c, tolerance) for c in range(CLASSES)] for p, t in pairs]
        assert result[f"boundary_f_{tolerance}px"] == pytest.approx(np.nanmean(np.nanmean(scores, 0)))


def test_a_perfect_prediction_scores_one_everywhere() -> None:
    _, target = random_labels(0)
    prediction = torch.where(target == VOID, 3, target)
    metrics = SegmentationMetrics(CLASSES, class_names=["a", "b", "c", "d", "e"])
    metrics.update(prediction[None], target[None])
    result = metrics.compute()
    assert set(result.values()) == {1.0}
    assert [name for name in result if name.startswith("iou/")] == ["iou/a", "iou/b", "iou/c", "iou/d", "iou/e"]


def test_what_is_predicted_on_void_changes_nothing() -> None:
    prediction, target = random_labels(1)
    results = []
    for fill in (0, 4):
        metrics = SegmentationMetrics(CLASSES)
        metrics.update(torch.where(target == VOID, fill, prediction)[None], target[None])
        results.append(metrics.compute())
    assert results[0] == results[1]


def test_a_void_speck_makes_no_boundary() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.int64)
    target[0, 8:11, 8:11] = VOID
    metrics = SegmentationMetrics(2)
    metrics.update(torch.zeros_like(target), target)
    result = metrics.compute()
    assert math.isnan(result["mba"])
    assert math.isnan(result["boundary_f_1px"])
    assert result["pixel_accuracy"] == 1


def test_an_image_without_anything_valid_is_left_out() -> None:
    prediction, target = (labels[None] for labels in random_labels(2))
    alone, with_void = SegmentationMetrics(CLASSES), SegmentationMetrics(CLASSES)
    alone.update(prediction, target)
    with_void.update(prediction, target)
    with_void.update(prediction, torch.full_like(target, VOID))
    assert with_void.compute() == alone.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_no_image_at_all_gives_nan() -> None:
    assert all(math.isnan(value) for value in SegmentationMetrics(2).compute().values())


def test_a_shifted_boundary_is_within_tolerance_from_its_shift_on() -> None:
    target = torch.zeros(1, 30, 40, dtype=torch.uint8)
    target[..., 20:] = 1
    metrics = SegmentationMetrics(2, tolerances=(1, 2, 3, 5))
    metrics.update(target.roll(3, 2).masked_fill(torch.arange(40) < 3, 0).long(), target)
    result = metrics.compute()
    assert [result[f"boundary_f_{t}px"] for t in (1, 2, 3, 5)] == [0, 0, 1, 1]


def halves() -> tuple[SegmentationMetrics, SegmentationMetrics, SegmentationMetrics]:
    """The metrics of four images, of the first two, and of the last two."""
    whole, first, second = (SegmentationMetrics(CLASSES) for _ in range(3))
    for seed in range(4):
        pair = [labels[None] for labels in random_labels(seed, 40, 53)]
        whole.update(*pair)
        (first if seed < 2 else second).update(*pair)
    return whole, first, second


def test_two_halves_merge_into_the_whole() -> None:
    whole, first, second = halves()
    alone = second.compute()
    second.merge_state(pickle.loads(pickle.dumps(first)))
    assert second.compute() == whole.compute() != alone
    second.reset()
    assert second.regions.confusion.sum() == second.boundaries.overlap.sum() == len(second.boundaries.f_scores) == 0
    with pytest.raises(TypeError, match="incoming_state must be a SegmentationMetrics, got RegionMetrics"):
        first.merge_state(RegionMetrics(CLASSES))


def test_a_call_gives_the_metrics_of_its_batch_and_adds_it() -> None:
    called, updated = SegmentationMetrics(CLASSES), SegmentationMetrics(CLASSES)
    for seed in range(2):
        pair = [labels[None] for labels in random_labels(seed, 40, 53)]
        alone = SegmentationMetrics(CLASSES)
        alone.update(*pair)
        assert called(*pair) == alone.compute()
        updated.update(*pair)
    assert called.compute() == updated.compute()


def test_processes_that_synchronise_get_the_numbers_of_the_whole() -> None:
    whole, first, second = halves()
    for part, other in ((first.regions, second.regions), (first.boundaries, second.boundaries)):
        theirs = iter([torch.cat(value) if isinstance(value, list) else value for value in other.metric_state.values()])

        def gather(mine: torch.Tensor, group: object, theirs: Iterator[torch.Tensor] = theirs) -> list[torch.Tensor]:
            return [mine, next(theirs)]

        part.dist_sync_fn, part.distributed_available_fn = gather, lambda: True
    assert first.compute() == whole.compute()


def test_regions_and_boundaries_are_usable_alone() -> None:
    prediction, target = (labels[None] for labels in random_labels(0))
    whole = SegmentationMetrics(CLASSES, tolerances=(2,), class_names="abcde")
    regions, boundaries = RegionMetrics(CLASSES, class_names="abcde"), BoundaryMetrics(CLASSES, tolerances=(2,))
    for metrics in (whole, regions, boundaries):
        metrics.update(prediction, target)
    assert list(regions.compute()) == ["miou", "pixel_accuracy", *(f"iou/{name}" for name in "abcde")]
    assert list(boundaries.compute()) == ["mba", "boundary_f_2px", "boundary_iou"]
    assert regions.compute() | boundaries.compute() == whole.compute()
    assert list(whole.compute())[:5] == ["miou", "pixel_accuracy", "mba", "boundary_f_2px", "boundary_iou"]


@pytest.mark.parametrize(
    ("dtype", "classes", "void"),
    [(torch.uint8, 256, 300), (torch.uint8, 300, 400), (torch.int8, 200, 255), (torch.int16, 300, -1)],
    ids=str,
)
def test_narrow_labels_score_as_wide_ones(dtype: torch.dtype, classes: int, void: int) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randint(100, (2, 24, 24), generator=generator) for _ in range(2))
    found, expected = SegmentationMetrics(classes, void), SegmentationMetrics(classes, void)
    found.update(prediction.to(dtype), target.to(dtype))
    expected.update(prediction, target)
    for metric in (found, expected):
        assert metric.regions.confusion.sum() == 2 * 24 * 24
    assert found.compute().items() == expected.compute().items() or str(found.compute()) == str(expected.compute())


def test_a_void_that_the_dtype_cannot_hold_wraps_nowhere() -> None:
    target = torch.full((8, 8), 156, dtype=torch.uint8)  # -100 would wrap around to 156
    target[:, 4:] = 1
    wide = target.long()
    for score in (
        lambda x: mean_boundary_accuracy(x, x, -100),
        lambda x: boundary_f_scores(x, x, 200, (1,), -100).nansum(),
        lambda x: boundary_overlap(x, x, 200, 0.1, -100).sum(),
    ):
        assert score(target) == score(wide) > 0


def test_bad_labels_are_refused_by_name() -> None:
    metrics = SegmentationMetrics(3)
    good = torch.zeros(1, 4, 4, dtype=torch.int64)
    with pytest.raises(TypeError, match="prediction must hold integer class ids, got"):
        metrics.update(good.float(), good)
    with pytest.raises(ValueError, match=r"same shape.*\(1, 4, 4\) and \(1, 4, 5\)"):
        metrics.update(good, torch.zeros(1, 4, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"prediction must hold class ids 0 .. 2, got \[255\]"):
        metrics.update(good + 255, good)
    with pytest.raises(ValueError, match=r"target must hold class ids 0 .. 2, got \[7\]"):
        metrics.update(good, good + 7)
    with pytest.raises(ValueError, match="dilation_ratio must be between 0 and 1, got 2"):
        SegmentationMetrics(3, dilation_ratio=2)
    with pytest.raises(ValueError, match=r"tolerances must be a whole number of pixels, at least 0, got -1"):
        SegmentationMetrics(3, tolerances=(-1,))
    with pytest.raises(ValueError, match="class_names must name 3 classes, got 2"):
        SegmentationMetrics(3, class_names=("a", "b"))
    with pytest.raises(ValueError, match="class_names must differ, got 'a' more than once"):
        SegmentationMetrics(3, class_names=("a", "b", "a"))
