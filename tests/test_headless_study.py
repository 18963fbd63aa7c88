"""benchmarks/studies/headless and its page: known features, choices on held-out frames, and what the page says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.common import runs
from benchmarks.common.paths import RESULTS
from benchmarks.common.results import Json
from benchmarks.pages import headless as page
from benchmarks.studies.headless import __main__ as program
from benchmarks.studies.headless import features, study
from benchmarks.studies.headless.arms import ARMS
from benchmarks.studies.headless.features import FrozenModel
from benchmarks.studies.headless.study import CHOOSE, SCHEMA, SEEDS, TEST, Job, Study
from benchmarks.studies.headless.training import scored, train_head
from inverseform_fast.segmentation.datasets import build_dataset
from inverseform_fast.segmentation.models.backbones import TimmBackbone

TINY: Json = {"backbone": "test_resnet", "crop": (32, 64), "steps": 3, "batch_size": 2}


@pytest.fixture
def small(tmp_path: Path) -> Study:
    """On three procedural scenes, with a backbone that is not pretrained."""
    return Study(
        runs=tmp_path / "runs", schedule=TINY, data="scenes", held_out=("train", "val"), seeds=(0, 1),
        data_options={"size": [48, 64], "length": 3},
    )  # fmt: skip


def pretended(job: Job, **metrics: float) -> Json:
    """The result of a job that nobody did."""
    return {
        "stage": job.stage, "label": job.label, "seed": job.config.seed, "arm": job.arm, "weights": list(job.weights),
        "config": job.config.to_dict(), "cpu_seconds": 30.0, "metrics": dict.fromkeys(page.COLUMNS, 0.5) | metrics,
    }  # fmt: skip


def pretend_choices(of: Study, best: Mapping[str, int] = {}) -> None:
    """Every weight of every arm was tried, and those at the given place were better."""
    for name, arm in ARMS.items():
        for place, weights in enumerate(arm.weights):
            better = 0.1 * (place == best.get(name, 0))
            of.finished.append(pretended(of.candidate(name, weights), mba=0.5 + better))


def test_known_features_are_those_of_the_backbone(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    backbone = TimmBackbone("test_resnet", 4, pretrained=False).eval()
    monkeypatch.setattr(features, "TimmBackbone", lambda *_: backbone)
    frames = small.frames("train")
    config = small.candidate("head", (10,)).config
    model = FrozenModel(config, small.tasks).eval()
    known, labels = frames.batch([2, 0], [True, False])

    dataset = build_dataset("scenes", "train", **small.data_options)
    samples = features.Transformed(dataset, features.EvalTransform(dataset.tasks, TINY["crop"]))
    images = torch.stack((samples[2]["image"].flip(-1), samples[0]["image"]))
    whole = FrozenModel(config, small.tasks).eval().model
    whole.backbone = backbone
    for name, expected in whole({"image": images}).items():
        torch.testing.assert_close(model(known)[name], expected, rtol=1e-2, atol=1e-2)
    assert torch.equal(labels.long(), torch.stack((samples[2]["semantic"].flip(-1), samples[0]["semantic"])))

    monkeypatch.setattr(features, "_computed", lambda *_: pytest.fail("computed again"))
    assert torch.equal(small.frames("train").features[0], frames.features[0])


def test_training_is_decided_by_the_seed_and_lowers_the_loss(small: Study) -> None:
    config = replace(small.candidate("ce", ()).config, steps=30, lr=1e-2, warmup=0)
    frames, seen = small.frames("train"), []

    def train(seed: int) -> dict[str, float]:
        losses: list[float] = []
        make = ARMS["ce"].make(())

        def loss(predictions: Mapping[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
            losses.append(make(predictions, labels).item())
            return make(predictions, labels)

        model, seconds = train_head(replace(config, seed=seed), small.tasks, frames, loss)
        assert seconds > 0
        seen.append(losses)
        return scored(model, small.tasks["semantic"], frames, batch_size=2)

    first, again, other = train(0), train(0), train(1)
    assert first == pytest.approx(again, nan_ok=True)
    assert first["miou"] != other["miou"]
    assert seen[0] == seen[1] != seen[2]
    assert seen[0][-1] < 0.7 * seen[0][0]


def test_a_loss_that_is_not_finite_ends_the_training(small: Study) -> None:
    with pytest.raises(FloatingPointError, match="the loss is not finite at step 0: nan"):
        train_head(
            small.candidate("ce", ()).config, small.tasks, small.frames("train"),
            lambda predictions, _: predictions["semantic"].sum() * torch.nan,
        )  # fmt: skip


def test_an_arm_is_trained_once(small: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    job = small.candidate("head", (3,))
    small.run(job, "this machine")
    (run,) = small.finished
    assert (run["stage"], run["label"], run["weights"]) == (CHOOSE, "head 3", [3])
    assert 0 <= run["metrics"]["boundary_f_3px"] <= 1
    monkeypatch.setattr(study, "train_head", lambda *_: pytest.fail("trained again"))
    small.run(job, "this machine")
    assert small.finished == [run]
    with pytest.raises(ValueError, match=r"with another lr, weights: move them away"):
        small.run(replace(job, weights=(4,), config=replace(job.config, lr=1.0)), "this machine")


@pytest.mark.parametrize("name", program.STUDIES)
def test_committed_results_are_gone_on_from(name: str) -> None:
    finished = runs.load(RESULTS / f"headless_{name}.json")
    real = program.STUDIES[name](finished=list(finished))
    for run in finished:
        with suppress(KeyError):  # of an arm whose weights are not chosen yet
            chosen = run["stage"] == TEST
            job = real.test(run["arm"], run["seed"]) if chosen else real.candidate(run["arm"], tuple(run["weights"]))
            real.run(job, "this machine")
    assert real.finished == finished


def test_weights_are_chosen_on_held_out_frames(small: Study) -> None:
    with pytest.raises(KeyError):
        small.test("dice", 0)
    pretend_choices(small, {"dice": 1, "dice-headless": 2})
    assert small.test("dice", 0).weights == ARMS["dice"].weights[1]
    job = small.test("dice-headless", 1)
    assert job.weights == ARMS["dice-headless"].weights[2]
    assert (job.config.train_split, job.config.eval_split, job.config.seed) == ("train", "test", 1)
    real = Study()
    for name, arm in ARMS.items():
        config = real.candidate(name, arm.weights[0]).config
        assert (config.train_split, config.eval_split, config.seed) == ("fit", "holdout", 0)
        assert config.boundary_head == (name in ("head", "paper", "dice-edge-head"))


def test_jobs_are_every_choice_and_then_every_seed(small: Study) -> None:
    pretend_choices(small)
    jobs = list(small.jobs())
    assert [job.arm for job in jobs[: len(ARMS)]] == list(ARMS)
    stages = [job.stage for job in jobs]
    assert stages == sorted(stages)
    main = sum(arm.main for arm in ARMS.values())
    assert stages.count(CHOOSE) == sum(len(arm.weights) for arm in ARMS.values())
    assert stages.count(TEST) == main + len(ARMS)


def test_program_trains_what_is_missing(small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(program.STUDIES, "study", lambda *_, **options: replace(small, **options))
    out = tmp_path / "results.json"
    arguments = ["headless", "--root", str(tmp_path), "--out", str(out), "--arms", "ce", "--seeds"]
    monkeypatch.setattr("sys.argv", arguments)
    program.main()
    assert [runs.key_of(run) for run in runs.load(out)] == [(CHOOSE, "ce", 0)]
    monkeypatch.setattr("sys.argv", [*arguments, "0"])
    program.main()
    assert [runs.key_of(run) for run in runs.load(out)] == [(CHOOSE, "ce", 0), (TEST, "ce", 0)]


def write(root: Path, finished: list[Json]) -> dict[str, str]:
    """The page's parts where these trainings are finished."""
    path = root / "benchmarks/results/headless_study.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write(path, SCHEMA, finished, {})
    return page.parts(root)


