"""The ablation study runs every group and no arm twice, and its page shows its results."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common.results import Json
from benchmarks.pages import ablation as page
from benchmarks.studies import ablation
from benchmarks.studies.ablation import COLUMNS, RESULT, SEGMENTATION, SHIPPED, WHOLE, Study

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A tiny study, in which an arm takes a second or less."""
    return Study(
        runs=tmp_path_factory.mktemp("ablation"),
        data="scenes",
        tiles=(32, 56, 96),
        size=(96, 128),
        maps=2,
        pairs=8,
        recipes={name: {"steps": 2, "batch_size": 4, "lr": 1e-3} for name in ablation.RECIPES},
        short={
            "data_options": {"size": [48, 64], "length": 2},
            "steps": 2,
            "batch_size": 2,
            "crop": (32, 64),
            "device": "cpu",
        },
    )


def results_of(study: Study, *arms: tuple[str, str]) -> Json:
    for group, name in arms:
        study.run(group, name)
    return study.results()


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()[2:]]
    return {name: rest for name, *rest in cells}


def test_architectures_and_distances_are_trained_and_measured(
    study: Study, net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compact.safetensors").write_bytes(Path(net).read_bytes())
    monkeypatch.setattr(ablation, "WEIGHTS", tmp_path)  # the shipped ones take seconds
    assert len(study.groups["networks"]) == 3 * 3 + 1
    arms = ["align-log", "align-geodesic", "dense-euclidean", "aet-log", SHIPPED]
    nets = results_of(study, *(("networks", name) for name in arms))["nets"]
    for name in arms[:-1]:
        config = nets[name]["config"]
        assert (config["architecture"], config["distance"]) == tuple(name.split("-"))
        assert nets[name]["pairs_seen"] == 2 * 4
        assert nets[name]["cpu_seconds"] > 0
        assert nets[name]["tile"] == 32
        assert not list(study.net_folder(name).glob("*.pt"))
    assert nets[SHIPPED]["tile"] == 32
    assert nets["dense-euclidean"]["parameters"] > 2 * 32**2 * 1000
    assert 0 < nets["align-log"]["crisp"]["relative_corner_error"] < 2
    assert nets["align-log"]["crisp"] != nets["align-log"]["degraded"]


def scored(error: float, tile: int = 64, **more: Any) -> Json:
    """Makes up a network's result, whose numbers differ from each other and from another network's."""
    return {
        "tile": tile,
        "parameters": 12345,
        "pairs_seen": 6789,
        "crisp": {"corner_error": 10 * error, "relative_corner_error": error, "spearman": error + 0.1},
        "degraded": {"relative_corner_error": error + 0.2, "spearman": error + 0.3},
        "noise_px": error + 4,
    } | more


def test_tables_say_what_the_results_say(study: Study) -> None:
    nets = {
        "align-log": scored(0.1, 32, cpu_seconds=90),
        "aet-geodesic": scored(0.2, cpu_seconds=120),
        SHIPPED: scored(0.3, 224),
        WHOLE: scored(0.4, 96, cpu_seconds=6),
    }
    runs = [{"cpu_seconds": 60, "metrics": {name: k / 10 + s / 5 for k, name in enumerate(COLUMNS)}} for s in (0, 1)]
    texts = page.tables(study, {"nets": nets, SEGMENTATION: {"boundary": runs[:1], "aet-log": runs}})
    assert rows(texts["networks"]) == {
        "align, log": ["6,789", "1.5", "10.0", "30.0", "0.200", "0.400", "4.10", "12,345"],
        "aet, geodesic": ["6,789", "2.0", "20.0", "40.0", "0.300", "0.500", "4.20", "12,345"],
        "shipped (tile 224, trained far longer)": ["6,789", "-", "30.0", "50.0", "0.400", "0.600", "4.30", "12,345"],
    }
    # 96 px of the tile are 96 x 128 of the image: 1.155 by the geometric mean.
    assert rows(texts["tiles"]) == {
        "32": ["6,789", "1.5", "10.0", "30.0", "0.200", "0.400", "2.3", "2.3", "1.00"],
        "96, whole image": ["6,789", "0.1", "40.0", "60.0", "0.500", "0.700", "6.9", "7.9", "4.62"],
    }
    assert rows(texts["transforms"]) == {"random": ["6,789", "1.5", "10.0", "30.0", "0.200", "0.400"]}
    models = rows(texts[SEGMENTATION])
    assert models["boundary BCE alone"] == ["1", "1.0", "0.00", "10.00", "20.00", "30.00", "40.00", "50.00", "60.00"]
    assert models["aet, log"][:4] == ["2", "2.0", "10.00 ± 14.14", "20.00 ± 14.14"]


def test_displacements_are_the_same_share_of_every_tile(study: Study) -> None:
    arms = ["align-log", "align-56", WHOLE]
    nets = results_of(study, *(("tiles", name) for name in arms))["nets"]
    assert [nets[name]["tile"] for name in arms] == [32, 56, 96]
    shares = [nets[name]["crisp"]["identity_corner_error"] / nets[name]["tile"] for name in arms]
    assert shares == pytest.approx([shares[0]] * 3, rel=0.3)


def test_a_whole_image_fills_the_tile(study: Study) -> None:
    maps = study.test_maps
    small = ablation.squeezed(maps, 96)
    assert small.shape[1:] == (96, 96)
    assert small.unique().tolist() == maps.unique().tolist()


def test_models_are_trained_under_the_networks(study: Study) -> None:
    arms = ["boundary", "shipped-geodesic", "aet-log", "align-56", WHOLE]
    networks = (("networks", "aet-log"), ("tiles", "align-56"), ("tiles", WHOLE))
    results = results_of(study, *networks, *((SEGMENTATION, name) for name in arms))[SEGMENTATION]
    assert list(results) == arms
    configs = {name: run["config"] for name, (run,) in results.items()}
    assert configs["boundary"]["loss"] == "boundary"
    assert configs["shipped-geodesic"]["distance"] == "geodesic"
    assert configs["aet-log"]["net"].endswith("aet-log/aet.safetensors")
    assert [configs[name]["resize"] for name in arms] == [None, None, None, None, [96, 96]]
    assert all(config["root"] is None for config in configs.values())
    two = replace(study, seeds=(0, 1))
    (first, second) = results_of(two, (SEGMENTATION, "boundary"))[SEGMENTATION]["boundary"]
    assert first == results["boundary"][0]
    assert first["metrics"] != second["metrics"]


def test_a_finished_arm_is_left_alone_and_an_interrupted_one_begins_anew(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(study, runs=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(ablation, "evaluate", interrupt)  # by then the network is trained and written
        with pytest.raises(KeyboardInterrupt):
            study.run("networks", "align-log")
    assert (study.net_folder("align-log") / "align.safetensors").exists()
    assert study.results() == {"nets": {}, SEGMENTATION: {}}

    study.run("networks", "align-log")
    finished = study.net_folder("align-log") / RESULT
    content = finished.read_bytes()
    monkeypatch.setattr(ablation, "train_net", interrupt)
    study.run("tiles", "align-log")
    assert finished.read_bytes() == content
    assert list(study.results()["nets"]) == ["align-log"]
    other = replace(study, recipes={"align": {"steps": 3, "batch_size": 4, "lr": 1e-3}})
    with pytest.raises(ValueError, match="must hold a result of the same steps"):
        other.run("networks", "align-log")


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_program_writes_what_is_finished(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(page.tables(study, {"nets": {}, SEGMENTATION: {}}).values()) == {"No arm has been measured.\n"}
    out = tmp_path / "results.json"
    monkeypatch.setattr(ablation, "Study", lambda **_: study)
    arguments = ["ablation", "--root", str(tmp_path), "--out", str(out), "--threads", "1", "--only", "networks"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--arms", "align-log"])
    ablation.main()
    assert json.loads(out.read_text())["nets"] == study.results()["nets"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--arms", "align-32"])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "--arms must be arms of networks, got align-32" in capsys.readouterr().err


def test_the_study_is_possible() -> None:
    """The networks take the real sizes of the study, and boundaries are resized to whole tiles."""
    study = Study()
    for name in dict.fromkeys([*study.groups["networks"][:-1], *study.groups["tiles"]]):
        config = study.net_config(name)
        assert config.max_pixels / config.tile == pytest.approx(24 / 224)
    for name in study.groups[SEGMENTATION][4:]:
        tile, edges = study.net_config(name).tile, study.train_config(name, 0).resize
        assert edges is None or all(edge % tile == 0 for edge in edges)
    assert study.train_config(WHOLE, 0).resize == (224, 224)
