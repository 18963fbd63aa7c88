"""benchmarks/studies/displaced and its page: displaced labels, how near they are, arms that move them, tables."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.common import runs
from benchmarks.common.labels import VOID, composed, read_at
from benchmarks.common.paired import block_interval
from benchmarks.common.results import Json
from benchmarks.pages import displaced as page
from benchmarks.studies.displaced import study
from benchmarks.studies.displaced.arms import ALIGNED, ARMS, DESCENT, EXACT, GIVEN, PERMUTED, SHIPPED, TUNED, TWICE
from benchmarks.studies.displaced.displacements import Setting, displaced, motion_of
from benchmarks.studies.displaced.nearness import boundary_distance
from benchmarks.studies.displaced.registration import Descent
from benchmarks.studies.displaced.study import DisplacedJob, DisplacedStudy, derangement
from benchmarks.studies.headless.study import CHOOSE
from inverseform_fast import homography
from inverseform_fast.functional import boundary_map, homography_warp
from inverseform_fast.inverse_net.config import TuneConfig
from inverseform_fast.scenes import street

SIZE = (64, 96)
HOMOGRAPHY = Setting("homography", 8)


@pytest.fixture(scope="module")
def labels() -> Tensor:
    return street.label_maps(3, *SIZE, torch.Generator().manual_seed(0)).to(torch.uint8)


def square(left: int, top: int, edge: int = 20, around: int = 0) -> Tensor:
    """Labels (1, H, W) of one square."""
    scene = torch.full((1, *SIZE), around, dtype=torch.uint8)
    scene[:, top : top + edge, left : left + edge] = 1
    return scene


def constant(x: float, y: float) -> Tensor:
    return torch.tensor([float(x), float(y)])[None, :, None, None].expand(1, 2, *SIZE)


def test_labels_are_read_at_a_displacement(labels: Tensor) -> None:
    moved = read_at(labels[:1], constant(3, -2))
    assert torch.equal(moved[:, 2:, :-3], labels[:1, :-2, 3:])
    assert (moved[:, :2] == VOID).all()
    assert (moved[:, :, -3:] == VOID).all()
    twice = read_at(read_at(square(30, 30), constant(3, -2)), constant(-5, 1))
    assert torch.equal(twice == 1, square(32, 31) == 1)
    assert torch.equal(twice == 1, read_at(square(30, 30), composed(constant(3, -2), constant(-5, 1))) == 1)


def test_distance_of_boundaries() -> None:
    def halves(place: int) -> Tensor:
        return (torch.arange(SIZE[1]) >= place).to(torch.uint8).expand(1, *SIZE).contiguous()

    # The boundary is two pixels wide, so of a line that is 7 px away one pixel is 6 px from the other's nearest.
    assert boundary_distance(halves(40), halves(47)).item() == pytest.approx(6.5)
    assert boundary_distance(halves(40), halves(40)).item() == 0
    assert boundary_distance(halves(40), halves(0)).isnan().all()


@pytest.mark.parametrize("kind", ["homography", "objects", "coarse"])
def test_the_seed_and_the_image_decide_the_labels(labels: Tensor, kind: str) -> None:
    first, again, other = (displaced(labels, Setting(kind, 12), seed).labels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert all((a != b).any() for a, b in zip(first, other, strict=True))
    twins = displaced(labels[:1].repeat(2, 1, 1), Setting(kind, 12), 0).labels
    assert (twins[0] != twins[1]).any()
    assert torch.equal(displaced(labels, EXACT, 0).labels, labels)


def test_homographies_have_the_length_that_is_asked_for(labels: Tensor) -> None:
    shift = motion_of(torch.tensor([[0.25, 0, 0, 0, 0, 0, 0, 0]]), SIZE)  # a quarter of half the width
    torch.testing.assert_close(shift, constant(12, 0))
    made = displaced(labels, HOMOGRAPHY, 0)
    assert made.motion is not None
    corners = made.motion[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] / torch.tensor([SIZE[1], SIZE[0]])[:, None] * 224
    assert 4 < corners.norm(dim=1).mean() < 12
    assert ((made.labels == VOID) | torch.isin(made.labels, labels)).all()


def test_objects_move_on_their_own() -> None:
    truth = torch.maximum(square(10, 20), 2 * square(60, 20))
    truth[0, :5] = VOID
    moved = displaced(truth, Setting("objects", 9), 3).labels
    assert torch.equal(moved == VOID, truth == VOID)
    found = []
    for class_id, left in ((1, 10), (2, 60)):  # gaps may make a square larger, but it is still there
        mask = (moved[0] == class_id).float()[None, None]
        whole = torch.nn.functional.avg_pool2d(mask, 20, stride=1)[0, 0] == 1
        shifts = {(y - 20, x - left) for y, x in whole.nonzero().tolist()}
        assert shifts
        assert all(math.hypot(*shift) < 12 for shift in shifts)
        found.append(shifts)
    assert found[0].isdisjoint(found[1])


def test_coarse_outlines_have_few_corners() -> None:
    y, x = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 48) ** 2 < 24**2).to(torch.uint8)[None]
    disc[0, :, :40] = VOID
    whole = torch.where(disc == VOID, 0, disc)
    fine, rough = (displaced(whole, Setting("coarse", px), 0).labels for px in (2, 50))
    assert boundary_distance(fine, whole) < 0.8 < 1.5 < boundary_distance(rough, whole) < 12
    assert torch.equal(displaced(disc, Setting("coarse", 20), 0).labels == VOID, disc == VOID)


def test_descent_finds_a_homography() -> None:
    target = (boundary_map(street.label_maps(4, 64, 64, torch.Generator().manual_seed(1))) == 1).float()[:, None]
    a = homography.sample(4, 1, generator=torch.Generator().manual_seed(0))
    a = 0.12 * a / a.norm(dim=1, keepdim=True)
    found = Descent(blur=4, rate=1, steps=60, tile=64).algebra(homography_warp(target, homography.exp(a)), target)
    truth, estimate = homography.exp(a), homography.exp(found)
    left, before = homography.corner_displacement(estimate, truth), homography.corner_displacement(truth)
    assert left.mean() < 0.6 * before.mean()
    assert (left < before).all()


def test_no_image_keeps_its_own_place() -> None:
    order = derangement(9, 0)
    assert sorted(order.tolist()) == list(range(9))
    assert (order != torch.arange(9)).all()


@pytest.fixture
def small(net: str, tmp_path: Path) -> DisplacedStudy:
    """On procedural scenes, with a backbone that is not pretrained and a small network to tune."""
    return DisplacedStudy(
        runs=tmp_path / "features", models=tmp_path / "models", data="scenes", held_out=("train", "val"),
        tested=("train", "val"), seeds=(0,), data_options={"size": [48, 64], "length": 3}, settings=[HOMOGRAPHY],
        schedule={"backbone": "test_resnet", "crop": (32, 64), "steps": 3, "batch_size": 2},
        tuning=TuneConfig(net=net, steps=2, batch_size=4, max_pixels=4.0),
        arms=ARMS | {DESCENT: replace(ARMS[DESCENT], weights=((4, 1, 2, 0), (4, 2, 2, 0)))},
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:net has no noise figure")
def test_every_arm_is_done_once(small: DisplacedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    for job in small.jobs():
        small.run(job, "this machine")
    found = {run["label"]: run for run in small.finished}
    assert len(found) == 2 * 2 + len(ARMS)
    metrics = {name: found[f"homography 8 {name}"]["metrics"] for name in ARMS}
    assert all(0 <= each["boundary_f_3px"] <= 1 and "block/0" in each for each in metrics.values())
    assert metrics[GIVEN]["before_px"] == metrics[SHIPPED]["before_px"] > 0
    assert metrics[SHIPPED]["noise_px"] is None
    assert metrics[TUNED]["noise_px"] > 0
    assert all("after_px" in metrics[name] for name in (ALIGNED, TWICE, PERMUTED))
    models = (small.models / "train/homography-8-0").glob("*.pt")
    assert sorted(path.name for path in models) == ["model0.pt", "model1.pt", "model2.pt"]
    assert found["homography 8 given"]["net"] is None
    tried = [run for run in small.finished if run["stage"] == CHOOSE and "homography 8" in run["label"]]
    assert [run["weights"][1] for run in tried] == [1, 2]
    monkeypatch.setattr(study, "train_head", lambda *_: pytest.fail("trained again"))
    again = replace(small, finished=list(small.finished))
    for job in again.jobs():
        again.run(job, "this machine")
    assert again.finished == small.finished
    next(run for run in again.finished if run["label"] == "homography 8 shipped")["net"] = "another"
    with pytest.raises(ValueError, match="with other shipped weights: move them away"):
        again.run(again.test(SHIPPED, 0, HOMOGRAPHY), "this machine")
    with pytest.raises(ValueError, match="was trained with another steps: move it away"):
        replace(small, schedule=small.schedule | {"steps": 4}, finished=[]).run(
            replace(small.test(GIVEN, 0, HOMOGRAPHY), config=replace(small.test(GIVEN, 0).config, steps=4)), "here"
        )


def test_goals_come_first_seed_by_seed() -> None:
    real = DisplacedStudy(arms={name: ARMS[name] for name in (GIVEN, ALIGNED, TUNED)})
    jobs = list(real.jobs())
    main = ("homography 8", "homography 16", "exact")
    assert [job.label for job in jobs[:6]] == [f"{setting} {arm}" for setting in main for arm in (GIVEN, ALIGNED)]
    assert [job.config.seed for job in jobs[: 6 * 12 : 6]] == list(range(12))
    assert [job.label for job in jobs[6 * 12 :][:3]] == [f"{setting} {TUNED}" for setting in main]
    assert len(jobs) == 6 * 12 + 3 * 3 + 5 * 3 * 3  # three seeds where no goal is set
    with pytest.raises(KeyError):
        DisplacedStudy().test(DESCENT, 0)


def pretended(job: DisplacedJob, f_score: float, **metrics: float) -> Json:
    """The result of a job that nobody did."""
    blocks = {"block/0": f_score + 0.01, "block/1": f_score - 0.01}
    return {
        "stage": job.stage, "label": job.label, "seed": job.config.seed, "arm": job.arm, "weights": list(job.weights),
        "metrics": dict.fromkeys(page.ENDPOINTS, 0.5) | {"boundary_f_3px": f_score} | blocks | metrics,
    }  # fmt: skip


PLANNED = 3 * 3 * 12 + (5 + 5 + 3) * 3 + 5 * 8 * 3  # where a goal is set; the rest there; five settings of eight arms


def test_page_says_what_the_results_say(tmp_path: Path) -> None:
    assert f"**0 of {PLANNED} trainings and 0 of 16 tries" in page.parts(tmp_path)["state"]
    pretend = DisplacedStudy()
    finished = []
    for seed in range(3):
        near = {"before_px": 3.0, "after_px": 1.0, "better": 0.75, "noise_px": 4.0}
        finished += [
            pretended(pretend.test(GIVEN, seed, HOMOGRAPHY), 0.3 + 0.01 * seed),
            pretended(pretend.test(ALIGNED, seed, HOMOGRAPHY), 0.37 + 0.01 * seed, **near),
            pretended(pretend.test(GIVEN, seed, EXACT), 0.4 + 0.01 * seed),
        ]
    for place, weights in enumerate(ARMS[DESCENT].weights):
        tries = (pretend.candidate(DESCENT, weights, setting) for setting in page.CHOSEN_ON)
        finished += [pretended(job, 0, after_px=1 + (place - 2) ** 2) for job in tries]
    path = tmp_path / "benchmarks/results/displaced_study.json"
    path.parent.mkdir(parents=True)
    runs.write(path, study.SCHEMA, finished, {})
    parts = page.parts(tmp_path)
    assert f"**9 of {PLANNED} trainings and 16 of 16 tries" in parts["state"]
    assert "| homography 8: aligner | 3 | 3.00 | 1.00 | 75% | - | - | 4.00 |" in parts["registration"]
    (line,) = (x for x in parts["given-back"].splitlines() if x.startswith("| homography 8: aligner |"))
    assert line == "| homography 8: aligner | - | 70% | - | - | - | 3 of 3 | +7.00 [+7.00, +7.00] |"
    assert "| 3 | +0.00 [+0.00, +0.00], p 1 | +7.00 [+7.00, +7.00], p 0.25 |" in parts["differences"]
    assert parts["choices"].count("**") == 2
    assert "| **16, 2, 60, 0** | 1.00 | 1.00 |" in parts["choices"]


def test_interval_over_blocks() -> None:
    assert block_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    low, high = block_interval([0.0, 1.0] * 50)
    # The mean of 100 tosses of a coin has a standard deviation of 0.05.
    assert low == pytest.approx(0.4, abs=0.02)
    assert high == pytest.approx(0.6, abs=0.02)
