"""The metrics of edges, saliency, normals, depth and parts equal definitions written out here, in NumPy and SciPy."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from inverseform_fast.segmentation.metrics import (
    DepthMetrics,
    EdgeMetrics,
    NormalMetrics,
    RegionMetrics,
    SaliencyMetrics,
    delta_m,
)
from inverseform_fast.segmentation.metrics.edges import matched_pixels, thin

VOID = 255.0


def smooth(seed: int, *shape: int) -> np.ndarray:
    """Draws smooth fields of unit variance."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), (*[0] * (len(shape) - 2), 3, 3))
    return field / field.std()


def with_void(target: Tensor, void: float = VOID) -> Tensor:
    """Makes a corner of each map void."""
    target = target.clone()
    target[..., :6, :9] = void
    return target


def probabilities(seed: int, count: int = 3, size: tuple[int, int] = (26, 34)) -> tuple[Tensor, Tensor]:
    """Draws probabilities (N, H, W) and a target of 0, 1 and void that resembles them."""
    field = smooth(seed, count, *size)
    noisy = field + 0.7 * smooth(seed + 100, count, *size)
    return torch.from_numpy(1 / (1 + np.exp(-2 * noisy))).float(), with_void(torch.from_numpy(field > 0.6).float())


# Thinning and matching


