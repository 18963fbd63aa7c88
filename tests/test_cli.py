"""The command line and the demo print and write what they promise, and say in one line what is wrong."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from rich.console import Console

from inverseform_fast import __version__, cli
from inverseform_fast.cli.app import app
from inverseform_fast.nets import ARCHITECTURES, InverseTransformNet
from inverseform_fast.segmentation.checkpoint import load_checkpoint
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.demo import run_demo

REPOSITORY = Path(__file__).parents[1]
TINY = [
    "--data-option",
    "size=[48,64]",
    "--data-option",
    "length=3",
    "--crop",
    "32",
    "48",
    "--batch-size",
    "2",
    "--threads",
    "1",
    "--device",
    "cpu",
]
COMMANDS: Any = typer.main.get_command(app)
# These arguments lead each command to missing files; yet it must complain of the device first.
NOTHING_THERE = {
    "reproduce": ["table1", "--root", "nowhere"],
    "train": ["--data", "folder", "--root", "nowhere"],
    "evaluate": ["nowhere"],
    "align": ["nowhere", "--out", "out"],
    "train-net": ["--data", "folder", "--root", "nowhere"],
    "train-stn": ["--data", "folder", "--root", "nowhere"],
    "tune-net": ["nowhere"],
    "calibrate": ["--labels", "nowhere"],
    "bench": ["--backbone", "nowhere"],
}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("INVERSEFORM_FAST_DEBUG", "")  # so that monkeypatch undoes what --debug sets
    monkeypatch.setenv("COLUMNS", "120")

    def call_with(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["inverseform-fast", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        if isinstance(end.value.code, str):  # Python prints it to stderr, and exits with 1
            return 1, captured.out, captured.err + end.value.code
        return end.value.code or 0, captured.out, captured.err

    return call_with


def test_train_then_evaluate_gives_the_same_numbers(call: Any, tmp_path: Path, net: str) -> None:
    out = tmp_path / "run"
    code, printed, _ = call(
        "train", *TINY, "--steps", "3", "--net", net, "--headless", "--gamma", "0.5", "--out", str(out)
    )
    assert code == 0
    assert f"The report is in {out / 'report.md'}" in printed.replace("\n", "")
    config = load_checkpoint(out / "last.pt").config
    assert (config.crop, config.boundary_head, config.gamma, config.steps) == ((32, 48), False, 0.5, 3)
    assert config.data_options == {"size": [48, 64], "length": 3}

    code, printed, progress = call("evaluate", str(out), "--json", str(tmp_path / "again.json"), "--device", "cpu")
    assert code == 0
    assert "evaluating: 3 of 3" in progress
    for option in (["--batch-size", "0"], ["--workers", "-1"], ["--eval-size", "0", "0"]):
        code, _, errors = call("evaluate", str(out), *option)
        assert code == 1
        assert errors.startswith(f"error: {option[0][2:].replace('-', '_')} must be ")
    trained, again = (json.loads(path.read_text()) for path in (out / "metrics.json", tmp_path / "again.json"))
    del trained["seconds_per_step"]
    assert again == pytest.approx(trained, nan_ok=True)
    assert f"{100 * again['miou']:.1f}" in printed
    assert "IoU building" in printed

    code, _, _ = call("evaluate", str(out / "last.pt"), "--split", "test", "--json", str(tmp_path / "test.json"))
    assert code == 0
    assert json.loads((tmp_path / "test.json").read_text()) != again


def test_resume_needs_no_option_but_out(call: Any, tmp_path: Path, net: str) -> None:
    out = str(tmp_path / "run")
    assert call("train", *TINY, "--steps", "3", "--net", net, "--out", out)[0] == 0
    assert call("train", "--out", out, "--resume", "--workers", "0")[0] == 0
    code, _, errors = call("train", "--out", out, "--resume", "--lr", "0.5")
    assert code == 1
    assert "lr was 0.002, now 0.5" in errors


def test_options_on_the_command_line_come_before_those_of_the_file(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"loss": "ce", "steps": 3, "lr": 0.01, "backbone": "test_convnext"}))
    out = tmp_path / "run"
    assert call("train", "--config", str(path), *TINY, "--steps", "2", "--out", str(out))[0] == 0
    config = load_checkpoint(out / "last.pt").config
    assert (config.loss, config.steps, config.lr, config.backbone) == ("ce", 2, 0.01, "test_convnext")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "camvid"], "root must be the folder that holds the data set 'camvid', got None"),
        (["train", "--data", "folder", "--root", "nowhere"], "nowhere"),
        (["train", "--backbone", "resnet17", *TINY], "did you mean"),
        (["train", "--net", "nowhere.safetensors", *TINY], "no weight file at nowhere.safetensors"),
        (["train", "--steps", "0"], "steps must be positive, got 0"),
        (["train", "--data-option", "size"], "data-option must be NAME=VALUE, got 'size'"),
        (["train", "--data-option", "=3"], "data-option must be NAME=VALUE, got '=3'"),
        (["train", "--config", "nowhere.json"], "config must be a JSON file: no file nowhere.json"),
        (["evaluate", "nowhere"], "no checkpoint at nowhere"),
        (["align", "nowhere", "--out", "out"], "no checkpoint at nowhere"),
        (["convert", "nowhere.pth", "net.safetensors"], "release: no weight file at nowhere.pth"),
        (["convert", __file__, "net.safetensors"], "must be a complete file of nothing but tensors"),
        (["convert", "nowhere.pth", __file__], "out must be a new file, but"),
        (
            ["train-net", "--architecture", "vgg"],
            "architecture must be one of " + ", ".join(ARCHITECTURES) + ", got 'vgg'",
        ),
        (["train-net", "--threads", "0"], "threads must be from 1 to 1024, got 0"),
        (["train-stn", "--threads", "-2"], "threads must be from 1 to 1024, got -2"),
        (["bench", "--threads", "100000"], "threads must be from 1 to 1024, got 100000"),
        (["train", "--threads", "-1"], "threads must be from 1 to 1024, got -1"),
        (["train", "--batch-size", "0"], "batch_size must be positive, got 0"),
        (["train", "--lr", "inf"], "lr must be a finite number, got inf"),
        (["train", "--data", "nosuch"], "data must be one of scenes, camvid, folder, nyud_mt, "),
        (["train", "--out", "/proc/x"], "out must be a folder that can be written into, but /proc/x cannot"),
        (["train-net", "--out", "/proc/x"], "out must be a folder that can be written into, but /proc/x cannot"),
        (["train-stn", "--out", "/proc/x"], "out must be a folder that can be written into, but /proc/x cannot"),
        (["calibrate", "--labels", ".", "--out", "/proc/x"], "out must be a folder that can be written into"),
        (["evaluate", "nowhere", "--json", "nodir/x"], "json must be a file in a folder that exists, got nodir/x"),
        (["bench", "--json", "nodir/x"], "json must be a file in a folder that exists, got nodir/x"),
        (["convert", "nowhere.pth", "nodir/x"], "out must be a file in a folder that exists, got nodir/x"),
        (["train-net", "--init", "nowhere"], "net: no weight file at nowhere"),
        (["train-net", "--predictions", "nowhere"], "no checkpoint at nowhere"),
        (["train-net", "--tile", "33"], "tile must be a positive multiple of 8, got 33"),
        (["train-net", "--seed", str(2**63)], "seed must be from 0 to 9223372036854775807, got 9223372036854775808"),
        (["train-net", "--scenes", "-1"], "scenes must be at least 0, got -1"),
        (["train-net", "--data", "nosuch"], "data must be one of scenes, camvid, folder, nyud_mt, "),
        (["train-stn", "--size", "0", "0"], "size must be two positive numbers, got (0, 0)"),
        (["train-stn", "--max-pixels", "1e9"], "max_pixels must be from 0 to 448, got 1000000000.0"),
        (["train-stn", "--seed", "-1"], "seed must be from 0 to 9223372036854775807, got -1"),
        (["tune-net", "nowhere", "--size", "0", "0"], "size must be two positive numbers, got (0, 0)"),
        (["bench", "--memory-gib", "inf"], "memory_gib must be above 0, or 0 on a GPU, got inf"),
        (["reproduce", "table2"], "table must be 'table1' or 'table3', got 'table2'"),
        (["bench", "--amp", "fp8"], "amp must be one of none, bf16, got 'fp8'"),
        (["train-stn", "--kind", "rigid"], "kind must be one of affine, homography, got 'rigid'"),
        (["train-net", "--outputs", "6"], "outputs must be 8 for architecture align, got 6"),
    ],
)
def test_an_error_is_one_readable_line(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(*arguments)
    assert code == 1
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    "name", [name for name, c in COMMANDS.commands.items() if "device" in [p.name for p in c.params]]
)
def test_a_device_that_is_not_there_is_said_before_any_work(
    call: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed, errors = call(name, *NOTHING_THERE[name], "--device", "nosuch")
    assert code == 1
    assert errors.startswith("error: device must be one that this machine has, got 'nosuch': ")
    assert len(errors.splitlines()) == 1
    assert not printed
    assert not list(tmp_path.iterdir())


def test_the_version_is_printed(call: Any) -> None:
    assert call("--version") == (0, f"inverseform-fast {__version__}\n", "")


def test_ctrl_c_is_one_line(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt("stopped at step 7")

    monkeypatch.setattr("inverseform_fast.segmentation.processes.own_device", interrupted)
    assert call("train") == (130, "", "interrupted: stopped at step 7\n")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVERSEFORM_FAST_DEBUG", "")
    monkeypatch.setattr(sys, "argv", ["inverseform-fast", "--debug", "evaluate", "nowhere"])
    with pytest.raises(FileNotFoundError, match="no checkpoint at nowhere"):
        cli.main()


def test_a_value_of_the_wrong_kind_is_a_usage_error(call: Any) -> None:
    for arguments in (["--loss", "dice"], ["--steps", "many"], ["--crop", "3"], ["--no-such-option"]):
        code, _, errors = call("train", *arguments)
        assert code == 2
        assert arguments[0] in errors


def test_help_has_every_option_with_its_default(call: Any) -> None:
    code, printed, _ = call("train", "--help")
    assert code == 0
    for name in ("--loss", "--beta", "--gamma", "--headless", "--backbone", "--resume", "--overwrite", "--amp"):
        assert name in printed
    assert "test_resnet" in printed


def test_without_the_training_extra_help_is_there_and_the_rest_is_one_line() -> None:
    """In a process of its own, --help imports nothing of the extra except typer and rich, which typer prints with."""
    code = """
