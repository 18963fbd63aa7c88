"""The command line. What is heavy is imported by the command that needs it, so that ``--help`` is quick."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

from .segmentation.training.config import TrainConfig

_NEEDS_EXTRA = "error: this needs the training extra: pip install 'inverseform-fast[train]'"
_EXTRA_MODULES = {"timm", "transformers", "torchvision", "torchmetrics", "tensorboard", "matplotlib", "rich", "PIL"}
_DEBUG = "INVERSEFORM_FAST_DEBUG"

try:
    import typer
except ModuleNotFoundError:
    raise SystemExit(_NEEDS_EXTRA) from None

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main() -> None:
    """Runs the command line. What a user can mend is one line on stderr and exit code 1, unless ``--debug`` is on."""
    try:
        app()
    except ModuleNotFoundError as error:
        if os.environ.get(_DEBUG) or (error.name or "").split(".")[0] not in _EXTRA_MODULES:
            raise
        sys.exit(f"{_NEEDS_EXTRA} ({error.name} is missing)")
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get(_DEBUG):
            raise
        sys.exit(f"error: {error}")


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Semantic segmentation with the InverseForm boundary loss."""
    if debug:
        os.environ[_DEBUG] = "1"


def _with_config_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives ``command(given, ...)`` an option per field of TrainConfig; ``given`` holds those on the command line."""
    parameters = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
    flags = {"boundary_head": ["--boundary-head/--headless"], "data_options": ["--data-option"], "tasks": ["--task"]}
    hints = get_type_hints(TrainConfig, include_extras=True)
    for field in dataclasses.fields(TrainConfig):
        hint = hints[field.name].__origin__
        hint = list[str] if get_origin(hint) is dict else hint
        default = False if field.default in (None, dataclasses.MISSING) else str(field.default)
        option = typer.Option(*flags.get(field.name, []), help=hints[field.name].__metadata__[0], show_default=default)
        annotation = Annotated[hint | None, option]  # type: ignore[valid-type]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def wrapper(**values: Any) -> None:
        fields = {field.name: values.pop(field.name) for field in dataclasses.fields(TrainConfig)}
        command({name: value for name, value in fields.items() if value is not None}, **values)

    wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


@app.command()
@_with_config_options
def train(
    given: dict[str, Any],
    *,
    config: Annotated[Path | None, typer.Option(help="JSON file of options; those given here come first.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the out folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the out folder.")] = False,
) -> None:
    """Train a segmentation model and report on it. --resume needs no other option than --out."""
    from .segmentation.training.checkpoint import CHECKPOINT, load_checkpoint
    from .segmentation.training.run import train as run_training

    base = TrainConfig()
    if config:
        base = TrainConfig.from_file(config)
    elif resume:
        base = load_checkpoint(Path(given.get("out", base.out)) / CHECKPOINT).config
    for name, option in {"data_options": "data-option", "tasks": "task"}.items():
        if name in given:
            given[name] = dict(_named_value(option, text) for text in given[name])
    settings = dataclasses.replace(base, **given)
    run_training(settings, resume=resume, overwrite=overwrite)
    typer.echo(f"The report is in {Path(settings.out) / 'report.md'}")


def _named_value(option: str, text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{option} must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@app.command()
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the folder of a run.")],
    data: Annotated[str | None, typer.Option(help="Data set; that of the training if not given.")] = None,
    root: Annotated[str | None, typer.Option(help="Folder of the data set.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test.")] = None,
    eval_size: Annotated[tuple[int, int] | None, typer.Option(help="Size to evaluate at.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 8,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    device: Annotated[str | None, typer.Option(help="Device; the GPU if there is one.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the metrics to this file, too.")] = None,
) -> None:
    """Score a checkpoint on whole images: mIoU, mBA and boundary F-scores."""
    from rich.console import Console
    from rich.table import Table

    from .segmentation.evaluation import evaluate_checkpoint
    from .segmentation.report import metric_rows, write_metrics
    from .segmentation.training.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    metrics = evaluate_checkpoint(
        loaded, data, root, split, size=eval_size, batch_size=batch_size, workers=workers, device=device
    )
    table = Table("metric", title=str(checkpoint), caption="shares in percent")
    table.add_column("value", justify="right")
    for row in metric_rows(metrics, loaded.tasks):
        table.add_row(*row)
    Console().print(table)
    if json_file:
        write_metrics(json_file, metrics)


# Options of both programs that train from label maps.
MapsFrom = Annotated[str, typer.Option(help="Where label maps come from: scenes (made), camvid or folder.")]
MapsRoot = Annotated[Path | None, typer.Option(help="Folder of the data set.")]
MapsSplit = Annotated[str, typer.Option(help="Split of the data set.")]
MapsSize = Annotated[tuple[int, int], typer.Option(help="Height and width of the label maps; others are resized.")]
Scenes = Annotated[int, typer.Option(help="How many street scenes to make.")]
Device = Annotated[str | None, typer.Option(help="Device; the GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; PyTorch's own choice if not given.")]


@app.command("train-net")
def train_net(
    data: MapsFrom = "scenes",
    root: MapsRoot = None,
    split: MapsSplit = "train",
    size: MapsSize = (360, 480),
    scenes: Scenes = 384,
    shapes: Annotated[int, typer.Option(help="How many maps of abstract shapes to make beside them.")] = 384,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 3000,
    batch_size: Annotated[int, typer.Option(help="Pairs per step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak learning rate; 1e-4 for dense.")] = 2e-3,
    architecture: Annotated[str, typer.Option(help="Network: align, compact, dense (the paper's) or aet.")] = "align",
    tile: Annotated[int, typer.Option(help="Edge of the tiles in pixels.")] = 224,
    outputs: Annotated[int, typer.Option(help="Numbers that a dense network estimates: 8, 6 or 4.")] = 8,
    max_pixels: Annotated[float, typer.Option(help="Largest displacement, in pixels of the tile.")] = 24.0,
    distance: Annotated[str, typer.Option(help="Distance to minimise: log, euclidean or geodesic.")] = "log",
    transforms: Annotated[
        str, typer.Option(help="Homographies of the pairs: random, stn or mix (half each).")
    ] = "random",
    stn: Annotated[Path | None, typer.Option(help="Weight file of train-stn, for transforms stn and mix.")] = None,
    damage_every: Annotated[
        int, typer.Option(help="One in so many predictions is damaged; 0: none, for dense and aet.")
    ] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the scenes and the pairs.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Weight file to start from.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the weights and the state to resume from.")] = Path("runs/net"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in the out folder.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train an inverse-transformation network from label maps alone, and measure it."""
    import torch

    from .inverse_net.evaluation import evaluate as evaluate_net
    from .inverse_net.training import PICTURE, NetConfig, check_out, collect_label_maps
    from .inverse_net.training import train_net as run_training

    config = NetConfig(
        architecture=architecture,
        tile=tile,
        outputs=outputs,
        distance=distance,
        max_pixels=max_pixels,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        init=str(init) if init else None,
        transforms=transforms,
        stn=str(stn) if stn else None,
        damage_every=damage_every,
    )
    if threads:
        torch.set_num_threads(threads)
    check_out(out, resume)  # before the label maps are made
    label_maps = collect_label_maps(data, split, root, size, scenes, shapes, seed)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    net = run_training(label_maps, config, out, resume=resume, device=device)
    scores = evaluate_net(net, label_maps.to(device), count=512, seed=seed + 1)
    typer.echo(
        f"On the boundaries that it was trained on, moved by up to 16 px: corner error {scores['corner_error']:.2f} px "
        f"({scores['relative_corner_error']:.0%} of predicting the identity), rank correlation {scores['spearman']:.2f}"
    )
    typer.echo(f"Pairs and what it makes of them: {out / PICTURE}")
    typer.echo(f'Weights: {out / f"{config.architecture}.safetensors"}; use them with InverseFormLoss(net="...")')