def thinned_by_definition(image: np.ndarray) -> np.ndarray:
    """Repeats MATLAB's documented conditions G1, G2 and G3 pixel by pixel; x[1] is the east, and they turn left."""
    image = np.pad(image.astype(int), 1)
    while True:
        before = image.copy()
        for second in (False, True):
            now = image.copy()
            for r, c in zip(*np.nonzero(now), strict=True):
                places = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
                x = [0, *(now[r + down, c + right] for down, right in places)]
                x.append(x[1])
                crossings = sum(x[2 * i - 1] == 0 and (x[2 * i] or x[2 * i + 1]) for i in range(1, 5))
                n1 = sum(x[2 * i - 1] or x[2 * i] for i in range(1, 5))
                n2 = sum(x[2 * i] or x[2 * i + 1] for i in range(1, 5))
                third = (x[6] or x[7] or not x[4]) and x[5] if second else (x[2] or x[3] or not x[8]) and x[1]
                if crossings == 1 and 2 <= min(n1, n2) <= 3 and not third:
                    image[r, c] = 0
        if (image == before).all():
            return image[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize("seed", range(4))
def test_thinning_is_its_definition_and_keeps_what_is_connected(seed: int) -> None:
    image = smooth(seed, 60, 41) > 0.3
    thinned = thin(torch.from_numpy(image)).numpy()
    assert (thinned == thinned_by_definition(image)).all()
    pieces = ndimage.label(image, np.ones((3, 3)))[1]
    assert ndimage.label(thinned, np.ones((3, 3)))[1] == pieces
    assert thinned.sum() < 0.3 * image.sum()


def test_each_bit_is_thinned_alone() -> None:
    images = [torch.from_numpy(smooth(seed, 20, 30) > 0) for seed in range(5)]
    planes = sum(image.long() << place for image, place in zip(images, (0, 1, 31, 32, 62), strict=True))
    assert isinstance(planes, Tensor)
    for image, place in zip(images, (0, 1, 31, 32, 62), strict=True):
        assert torch.equal((thin(planes) >> place & 1).bool(), thin(image))


def pairs_by_assignment(predicted: np.ndarray, true: np.ndarray, tolerance: float) -> int:
    """Counts the matches of Berkeley's assignment of minimum cost, where an outlier costs 100 tolerances."""
    here, there = (np.argwhere(mask) for mask in (predicted, true))
    distance = np.linalg.norm(here[:, None] - there[None], axis=2)
    n, m = distance.shape
    cost = np.full((n + m, n + m), 100 * tolerance)
    cost[:n, :m] = np.where(distance <= tolerance, distance, 1e6)
    cost[n:, m:] = 0
    rows, columns = linear_sum_assignment(cost)
    return int(((rows < n) & (columns < m)).sum())


@pytest.mark.parametrize("tolerance", [1.0, 2.0, 3.0])
def test_the_matching_has_as_many_pairs_as_the_assignment_of_minimum_cost(tolerance: float) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        predicted, true = rng.random((12, 15)) < 0.25, rng.random((12, 15)) < 0.2
        assert matched_pixels(predicted, true, int(tolerance**2)) == pairs_by_assignment(predicted, true, tolerance)


def line(*columns: int, size: tuple[int, int] = (96, 128)) -> Tensor:
    """Draws vertical lines, one pixel wide; the tolerance of this size, 0.0075 * 160, is 1.2 pixels."""
    edges = torch.zeros(1, *size)
    edges[..., list(columns)] = 1
    return edges


@pytest.mark.parametrize(
    ("predicted", "true", "odsf", "bound"),
    [
        (line(40), line(40), 1, 1),
        (line(41), line(40), 1, 1),  # within the tolerance
        (line(42), line(40), 0, 0),  # beyond it
        (line(39, 41), line(40), 2 / 3, 1),  # only one line of two can match: P = 1/2, R = 1
        (line(40), line(39, 41), 2 / 3, 1),  # P = 1, R = 1/2
        (line(40), line(40, 80), 2 / 3, 2 / 3),
        (line(40, 80), line(40), 2 / 3, 2 / 3),
        (line(39, 40, 41), line(40), 1, 1),  # a thick line is thinned
        (line(), line(40), 0, 0),
    ],
)
def test_odsf_of_lines_whose_matching_is_known(predicted: Tensor, true: Tensor, odsf: float, bound: float) -> None:
    exact, fast = EdgeMetrics(), EdgeMetrics(matching="dilation")
    exact.update(0.7 * predicted, true)
    fast.update(0.7 * predicted, true)
    # Thinning takes the lines' ends away, a few pixels of 96 each.
    assert exact.compute() == {"odsf": pytest.approx(odsf, abs=0.015)}
    assert fast.compute() == {"odsf_bound": pytest.approx(bound, abs=0.015)}


def test_odsf_takes_one_threshold_for_the_whole_data_set() -> None:
    metric = EdgeMetrics()
    metric.update(0.9 * line(40) + 0.4 * line(80), line(40))  # the best threshold is above 0.4
    assert metric.compute()["odsf"] == pytest.approx(1)
    metric.update(0.4 * line(40), line(40))  # and here at most 0.4: P = 2/3 and R = 1, or P = 1 and R = 1/2
    assert metric.compute()["odsf"] == pytest.approx(0.8)


def test_void_hides_both_sides_of_edges() -> None:
    void = line(40, 80)
    void[..., 70:] = VOID
    hidden, clear = EdgeMetrics(), EdgeMetrics()
    hidden.update(line(40, 90), void)
    clear.update(line(40), line(40))
    assert hidden.compute() == clear.compute()
    assert torch.equal(hidden.counts, clear.counts)


@pytest.mark.parametrize("size", [(26, 34), (9, 150)])  # their tolerances are 0.3 and 1.1 pixels
def test_odsf_is_its_definition(size: tuple[int, int]) -> None:
    prediction, target = probabilities(5, 2, size)
    exact, fast = EdgeMetrics(), EdgeMetrics(matching="dilation")
    exact.update(prediction, target)
    fast.update(prediction, target)
    tolerance = 0.0075 * math.hypot(*size)
    f, bounds = [], []
    for threshold in np.linspace(0.01, 0.99, 99).astype(np.float32):
        counts = np.zeros(5)
        for probability, truth in zip(prediction.numpy(), target.numpy(), strict=True):
            predicted = thin(torch.from_numpy((probability >= threshold) & (truth != VOID))).numpy()
            true = thin(torch.from_numpy(truth == 1)).numpy()
            right, found = (
                (ndimage.distance_transform_edt(~there)[here] <= tolerance).sum() if there.any() else 0
                for here, there in ((predicted, true), (true, predicted))
            )
            counts += predicted.sum(), true.sum(), right, found, pairs_by_assignment(predicted, true, tolerance)
        predicted, true, right, found, pairs = counts
        f.append(2 * pairs / (predicted + true))
        bounds.append(2 * right * found / max(right * true + found * predicted, 1))
    assert exact.compute()["odsf"] == pytest.approx(max(f))
    assert fast.compute()["odsf_bound"] == pytest.approx(max(bounds))
    assert 0.1 < max(f) < 0.9
    assert (max(f) < max(bounds)) == (tolerance > 1)


# Saliency


def saliency_by_definition(predictions: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    miou, maxf = [], []
    for threshold in np.linspace(0.2, 0.9, 15).astype(np.float32):
        ious, precisions, recalls = [], [], []
        for prediction, target in zip(predictions, targets, strict=True):
            valid = target != VOID
            predicted, true = prediction[valid] > threshold, target[valid] == 1
            hits = (predicted & true).sum()
            ious.append(hits / (predicted | true).sum() if (predicted | true).any() else 1.0)
            precisions.append(hits / (predicted.sum() + 1e-12))
            recalls.append(hits / (true.sum() + 1e-12))
        precision, recall = np.mean(precisions), np.mean(recalls)
        miou.append(np.mean(ious))
        maxf.append(2 * precision * recall / (precision + recall + 1e-12))
    return float(max(miou)), float(max(maxf))


def test_saliency_is_its_definition() -> None:
    prediction, target = probabilities(0, 5)
    target[1] = torch.where(target[1] == 1, 0, target[1])  # nothing is salient here
    prediction[1] *= 0.3
    metric = SaliencyMetrics()
    metric.update(prediction[:3], target[:3])
    metric.update(prediction[3:], target[3:])
    miou, maxf = saliency_by_definition(prediction.numpy(), target.numpy())
    assert metric.compute() == pytest.approx({"miou": miou, "maxf": maxf})
    assert 0.2 < miou != maxf < 0.95


def test_an_image_with_nothing_salient_has_iou_one_and_a_void_one_does_not_count() -> None:
    metric = SaliencyMetrics()
    metric.update(torch.zeros(2, 4, 5), torch.stack((torch.zeros(4, 5), torch.full((4, 5), VOID))))
    assert metric.compute() == {"miou": 1, "maxf": 0}
    assert int(metric.images) == 1


# Normals and depth


def test_angles_of_normals_are_their_definition() -> None:
    target = torch.nn.functional.normalize(torch.from_numpy(smooth(0, 4, 3, 20, 30)), dim=1).float()
    prediction = target + 0.4 * torch.from_numpy(smooth(1, 4, 3, 20, 30)).float()
    target = with_void(target)
    metric = NormalMetrics()
    metric.update(prediction[:1], target[:1])
    metric.update(3 * prediction[1:], target[1:])  # their length does not matter
    p, t = (maps.double().permute(0, 2, 3, 1).numpy() for maps in (prediction, target))
    p, t = p[t[..., 0] != VOID], t[t[..., 0] != VOID]
    angle = np.degrees(np.arctan2(np.linalg.norm(np.cross(p, t), axis=1), (p * t).sum(1)))
    expected = {"mean": angle.mean(), "median": np.median(angle), "rmse": np.sqrt((angle**2).mean())}
    expected |= {f"within_{limit:g}": (angle < limit).mean() for limit in (11.25, 22.5, 30)}
    values = metric.compute()
    assert values.keys() == expected.keys()
    assert values["median"] == pytest.approx(expected.pop("median"), abs=0.03)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-3)
    assert 0.1 < values["within_11.25"] < values["within_30"] < 0.95


@pytest.mark.parametrize(("degrees", "within"), [(0, (1, 1, 1)), (20, (0, 1, 1)), (29.99, (0, 0, 1)), (180, (0, 0, 0))])
def test_an_angle_that_is_known(degrees: float, within: tuple[float, ...]) -> None:
    metric = NormalMetrics()
    radians = math.radians(degrees)
    metric.update(
        torch.tensor([math.sin(radians), 0, math.cos(radians)]).view(1, 3, 1, 1),
        torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1),
    )
    values = list(metric.compute().values())
    assert values[:3] == pytest.approx([degrees] * 3, abs=0.02)
    assert tuple(values[3:]) == within


