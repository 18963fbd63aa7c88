"""The label files of a data set are written anew, moved to where a trained model sees their boundaries.

The originals stay as they are. A report ranks the images by how far their labels were off.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from inverseform_fast.functional import boundary_map

from ..devices import choose_device
from ..files import LOCK, locked, write_atomically
from .checkpoint import Checkpoint, load_checkpoint
from .config import TrainConfig
from .datasets import SegmentationDataset
from .evaluation import check_tasks, open_dataset, restore_model, with_data
from .label_report import Shift, remove_label_report, write_label_report
from .models.base import model_inputs
from .moved_labels import MovedLabels
from .progress import say, track
from .tasks import Task
from .transforms import EvalTransform

TUNED = "tuned.safetensors"  # in the folder of a run: the network that was tuned on its predictions


def align_label_files(
    run: Path,
    out: Path,
    data: str | None = None,
    root: str | None = None,
    split: str | None = None,
    *,
    net: str | None = None,
    overwrite: bool = False,
    device: str | None = None,
    console: Console | None = None,
) -> list[Shift]:
    """Writes the moved labels of a split, ``report.md``, ``report.json`` and ``worst.png`` into ``out``.

    A label file has the path below ``out`` that the original has below ``root``, and its mode and palette. Labels that
    are read from no file become ``labels/NAME.png``. The report is written last.

    Args:
        run: the folder of a run, or its checkpoint.
        out: a new or empty folder that neither lies in ``root`` nor holds it.
        data, root: the data set; that of the training if not given.
        split: the one that was trained on if not given.
        net: network, ``"predictions"``, ``"compact"`` or a weight file. If not given, it is ``tuned.safetensors`` in
            the run's folder, or ``"predictions"`` where there is none.
        overwrite: write into a folder that holds files.
        device: None is the GPU if there is one.
        console: shows the progress.

    Returns:
        What became of each image, those that moved most first.

    Raises:
        FileExistsError: ``out`` holds files.
        BlockingIOError: another process writes into ``out``.
        FileNotFoundError: the checkpoint, the network or the data are missing.
        ValueError: ``out`` would mix with the data set, the data set has other classes, or a file is bad.
    """
    checkpoint = load_checkpoint(run)
    config = with_data(checkpoint.config, data, root)
    config = replace(config, net=net or _network(run))
    console = console or Console()
    with locked(out):
        _check_out(out, config.root, overwrite)
        aligned = _AlignedLabels(checkpoint, config, split or config.train_split, choose_device(device))
        files = [out / aligned.file(index) for index in range(len(aligned.dataset))]
        _check_originals(aligned.dataset, files)
        remove_label_report(out)  # so that a folder with a report is complete

        shifts = []
        for index in track(range(len(files)), "aligning", console):
            moved, shift = aligned.moved(index)
            _write_labels(files[index], moved.after, aligned.dataset.label_file(index), aligned.task)
            shifts.append(shift)
        say(console, "writing the report")
        ranking = sorted(range(len(shifts)), key=lambda index: (-shifts[index].mean_px, -shifts[index].max_px))
        shifts = [shifts[index] for index in ranking]
        worst = [aligned.moved(index)[0] for index, shift in zip(ranking[:4], shifts, strict=False) if shift.mean_px]
        subject = f"{config.data}, {split or config.train_split}"
        by = f"the model of {run} after {checkpoint.step} steps and the network {config.net}"
        write_label_report(out, subject, by, shifts, worst, aligned.task)
        return shifts


def _network(run: Path) -> str:
    tuned = (run if run.is_dir() else run.parent) / TUNED
    return str(tuned) if tuned.is_file() else "predictions"


def _check_out(out: Path, root: str | None, overwrite: bool) -> None:
    """Raises an error if results would mix with a data set or with other files."""
    if root is not None:
        folder, originals = out.resolve(), Path(root).resolve()
        if folder.is_relative_to(originals) or originals.is_relative_to(folder):
            raise ValueError(f"out must be a folder apart from that of the data set, {root}, got {out}")
    found = [path.name for path in out.iterdir() if path.name != LOCK]
    if found and not overwrite:
        raise FileExistsError(
            f"out must be a folder without files, but {out} holds {found[0]}: overwrite it, or choose another folder"
        )


def _check_originals(dataset: SegmentationDataset, files: list[Path]) -> None:
    """Raises an error if a link leads from the out folder to an original."""
    for index, file in enumerate(files):
        original = dataset.label_file(index)
        if original and file.resolve() == original.resolve():
            raise ValueError(f"out must not lead to the original labels, but {file} is {original}")


class _AlignedLabels:
    """The labels of a data set, moved one by one."""

    def __init__(self, checkpoint: Checkpoint, config: TrainConfig, split: str, device: torch.device) -> None:
        aligners = {name: aligner for name, task in checkpoint.tasks.items() if (aligner := task.aligner(config))}
        if not aligners:
            raise ValueError(
                f"run must have a task with an aligner, such as semantic, got {', '.join(checkpoint.tasks)}"
            )
        name, aligner = next(iter(aligners.items()))
        self.task, self.config, self.device = checkpoint.tasks[name], config, device
        self.aligner = aligner.to(device)
        self.dataset = open_dataset(config, split)
        check_tasks(self.dataset, {name: self.task})
        self.transform = EvalTransform(self.dataset.tasks, config.eval_size)
        self.model = restore_model(checkpoint).to(device)

    def file(self, index: int) -> Path:
        """Returns the path of a label file below the out folder."""
        original = self.dataset.label_file(index)
        if original is None or self.config.root is None:
            return Path("labels") / f"{self.dataset.names[index]}.png"
        return original.relative_to(self.config.root)

    @torch.no_grad()
    def moved(self, index: int) -> tuple[MovedLabels, Shift]:
        """Returns the labels of a sample before and after, on the CPU, and how far they moved."""
        sample = self.dataset[index]
        labels = sample[self.task.name].as_subclass(Tensor)
        inputs = {name: value[None] for name, value in self.transform(sample).items()}
        predictions = self.model(model_inputs(self.model, inputs, self.device))
        alignment = self.aligner(predictions, {self.task.name: labels[None].to(self.device)})
        after, displacement = alignment.labels[0].cpu(), alignment.displacement[0].cpu()
        boundary = boundary_map(labels[None], self.config.radius, int(self.task.void))[0] == 1
        lengths = displacement.norm(dim=0)[boundary]
        lengths = lengths if len(lengths) else torch.zeros(1)
        name = self.dataset.names[index]
        shift = Shift(
            name=name,
            file=self.file(index).as_posix(),
            mean_px=lengths.mean().item(),
            median_px=lengths.median().item(),
            max_px=lengths.max().item(),
            tiles_moved=alignment.moved.float().mean().item(),
            pixels_changed=(after != labels).float().mean().item(),
            finite=bool(alignment.finite),
        )
        return MovedLabels(name, sample["image"].as_subclass(Tensor), labels, after, displacement), shift


def _write_labels(path: Path, labels: Tensor, original: Path | None, task: Task) -> None:
    """Writes class ids (H, W) as a PNG file of 8 bits, with the original's palette if it has one."""
    picture = Image.fromarray(labels.to(torch.uint8).numpy())
    if original is None:
        picture.putpalette(task.draw(torch.arange(256)[None]).flatten().tolist())
    else:
        with Image.open(original) as given:
            if palette := given.getpalette():
                picture.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: picture.save(file, "PNG", bits=8))
