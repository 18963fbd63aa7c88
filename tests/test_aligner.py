"""Labels go where the prediction sees them; all that nobody measured stays, and nothing tears."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import inverseform_fast as iff
from inverseform_fast.nets import Align
from inverseform_fast.segmentation.datasets import Scenes

CLASSES = 12
NOISE = 3 / 112  # 3 px of a tile of 224


class Reads(Align):
    """A network that reads the given coefficients (T, 8) off the tiles of every image."""

    def __init__(self, coefficients: Tensor, noise: float | None = None, tile: int = 32) -> None:
        super().__init__(tile)
        self.coefficients, self.noise = coefficients, noise

    def algebra(self, predicted: Tensor, target: Tensor) -> Tensor:
        return self.coefficients.repeat(len(predicted) // len(self.coefficients), 1)


@pytest.fixture(scope="module", params=["classes", "network"])
def aligner(request: pytest.FixtureRequest) -> iff.LabelAligner:
    if request.param == "classes":
        return iff.LabelAligner()
    net = iff.InverseTransformNet.compact()
    net.noise = NOISE
    return iff.LabelAligner(net)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    return Scenes("val", size=(224, 288), length=3).labels


def seen(labels: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Logits of a model that is sure of these labels; void is one more class."""
    ids = labels.long().clamp(max=CLASSES - 1)
    logits = 20 * F.one_hot(ids, CLASSES).movedim(-1, 1).float()
    return logits if size is None else F.interpolate(logits, size, mode="bilinear")


def displaced(labels: Tensor, x: int, y: int) -> Tensor:
    """Labels moved to the right and down; void where they come from outside."""
    height, width = labels.shape[-2:]
    padded = F.pad(labels, (abs(x), abs(x), abs(y), abs(y)), value=255)
    return padded[..., abs(y) - y : abs(y) - y + height, abs(x) - x : abs(x) - x + width].contiguous()


def wrong(labels: Tensor, truth: Tensor) -> float:
    """Share of pixels with another class than the truth, where neither is void."""
    return (labels != truth)[(labels != 255) & (truth != 255)].float().mean().item()


def folds(displacement: Tensor) -> bool:
    """Whether the map of pixels is mirrored anywhere: the Jacobian of the smallest squares is not positive."""
    height, width = displacement.shape[-2:]
    x = displacement[:, 0] + torch.arange(width)
    y = displacement[:, 1] + torch.arange(height)[:, None]
    along, down = (lambda v: v[..., :-1, 1:] - v[..., :-1, :-1]), (lambda v: v[..., 1:, :-1] - v[..., :-1, :-1])
    return bool((along(x) * down(y) - along(y) * down(x) <= 0).any())


@pytest.mark.parametrize(("x", "y"), [(9, 0), (-5, 7), (0, -14)])
@pytest.mark.parametrize("size", [None, (56, 72)], ids=["logits of the labels' size", "smaller logits"])
def test_displaced_labels_are_moved_back(
    aligner: iff.LabelAligner, scenes: Tensor, x: int, y: int, size: tuple[int, int] | None
) -> None:
    labels = displaced(scenes, x, y)
    logits = seen(scenes, size)
    moved, displacement, tiles, _ = aligner.align(logits, labels)
    assert wrong(moved, scenes) < 0.35 * wrong(labels, scenes)
    assert (displacement.mean((0, 2, 3)) - torch.tensor([x, y])).abs().max() < 2.5
    assert tiles.all()
    assert not folds(displacement)
    assert torch.equal(moved, aligner(logits, labels))
    assert torch.equal(displacement, aligner.displacement(logits, labels))