def test_errors_of_depth_are_their_definition() -> None:
    target = torch.from_numpy(np.exp(smooth(0, 3, 20, 30)) + 0.5).float()
    prediction = target + 0.3 * torch.from_numpy(smooth(1, 3, 20, 30)).float()
    prediction[0, 12, 12] = -1  # its logarithm is that of 1e-9
    target = with_void(target, 0)
    metric = DepthMetrics()
    metric.update(prediction[:1], target[:1])
    metric.update(prediction[1:], target[1:])
    p, t = (maps.double().numpy()[target != 0] for maps in (prediction, target))
    log_rmse = np.sqrt(((np.log(np.maximum(p, 1e-9)) - np.log(t)) ** 2).mean())
    assert metric.compute() == pytest.approx({"rmse": np.sqrt(((p - t) ** 2).mean()), "log_rmse": log_rmse})


# Parts


def test_a_part_that_never_occurs_counts_zero() -> None:
    prediction, target = (torch.from_numpy(np.random.default_rng(s).integers(0, 3, (2, 9, 9))) for s in (0, 1))
    iou = [((prediction == c) & (target == c)).sum() / ((prediction == c) | (target == c)).sum() for c in range(3)]
    metric, usual = RegionMetrics(5, absent=0.0), RegionMetrics(5)
    metric.update(prediction, target)
    usual.update(prediction, target)
    assert metric.compute()["miou"] == pytest.approx(float(sum(iou)) / 5)
    assert usual.compute()["miou"] == pytest.approx(float(sum(iou)) / 3)


