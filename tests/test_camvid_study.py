"""The CamVid study trains no arm twice, chooses by held-out frames, and its page shows its results."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.common import results, runs
from benchmarks.common.results import Json
from benchmarks.pages import worth
from benchmarks.pages.worth_pictures import pictures
from benchmarks.studies import camvid_study
from benchmarks.studies.camvid_study import ARMS, CHOICES, SCHEMA, Job, Study
from inverseform_fast.bench import release

pytestmark = pytest.mark.usefixtures("no_pictures")
TINY: Json = {"backbone": "test_resnet", "crop": (32, 64), "batch_size": 2, "steps": 4, "threads": 1, "device": "cpu"}


@pytest.fixture
def study(tmp_path: Path, net: str, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study on two procedural scenes with a small network, so that a training takes a second."""
    small = {name: replace(arm, options=arm.options | {"net": net}) for name, arm in ARMS.items()}
    monkeypatch.setattr(camvid_study, "ARMS", small)
    return Study(
        runs=tmp_path / "runs", schedule=TINY, data="scenes", held_out=("train", "val"),
        data_options={"size": [48, 64], "length": 2},
    )  # fmt: skip


def pretended(job: Job, **scores: float) -> Json:
    """Makes up the result of a job that was not done."""
    metrics: Json = dict.fromkeys(
        ("miou", "mba", "boundary_f_1px", "boundary_f_3px", "boundary_f_5px", "boundary_iou"), 0.5
    )
    metrics |= {"pixel_accuracy": 0.5, "iou/Sky": 0.5, "iou/Pole": None} | scores
    curves = {"eval/miou": [[2, 0.25], [4, 0.5]], "loss/segmentation": [[4, 1.0]]}
    stage, label, seed = job.key
    return {
        "stage": stage, "label": label, "seed": seed, "device": "a machine", "config": job.config.to_dict(),
        "metrics": metrics, "curves": curves,
    }  # fmt: skip


def pretend_choices(study: Study, best: dict[str, dict[str, float]]) -> None:
    for host, choices in CHOICES.items():
        for name, values in choices.items():
            before = study.settings(host, until=name)
            for value in values:
                settings = before | {name: value}
                right = sum(settings[key] == wanted for key, wanted in best[host].items())
                study.finished.append(pretended(study.candidate(host, settings), mba=0.5 + right / 10))


def test_an_arm_is_trained_once_and_its_curves_are_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_choices(study, {host: {name: values[0] for name, values in c.items()} for host, c in CHOICES.items()})
    job = study.test("log", 0)
    study.run(job, "this machine")
    run = study.finished[-1]
    assert run["config"]["root"] is None
    assert [step for step, _ in run["curves"]["eval/miou"]] == [1, 2, 3, 4]
    assert run["curves"]["eval/miou"][-1][1] == pytest.approx(run["metrics"]["miou"], rel=1e-4)
    assert run["curves"]["loss/inverseform"][-1][0] == 4
    monkeypatch.setattr(camvid_study, "train", lambda *_, **__: pytest.fail("trained again"))
    study.run(job, "this machine")
    assert study.finished[-1] is run
    with pytest.raises(ValueError, match=r"\('test', 'log', 0\) with another lr"):
        study.run(replace(job, config=replace(job.config, lr=1.0)), "this machine")


