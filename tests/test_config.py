"""The configuration of a training survives JSON, and names a bad value."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from training_runs import run, tiny_config

from inverseform_fast.inverse_net.config import NetConfig, StnConfig, TuneConfig
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.datasets import build_dataset


def test_a_configuration_survives_json() -> None:
    config = TrainConfig(
        crop=(32, 48), eval_size=(90, 120), resize=(64, 96), gamma=0.5, amp="bf16", tasks={"semantic": 2.0}
    )
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_recipe_may_have_comments(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text('// a row\n{\n  // "steps": 7,\n  "lr": 0.5, "out": "a//b"\n}\n')
    assert TrainConfig.from_file(path) == TrainConfig(lr=0.5, out="a//b")
    path.write_text('{"lr": 0.5} // behind')
    with pytest.raises(ValueError, match=r"recipe\.json must be JSON"):
        TrainConfig.from_file(path)
    path.write_text('{"learning_rate": 0.5}')
    with pytest.raises(ValueError, match=r"recipe\.json: config must hold options of train .*, got learning_rate"):
        TrainConfig.from_file(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("decay_every", 0),
        ("augmentation", 3),
        ("steps", "many"),
        ("lr", -1.0),
        ("gamma", -0.1),
        ("clip", 0.0),
        ("inverseform_start", 2000),
        ("inverseform_start", -1),
        ("crop", (32, 0)),
        ("crop", (32,)),
        ("resize", (32, 0)),
        ("scale", (2.0, 0.5)),
        ("tasks", {"semantic": 0.0}),
        ("tasks", {"semantic": "much"}),
        ("tasks", "semantic"),
        ("loss", "dice"),
        ("amp", "fp8"),
        ("steps", 2.5),
        ("steps", True),
        ("lr", True),
        ("lr", math.inf),
        ("gamma", math.nan),
        ("scale", (0.5, math.inf)),
        ("scale", (1e-9, 1e-9)),
        ("scale", (1.0, 1e9)),
        ("lr", 10**400),
        ("lr", 1e300),
        ("weight_decay", 1e300),
        ("crop", (1.5, 2)),
        ("crop", 5),
        ("tasks", {"semantic": True}),
        ("tasks", {"semantic": math.inf}),
        ("tasks", {3: 1.0}),
        ("data_options", [1]),
        ("pretrained", 1),
        ("out", 5),
        ("out", ""),
        ("root", 5),
        ("loss", ["ce"]),
        ("seed", 2**63),
        ("threads", 100_000),
        ("workers", -1),
        ("accumulate", 0),
        ("timeout", 0),
    ],
)
def test_a_bad_option_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*, got "):
        TrainConfig(**{field: value})


def test_a_bad_configuration_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text, message in (
        ("{", "must be JSON"),
        ("[]", "must be a JSON object"),
        ('{"stepz": 3}', "got stepz"),
        ("[" * 9999, "must be JSON"),
        ("\xff", "must be JSON"),
        ('{"steps": true}', "config.json: steps must be a whole number, got True"),
    ):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=message):
            TrainConfig.from_file(path)


def test_an_unknown_option_of_the_data_set_is_named(tmp_path: Path, net: str) -> None:
    with pytest.raises(ValueError, match=r"data_options must be arguments of the data set 'scenes': .*'depth'"):
        run(tiny_config(tmp_path, net, data_options={"depth": 3}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "data_options must be arguments of the data set 'scenes': .*'split'"),
        ({"root": "x"}, "data_options must be arguments of the data set 'scenes': .*'root'"),
        ({"name": "folder"}, "data_options must be arguments of the data set 'scenes': .*'name'"),
        ({"transform": 5}, "transform must be a function of a sample, got 5"),
    ],
)
def test_options_of_the_data_set_are_no_others(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_dataset("scenes", "train", **{"size": (8, 8), "length": 1} | options)


def test_a_sharded_model_has_no_fp16() -> None:
    with pytest.raises(ValueError, match=r"^amp must be none or bf16 where the model is sharded, got 'fp16'"):
        TrainConfig(shard=True, amp="fp16")


@pytest.mark.parametrize("config", [NetConfig, StnConfig, TuneConfig])
def test_a_learning_rate_beyond_float32_is_named(config: type) -> None:
    with pytest.raises(ValueError, match=r"^lr must be from 0 to 1000000\.0, got 1e"):
        config(lr=1e300)


def test_an_unknown_task_is_named_with_those_of_the_data_set(tmp_path: Path, net: str) -> None:
    with pytest.raises(ValueError, match=r"tasks must be tasks of the data set \(semantic\), got depth"):
        run(tiny_config(tmp_path, net, tasks={"depth": 1.0}))
