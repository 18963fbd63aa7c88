"""The alignment study's starts, losses and counts are what it says; nothing is measured here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from benchmarks.common import results
from benchmarks.common.markdown import filled
from benchmarks.pages import alignment as page
from benchmarks.studies.alignment import study
from benchmarks.studies.alignment.__main__ import named
from benchmarks.studies.alignment.descent import PIXEL, WARP, agreement, descend, warp_outcome
from benchmarks.studies.alignment.losses import OTHERS, inverseform_losses, mix, signed_distance
from benchmarks.studies.alignment.starts import Starts, Truth, corners, displaced, distances, make_starts, warped
from inverseform_fast.nets import Align
from inverseform_fast.scenes.shapes import label_maps

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def maps() -> Tensor:
    return label_maps(5, 360, 480, Generator().manual_seed(0))


@pytest.fixture
def starts(maps: Tensor) -> Starts:
    return make_starts(maps, torch.tensor([2, 8, 24]), Generator().manual_seed(0))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    Align().save(tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def square(size: int, place: int = 40) -> Tensor:
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., place : place + size, place : place + size] = 1
    return mask


def truth(mask: Tensor) -> Truth:
    return Truth(mask, *distances(mask))


def test_starts_are_displaced_as_asked(starts: Starts) -> None:
    torch.testing.assert_close(corners(starts.a), torch.tensor([2.0, 8.0, 24.0]), rtol=1e-3, atol=0)
    at_home = warped(starts.squares, torch.zeros(3, 8))
    torch.testing.assert_close(at_home, starts.truth.boundary, rtol=0, atol=1e-3)
    assert displaced(starts).ne(starts.truth.boundary > 0).flatten(1).any(1).all()


def test_distances_are_euclidean() -> None:
    mask = torch.rand(2, 1, 9, 7, generator=Generator().manual_seed(0)) > 0.7
    places = torch.stack(torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij"), -1).flatten(0, 1)
    between = torch.cdist(places, places)
    outside, inside = distances(mask)
    for one, out, within in zip(mask.flatten(1), outside.flatten(1), inside.flatten(1), strict=True):
        torch.testing.assert_close(out, between[:, one].amin(1))
        torch.testing.assert_close(within, between[:, ~one].amin(1))
    assert all(not field.any() for field in distances(torch.zeros(1, 1, 9, 7)))


def test_every_loss_prefers_the_match_and_has_a_gradient(starts: Starts, net: Path) -> None:
    losses = inverseform_losses({"net": net}) | OTHERS
    assert len(losses) == 8
    for name, loss in (losses | {"mix": mix(losses["InverseForm (net, log)"])}).items():
        match = loss(starts.truth.boundary, starts.truth)
        assert loss(displaced(starts).float(), starts.truth) > match, name
        nothing = torch.zeros_like(starts.truth.boundary, requires_grad=True)
        loss(nothing, starts.truth).backward()
        assert nothing.grad is not None
        assert nothing.grad.isfinite().all(), name
        assert nothing.grad.any(), name


def test_boundary_loss_is_negative_inside_alone() -> None:
    """It is 0 on the mask's outermost pixels, as in Kervadec et al.'s own distance maps."""
    one = truth(square(5))
    inside = torch.zeros_like(one.boundary)
    inside[..., 42, 42] = 1
    assert signed_distance(inside, one).item() * inside.numel() == pytest.approx(-2)
    assert signed_distance(inside.roll(10, -1), one).item() * inside.numel() == pytest.approx(8)


def test_descent_of_one_row_does_not_depend_on_the_others() -> None:
    aim = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    both = descend(torch.zeros(2, 2), lambda x: (x - aim).square().sum(), 0.3, 100)
    one = descend(torch.zeros(1, 2), lambda x: (x - aim[1:]).square().sum(), 0.3, 100)
    torch.testing.assert_close(both, aim, rtol=0, atol=0.1)
    torch.testing.assert_close(both[1:], one)


def test_home_is_within_a_pixel(maps: Tensor) -> None:
    near = make_starts(maps, torch.tensor([0.9, 1.1, 0.5, 6.0]), Generator().manual_seed(0))
    outcome = warp_outcome(lambda predicted, _: 0 * predicted.sum(), near, 1.0, 2)
    assert (outcome["home"], outcome["of"]) == (2, 4)
    low, high = outcome["interval"]
    assert 0 < low < 0.5 < high < 1


def test_agreement_is_f_score_and_distance() -> None:
    one = truth(square(5))
    assert agreement(square(5) > 0, one) == {"f_1px": 1, "distance_px": 0}
    assert agreement(square(5).roll(1, -1) > 0, one)["f_1px"] == 1
    assert agreement(square(1, 50) > 0, one)["distance_px"] == pytest.approx(6 * 2**0.5)
    assert agreement(square(0) > 0, one)["f_1px"] == 0


def warp_results(ours: list[int], theirs: list[int]) -> dict[str, Any]:
    def row(homes: list[int]) -> dict[str, Any]:
        return {"outcomes": {str(px): {"home": k, "of": 100} for px, k in zip((6, 12, 16), homes, strict=True)}}

    return {"ours": row(ours)} | dict.fromkeys(OTHERS, row(theirs))


@pytest.mark.parametrize(
    ("ours", "theirs", "home", "ahead"),
    [
        ([95, 95, 10], [99, 94, 9], True, True),
        ([95, 94, 10], [99, 10, 9], False, True),
        ([99, 99, 10], [99, 10, 10], True, False),
    ],
)
def test_the_goal_is_met_only_near_home_and_ahead_of_the_others(
    ours: list[int], theirs: list[int], home: bool, ahead: bool
) -> None:
    assert study.goal(warp_results(ours, theirs), "ours") == {"loss": "ours", "home": home, "ahead": ahead}


def test_from_weights_to_page(maps: Tensor, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "WARP", replace(WARP, displacements=(4, 12), rates=(1.0,)))
    monkeypatch.setattr(study, "PIXEL", replace(PIXEL, displacements=(4,)))
    result = empty_result({"net": {"sha256": "1"}})
    saved: list[int] = []

    def save() -> None:
        saved.append(len(result["warp"]) + len(result["pixel"]))

    study.measure(result, {"net": net}, maps, maps, save)
    assert saved == [*range(1, 16), 15]
    assert len(result["warp"]) == 8
    assert len(result["pixel"]) == 7
    text = page.tables(result)
    for name in (*result["warp"], *result["pixel"]):
        assert f"| {name} | " in text
    filled_in = filled((ROOT / "docs/measured/alignment.md").read_text(), "alignment", text)
    assert text in filled_in
    assert filled(filled_in, "alignment", text) == filled_in
    labels = {label.get_text() for label in page.drawn(result).axes[0].texts}
    assert labels == set(result["warp"])


def test_a_stopped_run_goes_on_and_new_networks_are_added(tmp_path: Path) -> None:
    earlier = empty_result({"old": {"sha256": "1"}, "changed": {"sha256": "2"}})
    names = ("MSE", "InverseForm (old, log)", "InverseForm (changed, log)", "InverseForm (gone, log)")
    earlier["warp"] = {name: {"rate": 1} for name in names}
    earlier["pixel"] = {"InverseForm (old, log) + balanced BCE": {"rate": 2}}
    path = tmp_path / "alignment.json"
    results.write(path, earlier)
    result = empty_result({"old": {"sha256": "1"}, "changed": {"sha256": "3"}, "older": {"sha256": "4"}})
    study.keep_rows(path, result)
    assert list(result["warp"]) == ["MSE", "InverseForm (old, log)"]
    assert list(result["pixel"]) == ["InverseForm (old, log) + balanced BCE"]
    other = empty_result({"old": {"sha256": "1"}}) | {"steps": 2}
    study.keep_rows(path, other)
    study.keep_rows(tmp_path / "none.json", other)
    assert not other["warp"]


def empty_result(nets: dict[str, Any]) -> dict[str, Any]:
    conditions = {"machine": {"device": "a CPU", "threads": 1}, "data": "shapes", "starts": 1, "steps": 1, "seed": 0}
    return conditions | {"nets": nets, "warp": {}, "pixel": {}}


def test_names_of_networks() -> None:
    assert named("dense=a/b.safetensors") == ("dense", Path("a/b.safetensors"))
    assert named("a/b.safetensors") == ("b", Path("a/b.safetensors"))