def test_an_interrupted_training_resumes(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    job = study.candidate("head", camvid_study.START)
    Path(job.config.out).mkdir(parents=True)
    (Path(job.config.out) / camvid_study.CHECKPOINT).touch()
    resumed = []
    monkeypatch.setattr(camvid_study, "train", lambda config, resume, criterion: resumed.append(resume))
    monkeypatch.setattr(camvid_study, "result", lambda job, device: {})
    study.run(job, "this machine")
    assert resumed == [True]


def test_the_release_arm_equals_the_arm_without_its_term(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "TILE", 32)  # for its own tiles its network has 100 million parameters
    monkeypatch.setattr(release, "SIZE", (96, 192))
    settings = camvid_study.START | {"gamma": 1.0}
    monkeypatch.setattr(study, "settings", lambda host, until=None: settings)
    for name in ("boundary", "release"):
        study.run(study.test(name, 0), "this machine")
    without, with_term = study.finished
    assert with_term["curves"]["loss/inverseform"][-1][1] > 0
    assert without["metrics"].pop("seconds_per_step") > 0
    assert with_term["metrics"].pop("seconds_per_step") > 0
    assert with_term["metrics"] == without["metrics"]
    assert with_term["curves"]["loss/segmentation"] == without["curves"]["loss/segmentation"]


def test_choices_follow_the_scores_and_the_arms_follow_the_choices(study: Study) -> None:
    best = {
        "head": {"beta": 3.0, "radius": 1, "gamma": 1.0},
        "headless": {"beta": 1.0, "radius": 2, "gamma": 0.3},
    }
    pretend_choices(study, best)
    assert {host: study.settings(host) for host in CHOICES} == best
    assert study.settings("head", until="radius") == {"beta": 3.0, "radius": 2, "gamma": 0.0}
    assert study.test("ce", 0).config.gamma is None
    for name, host in (("log", "head"), ("headless-log", "headless")):
        config = study.test(name, 1).config
        assert {key: getattr(config, key) for key in best[host]} == best[host]
        assert config.boundary_head == (host == "head")
        assert (config.train_split, config.eval_split, config.seed) == ("train", "test", 1)
    late = study.test("small-tiles", 0).config
    assert (late.inverseform_start, late.resize) == (2, (448, 448))
    candidate = study.candidate("head", camvid_study.START).config
    assert (candidate.train_split, candidate.eval_split, candidate.loss) == ("train", "val", "boundary")
    assert candidate.steps < study.test("log", 0).config.steps


def test_choices_can_be_taken_over(study: Study) -> None:
    best = {"head": {"beta": 3.0, "radius": 1, "gamma": 1.0}, "headless": {"beta": 1.0, "radius": 2, "gamma": 0.3}}
    pretend_choices(study, best)
    other = replace(study, finished=[], chosen=study.finished, schedule=TINY | {"steps": 8})
    assert {job.stage for job in other.jobs()} == {"test"}
    assert other.test("log", 0).config.beta == 3.0


def test_program_trains_what_is_missing(tmp_path: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def pretend(self: Study, job: Job, device: str) -> None:
        if job.key not in map(runs.key_of, self.finished):
            trained.append(job.key)
            self.finished.append(pretended(job))

    monkeypatch.setattr(Study, "run", pretend)
    out = tmp_path / "results.json"
    arguments = ["study", "--root", str(tmp_path), "--out", str(out), "--arms", "ce", "log", "--seeds", "0"]
    monkeypatch.setattr("sys.argv", [*arguments, "--schedule", "cpu"])
    camvid_study.main()
    assert [key for key in trained if key[0] == "test"] == [("test", "ce", 0), ("test", "log", 0)]
    assert {runs.key_of(run) for run in runs.load(out)} == set(trained)
    trained.clear()
    monkeypatch.setattr("sys.argv", [*arguments, "--schedule", "gpu", "--choices", str(out), "--seeds", "0", "1"])
    camvid_study.main()
    assert trained == [("test", "ce", 1), ("test", "log", 1)]


def test_choices_are_never_scored_on_test_frames() -> None:
    study = Study()
    jobs = [study.candidate(host, camvid_study.START) for host in CHOICES]
    assert all((job.config.train_split, job.config.eval_split) == ("fit", "holdout") for job in jobs)


def test_jobs_are_every_choice_and_every_arm(study: Study) -> None:
    jobs = []
    for job in study.jobs():
        jobs.append(job)
        if job.key not in map(runs.key_of, study.finished):
            study.finished.append(pretended(job))
    keys = {job.key for job in jobs}
    choices = {key for key in keys if key[0] == "choose"}
    # One of the radii was trained with the best beta already.
    assert len(choices) == sum(len(values) for grid in CHOICES.values() for values in grid.values()) - 1
    main = {name for name, arm in camvid_study.ARMS.items() if arm.main}
    assert keys - choices == {("test", name, seed) for name in ARMS for seed in ((0, 1, 2) if name in main else (0,))}


def test_results_of_two_processes_are_merged(tmp_path: Path, study: Study) -> None:
    path = tmp_path / "results.json"
    first, second = (pretended(study.candidate(host, camvid_study.START)) for host in CHOICES)
    runs.write(path, SCHEMA, [first], {})
    runs.write(path, SCHEMA, [second], {"device": "x"})
    assert runs.load(path) == [first, second]
    assert json.loads(path.read_text())["machine"] == {"device": "x"}
    changed = copy.deepcopy(first)
    changed["metrics"]["miou"] = 0.75
    runs.write(path, SCHEMA, [changed], {})
    assert runs.load(path) == [changed, second]


def test_page_says_what_the_results_say(tmp_path: Path, study: Study) -> None:
    pretend_choices(study, {host: {name: values[0] for name, values in c.items()} for host, c in CHOICES.items()})
    study.finished += [pretended(study.test(name, 0)) for name in ARMS if name not in ("ce", "boundary")]
    for seed, share in ((0, 0.4), (1, 0.5)):
        study.finished.append(pretended(study.test("ce", seed), miou=share))
        study.finished.append(pretended(study.test("boundary", seed), miou=share + 0.1 * (seed + 1)))
    path = results.path_of(tmp_path, "camvid_study", "cpu")
    path.parent.mkdir(parents=True)
    runs.write(path, SCHEMA, study.finished, {"versions": {"torch": "2"}})
    row: Json = dict.fromkeys(("as_predicted", "by_estimate", "by_best", "head_cosine", "headless_cosine"), 0.25)
    row |= dict.fromkeys(("estimated_px", "best_px", "head_ratio", "headless_ratio"), 2.0)
    row |= {"size": [448, 896], "tiles": 9}
    (path.parent / "camvid_errors.json").write_text(
        json.dumps({"rows": [row], "missing": [0.1, 0.2, 0.3, 0.4], "false": [0.25] * 4})
    )
    tables, appendix = worth.parts(tmp_path), worth.appendix(tmp_path)
    assert "| 9, 2 x 4 a frame | 0.250 | 0.250 | 0.250 | 2.0 | 2.0 | 0.250 | 2.0 | 0.250 | 2.0 |" in tables["errors"]
    assert "| true boundary pixels | 10 % | 20 % | 30 % | 40 % |" in tables["errors"]
    ce, boundary = (ARMS[name].name for name in ("ce", "boundary"))
    assert f"| {ce} | 2 | 45.00 ± 7.07 |" in tables["scores"]
    assert f"| *{boundary}* minus *{ce}* | 2 | +15.00 ± 7.07 |" in tables["paired"]
    assert f"| {ce}, seed 1 | 50.00 |" in appendix
    assert f"| {ce} | 50.0 | 0.0 |" in appendix
    chosen = [run["label"] for run in study.finished if run["stage"] == "choose"]
    assert all(label in tables["choices"] and label in appendix for label in chosen)
    for _, draw in pictures(tmp_path).values():
        assert draw().axes