def test_a_boundary_head_decides_alone(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    labels = displaced(scenes, 8, -6)
    boundary = 12 * (iff.functional.boundary_map(scenes)[:, None] == 1).float() - 6
    moved = aligner(seen(labels), labels, boundary)  # the segmentation says that nothing is displaced
    assert wrong(moved, scenes) < 0.35 * wrong(labels, scenes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_exact_labels_stay_as_they_are(aligner: iff.LabelAligner, scenes: Tensor, dtype: torch.dtype) -> None:
    labels = scenes.to(dtype)
    noisy = seen(scenes) + torch.randn(seen(scenes).shape, generator=torch.Generator().manual_seed(0))
    moved, displacement, tiles, finite = aligner.align(noisy, labels)
    assert moved.dtype == dtype
    assert torch.equal(moved, labels)
    assert not displacement.any()
    assert not tiles.any()
    assert finite.all()


def test_ids_of_any_size_and_void_survive(scenes: Tensor) -> None:
    labels = displaced(scenes, 8, 8)
    ids = labels.long() + 2**40
    ids[labels == 255] = -1
    net = iff.InverseTransformNet.compact()
    net.noise = NOISE
    moved = iff.LabelAligner(net, ignore_index=-1)(seen(scenes), ids)
    expected = iff.LabelAligner(net)(seen(scenes), labels)
    assert torch.equal(moved, torch.where(expected == 255, -1, expected.long() + 2**40))


def test_what_lies_outside_is_void() -> None:
    shift = torch.tensor([[4.0, -6, 0, 0, 0, 0, 0, 0]]) / 16  # pixels to the right and down, in half tiles
    labels = stripes(64, 64)
    moved = iff.LabelAligner(Reads(shift, noise=1e-4))(seen_once(labels), labels)
    assert torch.equal(moved[:, 6:, :-4], labels[:, :-6, 4:])
    assert (moved[:, :6] == 255).all()
    assert (moved[:, :, -4:] == 255).all()


def stripes(height: int, width: int) -> Tensor:
    """Labels with a boundary in every tile of 32 pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((x // 8 + y // 8) % 2)[None]


def seen_once(labels: Tensor) -> Tensor:
    return 20 * F.one_hot(labels, 2).movedim(-1, 1).float()


@pytest.mark.parametrize("length", [0.1, 0.3, 0.49])
def test_neighbours_that_disagree_do_not_tear_the_labels(generator: torch.Generator, length: float) -> None:
    labels = stripes(96, 160)
    for _ in range(5):
        readings = F.normalize(torch.randn(45, 8, generator=generator), dim=1) * length
        displacement = iff.LabelAligner(Reads(readings, noise=1e-6)).displacement(seen_once(labels), labels)
        assert displacement.abs().max() > 10 * length
        assert not folds(displacement)
    opposite = torch.zeros(45, 8)
    opposite[:, 0] = length * (1 - 2 * (torch.arange(45) % 2))  # neighbours move towards each other
    assert not folds(iff.LabelAligner(Reads(opposite, noise=1e-6)).displacement(seen_once(labels), labels))


def test_one_homography_of_the_whole_image_stays_one(generator: torch.Generator) -> None:
    a = iff.homography.sample(1, 0.1, generator=generator)
    readings = []
    for row in range(5):
        for column in range(9):
            to_tile = torch.tensor([[5.0, 0, 4 - column], [0, 3, 2 - row], [0, 0, 1]])
            theta = to_tile @ iff.homography.exp(a)[0] @ to_tile.inverse()
            readings.append(iff.homography.log(theta))
    net = Reads(torch.stack(readings), noise=1e-9)
    labels = stripes(96, 160)
    displacement = iff.LabelAligner(net).displacement(seen_once(labels), labels)[0]

    y, x = torch.meshgrid(torch.arange(96) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    points = torch.stack((x / 80 - 1, y / 48 - 1, torch.ones_like(x)), -1)
    moved = points @ iff.homography.exp(a)[0].T
    expected = (moved[..., :2] / moved[..., 2:] - points[..., :2]) * torch.tensor([80.0, 48.0])
    assert expected.abs().max() > 1
    torch.testing.assert_close(displacement.movedim(0, -1), expected, rtol=0, atol=0.05)


def test_the_dead_zone_shrinks_what_is_near_the_noise() -> None:
    labels = stripes(32, 64)
    readings = torch.zeros(3, 8)
    readings[:, 0] = torch.tensor([0.09, 0.2, 0.4])
    displacement, moved = iff.LabelAligner(Reads(readings, noise=0.1)).align(seen_once(labels), labels)[1:3]
    assert moved.tolist() == [[[False, True, True]]]
    assert not displacement[..., :13].any()  # half a tile, less the flow from the right
    centre, right = displacement[0, 0, 16, [32, 52]].tolist()  # in half tiles of 16 px
    assert centre == pytest.approx(16 * 0.2 * 3 / 4, abs=0.8)
    assert right == pytest.approx(16 * 0.4 * 15 / 16, abs=0.1)


def test_tiles_that_say_nothing_are_left_alone() -> None:
    labels = stripes(32, 96)
    labels[..., :36] = 0  # one class
    logits = seen_once(labels)
    logits[..., 60:] = 0  # the model sees no boundary here
    net = Reads(torch.tensor([[0.3, 0, 0, 0, 0, 0, 0, 0]]), noise=1e-3)
    moved = iff.LabelAligner(net).align(logits, labels).moved
    assert moved.tolist() == [[[False, True, True, True, False]]]
    net.coefficients = 2 * net.coefficients  # longer than anything that a network learns
    assert torch.equal(iff.LabelAligner(net)(logits, labels), labels)


@pytest.mark.parametrize("labels", [torch.zeros(1, 48, 80), torch.full((1, 48, 80), 255)], ids=["one class", "void"])
def test_labels_of_one_kind_stay(aligner: iff.LabelAligner, scenes: Tensor, labels: Tensor) -> None:
    assert torch.equal(aligner(seen(scenes[:1]), labels.long()), labels.long())


def test_labels_smaller_than_a_tile_are_moved(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    small = scenes[:1, ::4, ::4].contiguous()
    labels = displaced(small, 3, 0)
    assert wrong(aligner(seen(small), labels), small) < 0.5 * wrong(labels, small)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_prediction_that_is_not_finite_leaves_its_own_labels_alone(
    aligner: iff.LabelAligner, scenes: Tensor, value: float
) -> None:
    labels = displaced(scenes, 9, 0)
    logits = seen(scenes)
    logits[1, 0, 3, 5] = value
    with pytest.warns(UserWarning, match=r"1 of 3 predictions are not finite; their labels stay"):
        moved = aligner(logits, labels)
    assert torch.equal(moved[1], labels[1])
    assert torch.equal(moved[::2], aligner(seen(scenes)[::2], labels[::2]))
    assert aligner.align(logits, labels).finite.tolist() == [True, False, True]


def test_a_network_without_a_noise_figure_works_and_says_so(scenes: Tensor) -> None:
    with pytest.warns(UserWarning, match="net has no noise figure, so the aligner has no dead zone"):
        aligner = iff.LabelAligner("compact")
    labels = displaced(scenes, 9, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = aligner(seen(scenes), labels)
    assert wrong(moved, scenes) < 0.35 * wrong(labels, scenes)


def test_there_is_no_gradient_and_nothing_to_train(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    model = nn.Module()
    model.aligner = copy.deepcopy(aligner)
    assert not list(model.parameters())
    assert not model.state_dict()
    model.half()
    if reader := model.aligner.reader:
        assert {parameter.dtype for parameter in reader.net.parameters()} == {torch.float32}
    alignment = aligner.align(seen(scenes).requires_grad_(), displaced(scenes, 9, 0))
    assert not alignment.displacement.requires_grad


def test_half_precision_and_autocast_change_next_to_nothing(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    labels = displaced(scenes, 9, 0)
    expected = aligner.displacement(seen(scenes), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(aligner.displacement(seen(scenes), labels), expected)
    half = aligner.displacement(seen(scenes).bfloat16(), labels)
    torch.testing.assert_close(half, expected, rtol=0, atol=0.1)


def test_a_class_may_be_impossible(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    labels, logits = displaced(scenes, 9, 0), seen(scenes)
    masked = torch.cat((logits, torch.full_like(logits[:, :1], -torch.inf)), 1)
    assert aligner.align(masked, labels).finite.all()
    assert torch.equal(aligner(masked, labels), aligner(logits, labels))


def test_the_default_dtype_changes_nothing(aligner: iff.LabelAligner, scenes: Tensor) -> None:
    labels, logits = displaced(scenes, 9, 0), seen(scenes)
    expected = aligner(logits, labels)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(aligner(logits, labels), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_compiles(scenes: Tensor) -> None:
    labels, logits = displaced(scenes, 9, 0), F.avg_pool2d(seen(scenes), 4)
    compiled = torch.compile(iff.LabelAligner(), backend="eager")
    assert torch.equal(compiled(logits, labels), iff.LabelAligner()(logits, labels))


def test_an_empty_batch_stays_empty(aligner: iff.LabelAligner) -> None:
    assert aligner(torch.zeros(0, 3, 8, 8), torch.zeros(0, 32, 32, dtype=torch.uint8)).shape == (0, 32, 32)


def test_a_network_of_odd_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="net must have tiles of an even number of pixels, got 33"):
        iff.LabelAligner(iff.InverseTransformNet.aet(tile=33))


@pytest.mark.parametrize(
    ("logits", "labels", "boundary", "error", "message"),
    [
        (torch.zeros(1, 8, 8), torch.zeros(1, 8, 8).long(), None, ValueError, r"segmentation_logits must have shape"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(2, 8, 8).long(), None, ValueError, r"labels must have shape \(1, H, W\)"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), None, TypeError, "labels must be of an integer dtype"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8).char(), None, ValueError, "a dtype that holds ignore_index=255"),
        (torch.zeros(1, 3, 8, 8).int(), torch.zeros(1, 8, 8).long(), None, TypeError, "must be floating point"),
        (
            torch.zeros(1, 3, 8, 8),
            torch.zeros(1, 8, 8).long(),
            torch.zeros(1, 2, 8, 8),
            ValueError,
            r"boundary_logits must have shape \(N, 1, h, w\)",
        ),
    ],
)
def test_bad_input_is_named(
    aligner: iff.LabelAligner,
    logits: Tensor,
    labels: Tensor,
    boundary: Tensor | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        aligner(logits, labels, boundary)


def test_a_class_without_a_channel_is_named(scenes: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\) or be ignore_index=255, found"):
        iff.LabelAligner()(torch.zeros(3, 3, 56, 72), scenes)