import contextlib, sys
from inverseform_fast.cli import main
from inverseform_fast.errors import EXTRA_MODULES
sys.modules |= dict.fromkeys(EXTRA_MODULES - {"typer", "rich"})
for command in ([], ["train"], ["train-net"], ["bench"]):
    sys.argv = ["inverseform-fast", *command, "--help"]
    with contextlib.suppress(SystemExit):
        main()
sys.argv = ["inverseform-fast", "evaluate", "nowhere"]
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.stdout.count("Usage: ") == 4
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert 'in a clone of the repository, pip install --no-build-isolation ".[train]"' in result.stderr


def test_the_demo_ends_with_a_table_and_a_picture(call: Any, tmp_path: Path, net: str) -> None:
    printed = io.StringIO()
    config = TrainConfig(
        data_options={"size": [48, 64], "length": 3},
        net=net,
        crop=(32, 48),
        steps=2,
        batch_size=2,
        threads=1,
        device="cpu",
        out=str(tmp_path / "demo"),
    )
    for loss in ("ce", "boundary"):  # an earlier demo, which this one replaces
        (tmp_path / "demo" / loss).mkdir(parents=True)
        (tmp_path / "demo" / loss / "last.pt").write_bytes(b"earlier")
    picture = run_demo(config, Console(file=printed, width=120))
    with Image.open(picture) as image:
        assert image.width > image.height > 100
    for loss in ("ce", "boundary"):
        metrics = json.loads((tmp_path / "demo" / loss / "metrics.json").read_text())
        for name in ("miou", "mba", "boundary_f_1px", "boundary_f_3px"):
            value = metrics[name]
            assert (f"{100 * value:.1f}" if value is not None and not math.isnan(value) else "-") in printed.getvalue()
        assert f"{metrics['seconds_per_step']:.3f}" in printed.getvalue()
    ce, ours = (load_checkpoint(tmp_path / "demo" / loss / "last.pt") for loss in ("ce", "boundary"))
    assert set(ce.config.difference(ours.config)) == {"loss"}