@app.command("train-stn")
def train_stn(
    data: MapsFrom = "scenes",
    root: MapsRoot = None,
    split: MapsSplit = "train",
    size: MapsSize = (360, 480),
    scenes: Scenes = 384,
    tile: Annotated[int, typer.Option(help="Edge of the tiles in pixels.")] = 224,
    kind: Annotated[str, typer.Option(help="Transformations: affine or homography.")] = "homography",
    max_pixels: Annotated[float, typer.Option(help="Largest displacement, in pixels of the tile.")] = 24.0,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    batch_size: Annotated[int, typer.Option(help="Tiles per step.")] = 32,
    lr: Annotated[float, typer.Option(help="First learning rate; much more makes it move all tiles alike.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the scenes and the views.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the weights.")] = Path("runs/stn"),
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train a spatial transformer from label maps alone: it makes the pairs of train-net --transforms stn."""
    import torch

    from .inverse_net.stn import WEIGHTS, StnConfig, check_stn_out
    from .inverse_net.stn import train_stn as run_training
    from .inverse_net.training import collect_label_maps

    config = StnConfig(
        tile=tile, kind=kind, max_pixels=max_pixels, steps=steps, batch_size=batch_size, lr=lr, seed=seed
    )
    if threads:
        torch.set_num_threads(threads)
    check_stn_out(out)  # before the label maps are made
    label_maps = collect_label_maps(data, split, root, size, scenes, 0, seed)
    run_training(label_maps, config, out, device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
    typer.echo(f"Weights: {out / WEIGHTS}; use them with train-net --transforms stn --stn ...")


@app.command()
def convert(
    release: Annotated[Path, typer.Argument(help="distance_measures_regressor.pth of the paper's public release.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Turn the weights that the paper's authors released into a safetensors file. Nothing in them is run."""
    from .nets import InverseTransformNet

    if out.exists():
        raise FileExistsError(f"out must be a new file, but {out} exists")
    InverseTransformNet.from_release(release).save(out)
    typer.echo(f'Weights: {out}; use them with InverseFormLoss(net="...", resize=(672, 1344))')


@app.command()
def calibrate(
    labels: Annotated[Path, typer.Option(help="Folder of PNG label maps: pixel values are class ids, 255 is void.")],
    out: Annotated[Path, typer.Option(help="Folder for calibration.png and calibration.json.")] = Path(
        "runs/calibration"
    ),
    net: Annotated[str, typer.Option(help="Inverse-transformation network: compact, or a weight file.")] = "compact",
    views: Annotated[int, typer.Option(help="Tiles to displace, spread over the label maps.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the tiles, the displacements and the damage.")] = 0,
    device: Annotated[str | None, typer.Option(help="Device; the GPU if there is one.")] = None,
) -> None:
    """Show what the InverseForm loss says of known displacements of one's own boundaries, and where it pulls them."""
    import torch

    from .inverse_net import calibration
    from .nets import InverseTransformNet

    label_maps = calibration.read_label_maps(labels)
    network = InverseTransformNet.compact() if net == "compact" else InverseTransformNet.from_file(net)
    network.requires_grad_(False).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    result = calibration.calibrate(network, label_maps, count=views, seed=seed)
    calibration.write(result, out / "calibration.json")
    calibration.draw(result, out / "calibration.png")
    typer.echo(
        f"{result['views']} views: {result['crisp']['match']:.2g} px at a match, "
        f"{result['degraded']['match']:.2g} px with a damaged prediction. See {out / 'calibration.png'}"
    )


@app.command()
def bench(
    backbone: Annotated[str, typer.Option(help="Backbone of the model.")] = "test_resnet",
    model: Annotated[str, typer.Option(help="Model of the registry.")] = "pyramid",
    crop: Annotated[tuple[int, int], typer.Option(help="Height and width of the images.")] = (512, 1024),
    classes: Annotated[int, typer.Option(help="Classes of the labels.")] = 19,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 1,
    amp: Annotated[str, typer.Option(help="Mixed precision of the model: none or bf16.")] = "none",
    headless: Annotated[bool, typer.Option("--headless", help="No boundary head where none is needed.")] = False,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            help="stock, release, reference, compiled or fused; repeatable. By default all, but for compiled on a CPU."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Turns that each provider takes.")] = 5,
    memory_gib: Annotated[
        float | None, typer.Option(help="Find the largest batch whose tensors fit into this; 0: into the GPU.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file, too.")] = None,
) -> None:
    """Measure what the loss costs in a training step on this machine, beside stock cross-entropy and the release."""
    import torch
    from rich.console import Console

    from .bench.report import bench as run_bench
    from .bench.report import table
    from .bench.steps import Setting
    from .files import write_atomically

    if threads:
        torch.set_num_threads(threads)
    setting = Setting(
        backbone=backbone,
        model=model,
        crop=crop,
        classes=classes,
        batch_size=batch_size,
        amp=amp,
        headless=headless,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    rows = run_bench(setting, provider, rounds, memory_gib)
    Console().print(table(setting, rows))
    if json_file:
        text = json.dumps({"setting": dataclasses.asdict(setting), "rows": rows}, indent=1)
        write_atomically(json_file, lambda file: file.write(text.encode()))


@app.command()
def doctor() -> None:
    """Versions, GPU, what runs on which backend and why not: the first lines of a bug report."""
    from .doctor import report

    typer.echo(report())


if __name__ == "__main__":
    main()
