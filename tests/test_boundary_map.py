"""boundary_map equals its definition, written as loops, and agrees with SciPy's distance transform."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import assert_same_when_called, boundary_map_by_definition, some_labels, ways
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.ndimage import distance_transform_edt as edt
from torch import Tensor

from inverseform_fast.checks import LABEL_DTYPES
from inverseform_fast.functional import boundary_map

SHAPES = [(2, 7, 9), (1, 1, 13), (1, 11, 1), (2, 1, 1), (1, 2, 5), (0, 3, 4)]
ids = st.sampled_from([0, 1, 2, 7, 255])
maps = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=ids).map(torch.from_numpy)
radii = st.integers(1, 4)
examples = settings(max_examples=60, deadline=None, derandomize=True)


def by_distance(labels: np.ndarray, radius: int, ignore_index: int = 255) -> np.ndarray:
    """Finds, for each class, the pixels whose nearest pixel of another valid class is within the radius."""
    valid = labels != ignore_index
    result = np.where(valid, 0, 255).astype(np.uint8)
    for class_id in np.unique(labels[valid]):
        others = valid & (labels != class_id)
        if others.any():
            result[(labels == class_id) & (edt(~others) <= radius)] = 1
    return result


def by_public_release(labels: np.ndarray, radius: int, classes: list[int]) -> np.ndarray:
    """Computes the release's map: pixels whose distance to the contour of any class but 0 is at most the radius."""
    result = np.zeros(labels.shape, np.uint8)
    for class_id in classes:
        mask = np.pad(labels == class_id, 1)
        distance = (edt(mask) + edt(1 - mask))[1:-1, 1:-1]
        distance[distance > radius] = 0
        result[distance > 0] = 1
    return result


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_map_is_its_definition(shape: tuple[int, ...], radius: int) -> None:
    labels = some_labels(shape, 3)
    result = boundary_map(labels, radius)
    assert result.dtype == torch.uint8
    assert result.equal(boundary_map_by_definition(labels, radius))


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_the_map_agrees_with_the_distance_transform(radius: int) -> None:
    labels = some_labels((2, 61, 83), 11, seed=radius)
    expected = np.stack([by_distance(image, radius) for image in labels.numpy()])
    np.testing.assert_array_equal(boundary_map(labels, radius), expected)


def test_radius_defaults_to_two() -> None:
    labels = some_labels((1, 9, 9), 3)
    assert boundary_map(labels).equal(boundary_map(labels, 2))
    assert not boundary_map(labels).equal(boundary_map(labels, 1))


@pytest.mark.parametrize("dtype", LABEL_DTYPES, ids=str)
@pytest.mark.parametrize("release", [False, True])
def test_every_integer_type(dtype: torch.dtype, release: bool) -> None:
    labels = some_labels((2, 9, 11), 4, void=100)
    expected = boundary_map(labels, ignore_index=100, release=release)
    assert boundary_map(labels.to(dtype), ignore_index=100, release=release).equal(expected)


@pytest.mark.parametrize("ignore_index", [255, 0, -1, -100, 1000])
def test_any_id_may_mark_void(ignore_index: int) -> None:
    labels = some_labels((1, 9, 11), 3, void=None) + 254  # 254, 255, 256: class ids like any other
    labels[0, 4] = ignore_index
    assert boundary_map(labels, 2, ignore_index).equal(boundary_map_by_definition(labels, 2, ignore_index))


@pytest.mark.parametrize(("dtype", "ignore_index"), [(torch.uint8, -1), (torch.uint8, 256 + 7), (torch.int8, 255)])
def test_a_void_id_that_the_type_cannot_hold_marks_nothing(dtype: torch.dtype, ignore_index: int) -> None:
    labels = torch.tensor([[[7, 7, 255, 1, 1, 1, 1]]]).to(dtype)
    assert boundary_map(labels, 2, ignore_index).tolist() == [[[1, 1, 1, 1, 1, 0, 0]]]