def test_train_net_trains_and_resumes_nothing_twice(call: Any, tmp_path: Path) -> None:
    out = tmp_path / "net"
    tiny = [
        "--scenes",
        "3",
        "--shapes",
        "3",
        "--size",
        "64",
        "80",
        "--tile",
        "32",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--max-pixels",
        "3",
    ]
    code, output, _ = call("train-net", *tiny, "--device", "cpu", "--out", str(out))
    assert code == 0
    assert "rank correlation" in output
    assert str(out / "align.safetensors") in output
    assert InverseTransformNet.from_file(out / "align.safetensors").tile == 32
    code, _, error = call("train-net", *tiny, "--device", "cpu", "--out", str(out))
    assert code == 1
    assert "holds a training: resume it" in error
    code, _, error = call("train-net", *tiny, "--out", str(tmp_path / "next"), "--init", str(tmp_path / "missing"))
    assert code == 1
    assert "no weight file" in error


def test_train_net_trains_the_network_of_the_paper(call: Any, tmp_path: Path) -> None:
    tiny = ["--scenes", "3", "--shapes", "3", "--size", "64", "80", "--tile", "32", "--steps", "2", "--batch-size", "2"]
    code, output, _ = call(
        "train-net", *tiny, "--max-pixels", "3", "--architecture", "dense", "--outputs", "6", "--out", str(tmp_path)
    )
    assert code == 0
    assert str(tmp_path / "dense.safetensors") in output
    net = InverseTransformNet.from_file(tmp_path / "dense.safetensors")
    assert (net.architecture, net.tile, net.outputs) == ("dense", 32, 6)