def test_delta_m_counts_errors_the_other_way_round() -> None:
    scores, baselines = (
        {"semantic": 44.0, "depth": 0.57, "normals": 20.0},
        {"semantic": 40.0, "depth": 0.6, "normals": 16.0},
    )
    assert delta_m(scores, baselines, ("depth", "normals")) == pytest.approx((10 + 5 - 25) / 3)
    assert delta_m(baselines, baselines, ("depth",)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, {}), "baselines must be of the tasks , got"),
        (({"a": 1.0}, {"b": 1.0}), "baselines must be of the tasks a, got b"),
        (({"a": 1.0}, {"a": 0.0}), "baselines must be positive, got 0.0 of a"),
        (({"a": 1.0}, {"a": 1.0}, ["b"]), r"lower_is_better must name tasks of scores \(a\), got b"),
    ],
)
def test_delta_m_of_other_tasks_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        delta_m(*arguments)


# What all of them share


def normals_and_depth(seed: int) -> tuple[Tensor, Tensor]:
    maps = torch.from_numpy(smooth(seed, 2, 3, 3, 20, 30)).float()
    return maps[0], torch.nn.functional.normalize(maps[1], dim=1)


METRICS: dict[str, tuple[Callable[[], Metric], Callable[[int], tuple[Tensor, Tensor]], float]] = {
    "edges": (EdgeMetrics, probabilities, VOID),
    "saliency": (SaliencyMetrics, probabilities, VOID),
    "normals": (NormalMetrics, normals_and_depth, VOID),
    "depth": (DepthMetrics, lambda seed: (probabilities(seed)[0], 0.1 + probabilities(seed + 1)[0]), 0),
}
every_metric = pytest.mark.parametrize("name", METRICS)


@every_metric
def test_two_halves_merge_and_synchronize_into_the_whole(name: str) -> None:
    make, draw, _ = METRICS[name]
    whole, first, second, idle = (make() for _ in range(4))
    for seed, part in itertools.product(range(2), (first, second)):
        pair = draw(seed + (10 if part is second else 0))
        part.update(*pair)
        whole.update(*pair)
    expected = pytest.approx(whole.compute())
    theirs = iter(list(second.metric_state.values()))
    first = pickle.loads(pickle.dumps(first))
    synchronized = pickle.loads(pickle.dumps(first))
    synchronized.dist_sync_fn = lambda mine, group: [mine, next(theirs)]
    synchronized.distributed_available_fn = lambda: True
    assert synchronized.compute() == expected
    first.merge_state(second)
    first.merge_state(idle)  # of a process without an image
    assert first.compute() == expected != second.compute()
    first.reset()
    assert all(not state.any() for state in first.metric_state.values())  # type: ignore[union-attr]


@every_metric
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_void_counts_for_nothing_and_nothing_gives_nan(name: str) -> None:
    make, draw, void = METRICS[name]
    prediction, target = draw(0)
    target = with_void(target, void)
    results = []
    for fill in (0.2, 0.9):
        metric = make()
        metric.update(with_void(prediction, fill), target)
        metric.update(prediction, torch.full_like(target, void))
        results.append(metric.compute())
    assert results[0] == results[1]
    nothing = make()
    nothing.update(prediction, torch.full_like(target, void))
    assert all(math.isnan(value) for value in (*nothing.compute().values(), *make().compute().values()))


@every_metric
def test_a_bad_argument_is_named(name: str) -> None:
    make, draw, _ = METRICS[name]
    prediction, target = draw(0)
    shapes = "prediction and target must have the same shape"
    with pytest.raises(ValueError, match=shapes):
        make().update(prediction, target[..., 1:])
    with pytest.raises(ValueError, match=shapes):
        make().update(prediction[None], target[None])
    with pytest.raises(TypeError, match=r"prediction must be floating point, got torch\.int64"):
        make().update(prediction.long(), target)
    with pytest.raises(ValueError, match="prediction must be finite"):
        make().update(with_void(prediction, math.nan), target)
    if name in ("edges", "saliency"):
        with pytest.raises(ValueError, match=r"prediction must hold probabilities, 0 to 1, got .* to 7"):
            make().update(with_void(prediction, 7), target)
        with pytest.raises(ValueError, match=r"target must hold 0, 1 and 255 \(void\), got 0.5"):
            make().update(prediction, with_void(target, 0.5))
    if name == "depth":
        with pytest.raises(ValueError, match=r"target must hold positive depth and 0 \(void\), got -1"):
            make().update(prediction, with_void(target, -1))


def test_an_unknown_matching_is_named() -> None:
    with pytest.raises(ValueError, match="matching must be 'one-to-one' or 'dilation', got 'greedy'"):
        EdgeMetrics(matching="greedy")  # type: ignore[arg-type]
