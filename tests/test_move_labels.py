"""Labels that are moved, against what whole shifts and one homography of the image do to them."""

from __future__ import annotations

import pytest
import torch
from helpers import some_labels

import inverseform_fast as iff
from inverseform_fast import homography
from inverseform_fast.functional import homography_warp, move_labels

LABELS = some_labels((2, 60, 80), 7)
backends = pytest.mark.parametrize("backend", ["auto", "reference"])


@backends
@pytest.mark.parametrize(("x", "y"), [(5, 0), (0, -7), (-3, 4)])
def test_a_shift_by_whole_pixels_moves_all_labels(backend: str, x: int, y: int) -> None:
    motion = torch.zeros(2, 3, 1, 8)
    motion[..., 0], motion[..., 1] = 2 * x / 80, 2 * y / 60
    with iff.set_backend(backend):
        moved, displacement = move_labels(motion, LABELS)
    expected = torch.full_like(LABELS, 255)
    rows, columns = torch.arange(60) + y, torch.arange(80) + x
    inside = ((rows >= 0) & (rows < 60))[:, None] & ((columns >= 0) & (columns < 80))
    expected[:, inside] = LABELS[:, rows.clamp(0, 59)][:, :, columns.clamp(0, 79)][:, inside]
    assert torch.equal(moved, expected)
    torch.testing.assert_close(displacement, torch.tensor([x, y]).view(1, 2, 1, 1).expand(2, 2, 60, 80).float())


@backends
def test_one_homography_reads_as_a_warp_does(backend: str, generator: torch.Generator) -> None:
    a = homography.sample(2, 0.1, generator=generator)
    with iff.set_backend(backend):
        moved, _ = move_labels(a[:, None, None].expand(2, 3, 5, 8), LABELS)
    warped = homography_warp(LABELS[:, None] + 1, homography.exp(a), mode="nearest")[:, 0] - 1  # -1 outside
    assert (moved == warped.where(warped >= 0, 255)).float().mean() > 0.98  # the flow is exact at points alone
    assert (moved != LABELS).float().mean() > 0.1