def test_a_small_map_is_as_drawn_by_hand() -> None:
    row = torch.tensor([[[3, 3, 3, 3, 5, 5, 255, 3, 255, 255, 255, 8]]])
    assert boundary_map(row, 1).tolist() == [[[0, 0, 0, 1, 1, 0, 255, 0, 255, 255, 255, 0]]]
    assert boundary_map(row, 2).tolist() == [[[0, 0, 1, 1, 1, 1, 255, 1, 255, 255, 255, 0]]]


@pytest.mark.parametrize(("fill", "expected"), [(0, 0), (7, 0), (255, 255)])
def test_one_class_has_no_boundary_and_void_is_void(fill: int, expected: int) -> None:
    assert boundary_map(torch.full((2, 5, 6), fill)).unique().tolist() == [expected]


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("shape", [(2, 41, 37), (1, 1, 9), (1, 8, 1)], ids=str)
def test_release_with_absent_classes(shape: tuple[int, ...], radius: int) -> None:
    labels = some_labels(shape, 6)
    expected = [by_public_release(image, radius, list(range(1, 20))) for image in labels.numpy()]
    np.testing.assert_array_equal(boundary_map(labels, radius, release=True), np.stack(expected))


@pytest.mark.parametrize("radius", [3, 4])
def test_release_at_larger_radii(radius: int) -> None:
    """All classes are present: SciPy's distance to an absent one is undefined, and below 3 only in the cropped ring."""
    labels = some_labels((2, 41, 37), 6)
    expected = [by_public_release(x, radius, sorted(set(x.flat) - {0, 255})) for x in labels.numpy()]
    np.testing.assert_array_equal(boundary_map(labels, radius, release=True), np.stack(expected))


@examples
@given(maps, radii, st.booleans())
def test_commutes_with_flips_and_transposition(labels: Tensor, radius: int, release: bool) -> None:
    result = boundary_map(labels[None], radius, release=release)[0]
    changes: list[Callable[[Tensor], Tensor]] = [Tensor.t, Tensor.fliplr, Tensor.flipud]
    for change in changes:
        assert boundary_map(change(labels)[None], radius, release=release)[0].equal(change(result))


@examples
@given(maps, radii, st.permutations(range(1, 10)), st.booleans())
def test_class_ids_are_only_names(labels: Tensor, radius: int, names: list[int], release: bool) -> None:
    renamed = labels.clone()
    for class_id in (1, 2, 7):  # 0 is special in the release, 255 everywhere
        renamed[labels == class_id] = 100 * names[class_id]
    before, after = (boundary_map(x[None], radius, release=release) for x in (labels, renamed))
    assert before.equal(after)


@examples
@given(maps, radii)
def test_grows_with_the_radius(labels: Tensor, radius: int) -> None:
    assert (boundary_map(labels[None], radius) <= boundary_map(labels[None], radius + 1)).all()


@ways
@pytest.mark.parametrize("release", [False, True])
def test_layout_context_and_compiler_change_nothing(way: str, release: bool) -> None:
    assert_same_when_called(way, boundary_map, some_labels((2, 9, 11), 4), 3, release=release)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.complex64, torch.uint16], ids=str)
def test_labels_of_another_type_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"labels must be of an integer dtype.*, got {dtype}"):
        boundary_map(torch.zeros(1, 4, 4).to(dtype))


def test_labels_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TypeError, match="labels must be a tensor, got ndarray"):
        boundary_map(np.zeros((1, 4, 4), np.uint8))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 4), (1, 0, 4), (1, 4, 0)], ids=str)
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels must have shape \(N, H, W\), got \(" + ", ".join(map(str, shape))):
        boundary_map(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("radius", [0, -1, 2.0, "2"])
def test_radius_is_a_whole_number_from_one(radius: int) -> None:
    with pytest.raises(ValueError, match=f"radius must be a whole number of pixels, at least 1, got {radius!r}"):
        boundary_map(torch.zeros(1, 4, 4, dtype=torch.long), radius)


def test_compiled_code_builds_and_agrees() -> None:
    labels = some_labels((2, 19, 23), 5)
    compiled = torch.compile(boundary_map, fullgraph=True)
    assert torch.equal(compiled(labels), boundary_map(labels))