def test_train_net_reads_a_folder_of_label_maps(call: Any, tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for index in range(4):
        size = (60 + index, 50)  # (width, height), all different
        Image.new("RGB", size).save(root / "images" / f"{index}.png")
        labels = Image.new("L", size)
        labels.paste(1, (10, 10, 40, 40))
        labels.save(root / "labels" / f"{index}.png")
    options = ["--data", "folder", "--root", str(root), "--size", "64", "64", "--tile", "32", "--max-pixels", "3"]
    code, _, error = call("train-net", *options, "--steps", "2", "--batch-size", "2", "--out", str(tmp_path / "net"))
    assert code == 0, error


def test_tune_net_tunes_on_a_run_and_writes_over_nothing(call: Any, tmp_path: Path, net: str) -> None:
    run = tmp_path / "run"
    assert call("train", *TINY, "--net", net, "--steps", "1", "--out", str(run))[0] == 0
    options = [str(run), "--net", net, "--steps", "1", "--batch-size", "2", "--max-pixels", "3", "--device", "cpu"]
    code, output, error = call("tune-net", *options)
    assert code == 0, error
    assert "| soft boundary map |" in output
    assert str(run / "tuned.safetensors") in output
    assert InverseTransformNet.from_file(run / "tuned.safetensors").noise
    code, _, error = call("tune-net", *options)
    assert code == 1
    assert "holds a training: resume it, or choose another folder" in error
    maps = ["--scenes", "2", "--shapes", "0", "--size", "64", "80"]
    small = ["--tile", "32", "--steps", "1", "--batch-size", "3", "--max-pixels", "3", "--predictions", str(run)]
    assert call("train-net", *maps, *small, "--out", str(tmp_path / "net"))[0] == 0
    assert (tmp_path / "net/align.safetensors").is_file()


def test_doctor_prints_what_runs_here(call: Any) -> None:
    code, output, _ = call("doctor")
    assert code == 0
    assert "reference            available" in output


def test_calibrate_writes_a_picture_and_its_numbers(call: Any, tmp_path: Path, net: str) -> None:
    labels = torch.zeros(40, 50, dtype=torch.uint8)
    labels[10:30, 20:] = 1
    (tmp_path / "labels").mkdir()
    Image.fromarray(labels.numpy()).save(tmp_path / "labels/one.png")
    out = tmp_path / "out"
    code, output, _ = call(
        "calibrate", "--labels", str(tmp_path / "labels"), "--out", str(out), "--net", net, "--views", "2"
    )
    assert code == 0
    assert "tiles at a match is" in output
    assert json.loads((out / "calibration.json").read_text())["views"] == 2
    assert (out / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_calibrate_says_what_is_wrong_with_the_labels(call: Any, tmp_path: Path) -> None:
    code, _, error = call("calibrate", "--labels", str(tmp_path))
    assert code == 1
    assert "labels must hold PNG files whose pixel values are class ids" in error
