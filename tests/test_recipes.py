"""Every row of the paper's tables has a recipe, which trains on made scenes, and whose network is the published one."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from multi_task_files import make_nyud
from rich.console import Console
from training_runs import run, scalars

from inverseform_fast.segmentation import reproduce
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import nyud, pascal
from inverseform_fast.segmentation.evaluation import load_model
from inverseform_fast.segmentation.metrics.multitask import delta_m
from inverseform_fast.segmentation.models import build_model
from inverseform_fast.segmentation.paper_tables import RECIPES, TABLES, PaperTable
from inverseform_fast.segmentation.reproduce import recipe_config, reproduce_table
from inverseform_fast.segmentation.tasks import Task, task_from_dict

ROWS = [(name, row.recipe) for name, table in TABLES.items() for row in table.rows]
SINGLES = sorted({str(row.single) for row in TABLES["table3"].rows})
PARAMETERS = {  # of the published networks
    "hrnet_w18_s": 3_945_270,
    "hrnet_w48_s": 65_874_520,
    "pad_net_sd": 7_019_056,
    "pad_net_sden": 12_161_332,
    "mti_net_sd": 8_578_179,
    "mti_net_sden": 14_838_121,
    "astmt_seresnet26": 31_279_377,
    "astmt_seresnet50": 49_387_041,
    "astmt_seresnet101": 85_392_225,
    "mti_net_hrnet_w18": 24_494_171,
    "mti_net_resnet18": 271_653_629,  # nobody has published this one: it is counted by the layers of MTI-Net
}


def tasks_of(config: TrainConfig) -> dict[str, Task]:
    classes = {"nyud_mt": nyud.CLASSES, "pascal_mt": pascal.CLASSES}[config.data]
    names = config.data_options["tasks"]
    fields = {"semantic": {"classes": classes}}
    return {name: task_from_dict({"type": name, **fields.get(name, {})}) for name in names}


def basic_block(channels: int, out: int) -> int:
    """The weights of a residual block of two 3x3 convolutions with BatchNorms, and of its shortcut if it has one."""
    shortcut = channels * out + 2 * out if channels != out else 0
    return 9 * channels * out + 9 * out * out + 4 * out + shortcut


@pytest.mark.parametrize(
    ("trunk", "widths", "recipe"),
    [
        (3_860_720, (18, 36, 72, 144), "mti_net_hrnet_w18"),
        (11_176_512, (64, 128, 256, 512), "mti_net_resnet18"),
    ],
)
def test_weights_of_mti_net_are_those_of_its_layers(trunk: int, widths: tuple[int, ...], recipe: str) -> None:
    channels = [21, 1, 1, 7, 3]
    count, total = len(channels), trunk
    for width, passed in zip(widths, (*widths[1:], 0), strict=True):
        total += sum(basic_block(width + passed, width) + basic_block(width, width) for _ in channels)  # features
        total += sum(n * (width + 1) for n in channels)  # initial predictions
        total += count * (count - 1) * 2 * 9 * width**2  # distillation: a message and its gate
    for width in widths[1:]:  # what the coarser scales pass on
        joint, hidden = count * width, max(width // 16, 1)
        total += basic_block(joint, joint // 4) + basic_block(joint // 4, joint // 4) + joint * (joint // 4 + 1)
        total += basic_block(joint, width) + count * (2 * width * hidden + hidden + width)
    head = sum(widths)
    total += count * (head * head + 3 * head) + sum(n * (head + 1) for n in channels)
    assert total == PARAMETERS[recipe]


def plain(recipe: str) -> str:
    """The recipe of the same row without InverseForm."""
    return recipe.replace("_se_inverseform", "_s").removesuffix("_inverseform")


def without_inverseform(config: TrainConfig) -> TrainConfig:
    default = TrainConfig()
    terms = {name: getattr(default, name) for name in ("edge", "dice", "f1", "beta", "gamma")}
    return dataclasses.replace(config, loss="ce", boundary_head=False, **terms)


def test_every_recipe_is_a_row_or_a_baseline() -> None:
    files = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.json")}
    assert files == {f"{name}/{recipe}" for name, recipe in ROWS} | {f"table3/{single}" for single in SINGLES}
    assert len(ROWS) == 20


@pytest.mark.parametrize(("name", "recipe"), ROWS)
def test_a_recipe_builds_the_published_network(name: str, recipe: str) -> None:
    config = recipe_config(name, recipe)
    with torch.device("meta"):
        model = build_model(config.model, config.backbone, tasks_of(config), boundary_head=config.boundary_head,
            **config.model_options)  # fmt: skip
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if config.boundary_head:  # a 1x1 convolution on all branches
        found -= 1 + {"hrnet_w18_small_v2": 270, "hrnet_w48": 720}[config.backbone]
    assert found == PARAMETERS[plain(recipe)]


def test_rows_with_inverseform_differ_in_the_loss_alone() -> None:
    pairs = [(name, recipe) for name, recipe in ROWS if recipe.endswith("_inverseform")]
    assert len(pairs) == 9
    for name, recipe in pairs:
        config = recipe_config(name, recipe)
        assert config.gamma == 0.3
        assert without_inverseform(config) == recipe_config(name, plain(recipe))


@pytest.mark.parametrize("name", TABLES)
def test_schedules_are_those_of_the_public_code(name: str) -> None:
    images = {"table1": 795, "table3": 4998}[name]
    for table, recipe in [*ROWS, *(("table3", single) for single in SINGLES)]:
        if table == name:
            config = recipe_config(name, recipe)
            assert config.decay_every == images // config.batch_size
            assert config.steps // config.decay_every in (60, 100)
            assert config.steps % config.decay_every == 0


# MTI-Net on ResNet-18 has 272 million parameters with five tasks: two steps take 8 GB, and other tests run beside it.
LIGHT = [(name, recipe) for name, recipe in ROWS if not recipe.startswith("mti_net_resnet18")]


@pytest.mark.timeout(1200)  # on a machine that is busy with other things
@pytest.mark.parametrize(("name", "recipe"), LIGHT)
def test_rows_train_on_made_scenes(name: str, recipe: str, tmp_path: Path) -> None:
    config = dataclasses.replace(
        recipe_config(name, recipe, tiny=True), out=str(tmp_path / "run"), threads=1, device="cpu"
    )
    metrics = run(config)
    for column in TABLES[name].columns:
        assert isinstance(column.value(metrics, "semantic"), float)
    terms = {tag for tag in scalars(config) if tag.endswith("/inverseform")}
    acting = {"loss/semantic/inverseform"} if config.boundary_head else {"loss/edges/inverseform"}
    assert terms == (acting if recipe.endswith("_inverseform") else set())


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("recipe", "task"), list(zip(SINGLES, ("edges", "normals", "parts", "saliency", "semantic"), strict=True))
)
def test_every_baseline_trains_one_task_on_made_scenes(recipe: str, task: str, tmp_path: Path) -> None:
    config = recipe_config("table3", recipe, task, tiny=True)
    metrics = run(dataclasses.replace(config, out=str(tmp_path / "run"), threads=1, device="cpu"))
    column = next(column for column in TABLES["table3"].columns if column.task == task)
    assert column.value(metrics, task) == column.scale * metrics[column.metric]
    assert list(load_model(tmp_path / "run")[1].tasks) == [task]


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> PaperTable:
    """Table 3 of two rows, which share their networks of one task."""
    table = TABLES["table3"]
    small = dataclasses.replace(table, rows=table.rows[-2:])
    monkeypatch.setitem(TABLES, "table3", small)
    return small


@pytest.mark.timeout(1200)  # it trains seven networks
def test_a_table_is_trained_once_and_shown_beside_the_paper(
    two_rows: PaperTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[str, bool]] = []
    train = reproduce.train

    def counted(config: TrainConfig, **options: Any) -> dict[str, float]:
        trained.append((Path(config.out).relative_to(tmp_path).as_posix(), options["resume"]))
        if config.tasks.get("parts") and "inverseform" in config.out and len(trained) < 8:
            raise KeyboardInterrupt
        return train(config, **options)

    monkeypatch.setattr(reproduce, "train", counted)
    options: Any = {"tiny": True, "threads": 1, "device": "cpu", "console": Console(file=io.StringIO())}
    with pytest.raises(KeyboardInterrupt):
        reproduce_table("table3", None, tmp_path, **options)
    singles = [f"single/hrnet_w18/{column.task}" for column in two_rows.columns]
    rows = ["mti_net_hrnet_w18", *singles, "mti_net_hrnet_w18_inverseform"]
    assert [name for name, _ in trained] == rows
    results = reproduce_table("table3", None, tmp_path, **options)
    assert [name for name, _ in trained] == [*rows, "mti_net_hrnet_w18_inverseform"]
    assert repr(reproduce_table("table3", None, tmp_path, **options)) == repr(results)  # a NaN is no NaN's equal
    assert len(trained) == 8

    names = ["Seg", "Edge", "Saliency", "Parts", "Normals"]
    table = (tmp_path / "table.md").read_text()
    for row, result in zip(two_rows.rows, results, strict=True):
        metrics = json.loads((tmp_path / row.recipe / "metrics.json").read_text())
        keys = ["miou", "edges/odsf", "saliency/miou", "parts/miou", "normals/mean"]
        scores = [metrics[key] * (1 if "normals" in key else 100) for key in keys]
        assert list(result.values[:5]) == pytest.approx(scores)
        baselines = []
        for column, key in zip(two_rows.columns, keys, strict=True):
            alone = json.loads((tmp_path / "single/hrnet_w18" / column.task / "metrics.json").read_text())
            baselines.append(alone[key.split("/")[-1]] * (1 if "normals" in key else 100))
        if all(baseline > 0 for baseline in baselines):
            gain = delta_m(dict(zip(names, scores, strict=True)), dict(zip(names, baselines, strict=True)), ["Normals"])
            assert result.values[5] == pytest.approx(gain)
        else:
            assert math.isnan(result.values[5])
        assert result.parameters == PARAMETERS[plain(row.recipe)]
        assert result.multiply_adds / 1e9 == pytest.approx(30.31, rel=0.01)
        numbers = [f"{value:.2f} ({paper:.2f})" for value, paper in zip(scores, row.paper, strict=False)]
        assert f"| {row.title} | {' | '.join(numbers)} |" in table
    assert "the numbers mean nothing" in table
    assert not list(tmp_path.rglob("last.pt"))


def test_a_folder_with_runs_of_other_options_is_refused(two_rows: PaperTable, tmp_path: Path) -> None:
    config = recipe_config("table3", "mti_net_hrnet_w18", tiny=True)
    folder = tmp_path / "mti_net_hrnet_w18"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dataclasses.replace(config, steps=3).to_dict()))
    (folder / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"out must hold runs of these options, .*: steps is 3 there, not 2"):
        reproduce_table("table3", None, tmp_path, tiny=True, device="cpu", console=Console(file=io.StringIO()))


def test_what_a_later_row_lacks_is_said_before_the_first_one_is_trained(tmp_path: Path) -> None:
    make_nyud(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/normals")  # the fourth row is the first one that needs it
    with pytest.raises(FileNotFoundError, match="root must hold the folder of normals"):
        reproduce_table("table1", str(tmp_path / "data"), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_what_is_unknown_or_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="table must be 'table1' or 'table3', got 'table2'"):
        reproduce_table("table2", None, tmp_path)
    with pytest.raises(ValueError, match="root must be the folder that holds the data set 'nyud_mt', got None"):
        reproduce_table("table1", None, tmp_path, device="cpu", console=Console(file=io.StringIO()))
    with pytest.raises(FileNotFoundError, match=r"config must be a JSON file: no file .*hrnet_w19"):
        recipe_config("table1", "hrnet_w19")