TRIES = sum(len(arm.weights) for arm in ARMS.values())
TESTS = sum(len(SEEDS) if arm.main else 1 for arm in ARMS.values())


def test_page_of_nothing_and_of_little(small: Study, tmp_path: Path) -> None:
    parts = page.parts(tmp_path)
    assert f"**0 of {TRIES} trainings" in parts["state"]
    assert (
        "no result yet. Which of our losses is compared with the rivals is not decided yet. Until then"
        in parts["state"]
    )
    assert parts["choices"] == parts["scores"] == parts["against-ce"] == parts["against-rivals"] == page.NOTHING
    parts = write(tmp_path, [pretended(small.candidate("dice", (1,)), miou=0.25)])
    assert "| + Dice: 1 | 50.00 | 50.00 | 50.00 | 25.00 | 50.00 | 41.67 | 10.00 |" in parts["choices"]
    assert "not decided yet" in parts["state"]


def test_page_says_what_the_results_say(small: Study, tmp_path: Path) -> None:
    pretend_choices(small, {"per-class": 1})
    small.finished.append(pretended(small.candidate("per-class", ARMS["per-class"].weights[1]), mba=0.9))
    for seed, ours in enumerate((0.6, 0.62, 0.64)):
        small.finished.append(pretended(small.test("ce", seed), miou=0.5))
        small.finished.append(pretended(small.test("per-class", seed), miou=ours))
        small.finished.append(pretended(small.test("dice", seed), miou=0.65))
    parts = write(tmp_path, small.finished)
    counts = f"**{TRIES} of {TRIES} trainings to choose weights and 9 of {TESTS} on test frames are finished.**"
    assert counts in parts["state"]
    assert "*+ headless BCE per class*" in parts["state"]
    assert "no result yet" not in parts["state"]
    assert "| + headless BCE per class: 1 | 50.00 | 50.00 | 50.00 | 50.00 | 90.00 | **63.33** |" in parts["choices"]
    assert "| + headless BCE per class | 1 | 3 | 50.00 ± 0.00 |" in parts["scores"]
    (line,) = (x for x in parts["against-ce"].splitlines() if x.startswith("| + headless BCE per class minus"))
    # Student's 95 % interval of 10, 12 and 14: 12 ± 4.303 * 2 / sqrt 3; p is 2 / 8 twice over.
    assert "| 3 |" in line
    assert "| +12.00 [+7.03, +16.97], p 0.5 |" in line
    assert len(parts["against-ce"].splitlines()) == 4
    assert [x.split("|")[1].strip() for x in parts["against-rivals"].splitlines()[2:]] == [
        "+ headless BCE per class minus cross-entropy",
        "+ headless BCE per class minus + Dice",
    ]
