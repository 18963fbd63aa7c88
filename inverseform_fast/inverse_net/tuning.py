"""A network is tuned on what a user's own model predicts, against the labels as they are."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import Generator

from ..files import locked, write_atomically
from ..nets import InverseTransformNet
from ..nets.weights import weight_file
from ..segmentation.checkpoint import load_checkpoint
from ..segmentation.progress import say
from .config import NetConfig, TuneConfig
from .noise import estimate_noise
from .pictures import draw_pairs
from .predictions import Predictions, evaluate_predictions, predict_run, prediction_pairs
from .state import check_out
from .training import train_net, training_history

FILE = "tuned.safetensors"
PREDICTED_SHARE = 3 / 4  # of the pairs; the others are made of the labels alone, so that crisp boundaries stay known
HELD_OUT = 5  # the last of so many parts; neighbors in a video would tell too much of each other
PIXELS = 9.0  # the displacement of the card


def beside(run: Path) -> Path:
    """Returns the weight file ``tuned.safetensors`` in the folder of a run or of a checkpoint."""
    return (run if run.is_dir() else run.parent) / FILE


def tune_net(
    run: Path,
    config: TuneConfig,
    out: Path,
    *,
    root: str | None = None,
    resume: bool = False,
    device: str | torch.device = "cpu",
    console: Console | None = None,
) -> InverseTransformNet:
    """Tunes a network on the predictions of a run; returns it in evaluation mode, with its ``noise``.

    No clean label is needed. The pairs are what the model predicts, against the given labels moved by known random
    homographies. Errors of the labels that differ from image to image are noise, over which the training averages.

    The files are ``out``, a card ``.md`` and a picture ``.png`` of its name, and a folder of its name with the state to
    resume from and TensorBoard's logs.

    Args:
        run: the folder of a run, or its checkpoint.
        config: the options of the tuning.
        out: new weight file.
        root: the folder of the data set; as in training if not given.
        resume: continue from the state that an interrupted tuning left.
        device: the device of the model and of the network.
        console: shows the progress.

    Raises:
        FileExistsError: ``out``, or a tuning of this name, exists, and ``resume`` is not asked for.
        BlockingIOError: another process tunes into ``out``.
        FileNotFoundError: the run, its data or the network is missing, or there is nothing to resume.
        ValueError: ``out`` is no ``.safetensors``, a file is damaged, there are fewer than two images, or their labels
            show no boundary.
        FloatingPointError: the error is no longer finite.
    """
    console = console or Console()
    folder, card, picture = (out.with_suffix(suffix) for suffix in ("", ".md", ".png"))
    if out.suffix != ".safetensors":
        raise ValueError(f"out must be a file .safetensors, got {out}")
    with locked(folder):
        check_out(folder, resume)
        for path in (out, card, picture):
            if path.exists() and not resume:
                raise FileExistsError(f"out must be a new file, but {path} exists")
        before = InverseTransformNet.from_file(weight_file(config.net)).requires_grad_(False).to(device)
        split = config.split or load_checkpoint(run).config.train_split
        predictions = predict_run(
            run, split, root=root, size=config.size, limit=config.images, device=device, console=console
        ).to(device)
        tuned_on, held_out = _parted(predictions)
        # This shows early what is wrong with the predictions.
        evaluate_predictions(before, held_out, held_out.kinds[0], count=len(held_out.labels))
        net = tune_on(predictions, config, folder, resume=resume, device=device, console=console)
        noise = (net.noise or 0.0) * net.tile / 2  # pixels
        say(console, "measuring the network")
        write_atomically(picture, lambda file: _picture(net, held_out, config).savefig(file, format="png"))
        text = _card(run, split, config, before, net, noise, tuned_on, held_out)
        write_atomically(card, lambda file: file.write(text.encode()))
        net.save(out, training=json.dumps(training_history(folder / f"{net.architecture}.safetensors")))
        return net


def tune_on(
    predictions: Predictions,
    config: TuneConfig,
    folder: Path,
    *,
    resume: bool = False,
    device: str | torch.device = "cpu",
    console: Console | None = None,
) -> InverseTransformNet:
    """Tunes a network on predictions that are known already; returns it in evaluation mode, with its ``noise``.

    This is what :func:`tune_net` does with the predictions of a run.

    Args:
        predictions: what a model predicts, on the device. The last fifth of the images is held out.
        config: the options of the tuning; those of the images do not count.
        folder: gets the state to resume from and TensorBoard's logs.
        resume: continue from the state that an interrupted tuning left.
        device: the device of the network.
        console: shows the progress.

    Raises:
        FileExistsError: a tuning is in ``folder``, and ``resume`` is not asked for.
        FileNotFoundError: the network is missing, or there is nothing to resume.
        ValueError: a file is damaged, there are fewer than two images, or their labels show no boundary.
        FloatingPointError: the error is no longer finite.
    """
    tuned_on, held_out = _parted(predictions)
    net = train_net(
        tuned_on.labels,
        _net_config(config),
        folder,
        predictions=[tuned_on],
        resume=resume,
        device=device,
        console=console,
    ).requires_grad_(False)
    net.noise = estimate_noise(net, held_out)
    return net


def _parted(predictions: Predictions) -> tuple[Predictions, Predictions]:
    """Those of the images to tune on, and those of the last fifth, which are held out."""
    count = len(predictions.labels)
    if count < 2:
        raise ValueError(f"the split must have at least two images, to tune on and to measure, got {count}")
    images = torch.arange(count)
    kept = count - max(1, count // HELD_OUT)
    return predictions.of(images[:kept]), predictions.of(images[kept:])


def _net_config(config: TuneConfig) -> NetConfig:
    net = InverseTransformNet.from_file(weight_file(config.net))
    sizes = {name: getattr(net, name) for name in net.sizes}
    shared = {name: getattr(config, name) for name in ("max_pixels", "steps", "batch_size", "lr", "seed")}
    options = {"architecture": net.architecture, "init": str(weight_file(config.net)), **sizes, **shared}
    return NetConfig(**options, predicted_share=PREDICTED_SHARE)


def _picture(net: InverseTransformNet, held_out: Predictions, config: TuneConfig) -> Figure:
    generator = Generator(held_out.labels.device).manual_seed(config.seed)
    displacement = 2 * PIXELS / net.tile
    return draw_pairs(net, prediction_pairs([held_out], 6, net.tile, displacement, generator, turn=False))


def _card(
    run: Path,
    split: str,
    config: TuneConfig,
    before: InverseTransformNet,
    net: InverseTransformNet,
    noise: float,
    tuned_on: Predictions,
    held_out: Predictions,
) -> str:
    """Measures both networks on the images that were held out; returns Markdown. ``noise`` is in pixels."""
    rows = []
    for kind in held_out.kinds:
        scores = [evaluate_predictions(each, held_out, kind, pixels=PIXELS) for each in (before, net)]
        cells = [f"{s['read']:.1f} | {s['left']:.1f} | {s['better']:.0%}" for s in scores]
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    height, width = held_out.labels.shape[-2:]
    return f"""# A network tuned on the predictions of a model

| | |
|---|---|
| the model's run | `{run}` |
| the network before | `{config.net}` |
| images | {len(tuned_on.labels)} of the split `{split}`, at {height} x {width} |
| steps | {config.steps} of {config.batch_size} pairs, seed {config.seed} |
| its noise | {noise:.1f} px |

Three quarters of the pairs show what the model predicts, against the labels as they are, moved by known homographies.
The others are made of the labels alone.

The table was measured on {len(held_out.labels)} other images of the split, on tiles of {net.tile} x {net.tile}.
*Read* is the displacement that the network reads of the labels as they are. *Left* is what is left of {PIXELS:g} px
after the labels were moved back by the estimate, and *better* is the share of tiles that are nearer after it. All are
means over the corners of the tiles, in their pixels. Where the labels are displaced, that counts in all of them.

| predicted boundary | before: read, px | left, px | better | tuned: read, px | left, px | better |
|---|---:|---:|---:|---:|---:|---:|
{chr(10).join(rows)}

Of the displacements that the network reads below its noise, nobody can say whether they are the labels'.
"""
