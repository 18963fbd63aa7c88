"""Commands that train, tune, convert and calibrate inverse-transformation networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ..devices import choose_device
from ..files import check_new_file, locked
from ..inverse_net.config import MapsConfig, NetConfig, StnConfig, TuneConfig
from .options import Device, Threads, options_of, use_threads


@options_of(MapsConfig, NetConfig)
def train_net(
    given_maps: dict[str, Any],
    given: dict[str, Any],
    *,
    shapes: Annotated[
        int, typer.Option(help="How many maps of abstract shapes to make, if the data are scenes.")
    ] = 384,
    predictions: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN",
            help="Run of inverseform-fast train whose predictions of its eval_split the network also learns from; "
            "repeatable.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the weights and the state to resume from.")] = Path("runs/net"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the state in the out folder.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train an inverse-transformation network from label maps, and from models' predictions if given; measure it."""
    from rich.console import Console

    from ..inverse_net.evaluation import evaluate
    from ..inverse_net.label_maps import collect_label_maps
    from ..inverse_net.predictions import predict_run
    from ..inverse_net.state import check_out
    from ..inverse_net.training import PICTURE, check_files
    from ..inverse_net.training import train_net as run_training

    maps, config = MapsConfig(**given_maps), NetConfig(**given)
    torch_device = choose_device(device)
    use_threads(threads)
    with locked(out):
        check_out(out, resume)  # making the label maps takes a while, so an error that needs none comes before
        check_files(config)
        predicted = [predict_run(run, device=torch_device, console=Console()) for run in predictions or ()]
        typer.echo("making the label maps")
        label_maps = collect_label_maps(**dataclasses.asdict(maps), shapes=shapes, seed=config.seed)
        net = run_training(label_maps, config, out, predictions=predicted, resume=resume, device=torch_device)
    typer.echo("measuring the network")
    scores = evaluate(net, label_maps.to(torch_device), count=512, seed=config.seed + 1)
    typer.echo(
        "On the boundaries that it was trained on, moved by up to 16 px, the network has a corner error of "
        f"{scores['corner_error']:.2f} px ({scores['relative_corner_error']:.0%} of predicting the identity) and a "
        f"rank correlation of {scores['spearman']:.2f}."
    )
    typer.echo(f"{out / PICTURE} shows training pairs and the network's estimates.")
    typer.echo(
        f'The weights are in {out / f"{config.architecture}.safetensors"}: use them with InverseFormLoss(net="...").'
    )


@options_of(TuneConfig)
def tune_net(
    given: dict[str, Any],
    *,
    run: Annotated[Path, typer.Argument(help="Folder of a run of inverseform-fast train, or its checkpoint.")],
    root: Annotated[str | None, typer.Option(help="Folder of the data set; as in training if not given.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="New weight file; tuned.safetensors beside the checkpoint if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a tuning that was interrupted.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Tune an inverse-transformation network on a run's own predictions and labels; no clean label is needed."""
    from ..inverse_net.tuning import beside
    from ..inverse_net.tuning import tune_net as run_tuning

    config = TuneConfig(**given)
    torch_device = choose_device(device)
    use_threads(threads)
    out = out or beside(run)
    run_tuning(run, config, out, root=root, resume=resume, device=torch_device)
    typer.echo(out.with_suffix(".md").read_text())
    typer.echo(f'The weights are in {out}: use them with InverseFormLoss(net="...") or LabelAligner(net="...").')


@options_of(MapsConfig, StnConfig)
def train_stn(
    given_maps: dict[str, Any],
    given: dict[str, Any],
    *,
    out: Annotated[Path, typer.Option(help="Folder for the weights.")] = Path("runs/stn"),
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train a spatial transformer from label maps alone; train-net --transforms stn makes its training pairs by it."""
    from ..inverse_net.label_maps import collect_label_maps
    from ..inverse_net.stn import WEIGHTS, check_stn_out
    from ..inverse_net.stn import train_stn as run_training

    maps, config = MapsConfig(**given_maps), StnConfig(**given)
    torch_device = choose_device(device)
    use_threads(threads)
    with locked(out):
        check_stn_out(out)  # making the label maps takes a while, so an error that needs none comes before
        typer.echo("making the label maps")
        label_maps = collect_label_maps(**dataclasses.asdict(maps), shapes=0, seed=config.seed)
        run_training(label_maps, config, out, device=torch_device)
    typer.echo(f"The weights are in {out / WEIGHTS}: use them with train-net --transforms stn --stn ...")


def convert(
    release: Annotated[Path, typer.Argument(help="distance_measures_regressor.pth of the paper's public release.")],
    out: Annotated[Path, typer.Argument(help="New safetensors file to write.")],
) -> None:
    """Convert the weights that the paper's authors released to a safetensors file. No code in their file is run."""
    from ..nets import InverseTransformNet

    if out.exists():
        raise FileExistsError(f"out must be a new file, but {out} exists")
    check_new_file(out, "out")
    InverseTransformNet.from_release(release).save(out)
    typer.echo(f'The weights are in {out}: use them with InverseFormLoss(net="...", resize=(672, 1344)).')


def calibrate(
    labels: Annotated[Path, typer.Option(help="Folder of PNG label maps: pixel values are class ids, 255 is void.")],
    out: Annotated[Path, typer.Option(help="Folder for calibration.png and calibration.json.")] = Path(
        "runs/calibration"
    ),
    net: Annotated[
        str, typer.Option(help="Inverse-transformation network: compact, predictions, or a weight file.")
    ] = "compact",
    views: Annotated[int, typer.Option(help="How many tiles to displace, spread evenly over the label maps.")] = 128,
    seed: Annotated[int, typer.Option(help="Seed of the tiles, the displacements and the damaged predictions.")] = 0,
    device: Device = None,
) -> None:
    """Displace the boundaries of your own label maps by known amounts; show InverseForm's values and gradients."""
    from rich.console import Console

    from ..inverse_net.calibration import calibrate as measure
    from ..inverse_net.calibration import draw, write
    from ..inverse_net.label_maps import read_label_maps
    from ..nets import InverseTransformNet
    from ..nets.weights import weight_file

    torch_device = choose_device(device)
    with locked(out):
        network = InverseTransformNet.from_file(weight_file(net)).requires_grad_(False).to(torch_device)
        result = measure(network, read_label_maps(labels), views=views, seed=seed, console=Console())
        write(result, out / "calibration.json")
        draw(result, out / "calibration.png")
    typer.echo(
        f"The median loss of {result['views']} tiles at a match is {result['crisp']['match']:.2g} px, and "
        f"{result['degraded']['match']:.2g} px with a damaged prediction. {out / 'calibration.png'} shows all."
    )
