"""``python -m benchmarks.studies.ablation --root CAMVID`` varies the choices behind InverseForm one at a time.

It trains what has no result yet under ``runs/ablation``: inverse-transformation networks by architecture, distance,
tile and source of homographies, and segmentation models whose loss uses them. The result of an arm is written when it
is finished; an interrupted arm begins anew. ``make docs`` turns the results into docs/measured/ablation.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from benchmarks.common import results
from benchmarks.common.machine import machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.results import Json
from benchmarks.common.scores import COLUMNS
from inverseform_fast import InverseTransformNet
from inverseform_fast.homography import DISTANCES
from inverseform_fast.inverse_net.config import NetConfig
from inverseform_fast.inverse_net.evaluation import evaluate, says_nothing
from inverseform_fast.inverse_net.label_maps import collect_label_maps
from inverseform_fast.inverse_net.state import STATE
from inverseform_fast.inverse_net.training import train_net, training_history
from inverseform_fast.nets import WEIGHTS
from inverseform_fast.segmentation.config import TrainConfig
from inverseform_fast.segmentation.training.run import train

TRAINED, EVALUATED = 24 / 224, 16 / 224  # largest |a|, as a share of the tile
# Each recipe takes some minutes of CPU time. From damaged pairs dense and aet learn nothing.
RECIPES: dict[str, Json] = {
    "align": {"steps": 1000, "batch_size": 16, "lr": 2.5e-3},
    "dense": {"steps": 1000, "batch_size": 128, "lr": 1e-4, "damage_every": 0},
    "aet": {"steps": 1500, "batch_size": 64, "lr": 1e-3, "damage_every": 0},
}
SHORT: Json = {
    "steps": 300, "batch_size": 4, "crop": (224, 448), "device": "cpu",
    "boundary_head": True, "gamma": 0.3, "edge": 0.0, "dice": 0.0, "f1": 0.0,
}  # fmt: skip
RESULT = "result.json"
SHIPPED, WHOLE, SEGMENTATION = "shipped", "align-whole", "segmentation"


@dataclass(frozen=True)
class Study:
    """All arms, with sizes that a test makes smaller.

    Attributes:
        root: folder of the data set ``data``.
        stn: weight file of the spatial transformer.
        runs: folder of all that is trained.
        seeds: seeds of the segmentation models.
        data: name of the data set.
        tiles: edges in pixels. All networks have the first one, except where the tile is the question; the last one
            also holds a whole image.
        size: height and width of the label maps.
        maps: number of procedural scenes, and of shapes, to train networks on.
        pairs: number of pairs to measure a network by.
        recipes: options of NetConfig, by architecture.
        short: options of TrainConfig.
    """

    root: Path | None = None
    stn: Path = Path("runs/stn/stn.safetensors")
    runs: Path = Path("runs/ablation")
    seeds: tuple[int, ...] = (0,)
    data: str = "camvid"
    tiles: tuple[int, int, int] = (56, 112, 224)
    size: tuple[int, int] = (360, 480)
    maps: int = 128
    pairs: int = 1024
    recipes: Mapping[str, Json] = field(default_factory=lambda: RECIPES)
    short: Json = field(default_factory=lambda: SHORT)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The arms of each table; they are networks, except in the last table."""
        tiles = ["align-log", *(f"align-{tile}" for tile in self.tiles[1:]), WHOLE]
        shipped = [f"{SHIPPED}-{distance}" for distance in DISTANCES]
        return {
            "networks": [f"{name}-{distance}" for name in self.recipes for distance in DISTANCES] + [SHIPPED],
            "tiles": tiles,
            "transforms": ["align-log", "align-stn", "align-mix"],
            SEGMENTATION: ["boundary", *shipped, "dense-log", "aet-log", *tiles],
        }

    @cached_property
    def train_maps(self) -> Tensor:
        return collect_label_maps("scenes", "train", None, self.size, self.maps, self.maps, seed=0)

    @cached_property
    def test_maps(self) -> Tensor:
        return collect_label_maps(self.data, "test", self.root, self.size, self.maps, self.maps, seed=1)

    def run(self, group: str, name: str) -> None:
        """Train and measure an arm, unless its result is there."""
        folder = self.net_folder(name)
        if group == SEGMENTATION:
            for config in (self.train_config(name, seed) for seed in self.seeds):
                # The root is a path of this machine, so the result must not depend on it.
                once(Path(config.out), config.to_dict() | {"root": None}, partial(train_model, config))
        elif name == SHIPPED:
            weights = WEIGHTS / "compact.safetensors"
            digest = hashlib.sha256(weights.read_bytes()).hexdigest()
            once(folder, {"sha256": digest}, lambda: self.measured(weights, self.test_maps))
        else:
            once(folder, asdict(self.net_config(name)), partial(self.train_net, name))

    def net_config(self, name: str) -> NetConfig:
        architecture, _, choice = name.partition("-")
        tile = self.tiles[0]
        options: Json = {}
        if choice in DISTANCES:
            options = {"distance": choice}
        elif choice in ("stn", "mix"):
            options = {"transforms": choice, "stn": str(self.stn)}
        else:
            tile = self.tiles[-1] if name == WHOLE else int(choice)
        recipe = self.recipes[architecture]
        return NetConfig(architecture=architecture, tile=tile, max_pixels=TRAINED * tile, **options, **recipe)

    def net_folder(self, name: str) -> Path:
        return self.runs / "nets" / name

    def train_net(self, name: str) -> Json:
        config, maps = self.net_config(name), (self.train_maps, self.test_maps)
        train_maps, test_maps = (squeezed(label_maps, config.tile) for label_maps in maps) if name == WHOLE else maps
        begin = time.process_time()
        train_net(train_maps, config, self.net_folder(name), save_every=config.steps)
        seconds = time.process_time() - begin
        (self.net_folder(name) / STATE).unlink()  # the dense network's takes 400 MB
        return {"cpu_seconds": seconds, **self.measured(self.weights(name), test_maps)}

    def weights(self, name: str) -> Path:
        return self.net_folder(name) / f"{self.net_config(name).architecture}.safetensors"

    def measured(self, weights: Path, maps: Tensor) -> Json:
        net = InverseTransformNet.from_file(weights)
        sizes: Json = {"count": self.pairs, "batch": min(self.pairs, 64), "max_pixels": EVALUATED * net.tile}
        return {
            "tile": net.tile,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "pairs_seen": sum(stage["steps"] * stage["batch_size"] for stage in training_history(weights)),
            "crisp": evaluate(net, maps, **sizes),
            "degraded": evaluate(net, maps, **sizes, degraded=True),
            "noise_px": says_nothing(net, maps, count=min(self.pairs, 32))["noise"]["median"],
        }

    def train_config(self, name: str, seed: int) -> TrainConfig:
        options: Json
        if name == "boundary":
            options = {"loss": "boundary"}
        elif name.startswith(SHIPPED):
            options = {"loss": "inverseform", "distance": name.removeprefix(f"{SHIPPED}-")}
        else:
            whole = (self.tiles[-1], self.tiles[-1]) if name == WHOLE else None
            options = {"loss": "inverseform", "net": str(self.weights(name)), "resize": whole}
        return TrainConfig(
            data=self.data, root=str(self.root) if self.root else None, eval_split="test", seed=seed,
            out=str(self.runs / SEGMENTATION / f"{name}-{seed}"), **options, **self.short,
        )  # fmt: skip

    def results(self) -> Json:
        """Collect the finished arms: networks by name, and for each loss a list over the seeds."""

        def found(kind: str, names: Iterable[str], seeds: str = "") -> dict[str, list[Json]]:
            files = {name: sorted((self.runs / kind).glob(f"{name}{seeds}/{RESULT}")) for name in names}
            return {name: [json.loads(path.read_text()) for path in paths] for name, paths in files.items() if paths}

        *nets, losses = self.groups.values()
        one_each = found("nets", dict.fromkeys(chain(*nets)))
        return {
            "nets": {name: result for name, (result,) in one_each.items()},
            SEGMENTATION: found(SEGMENTATION, losses, "-[0-9]*"),
        }


def once(out: Path, config: Json, measure: Callable[[], Json]) -> None:
    """Write what ``measure`` returns into the folder ``out``, unless it is there; an interrupted arm begins anew.

    Raises:
        ValueError: the result there has another configuration.
    """
    path = out / RESULT
    if path.exists():
        old = results.read(path)["config"]
        if changed := [name for name in old if config.get(name) != old[name]]:
            raise ValueError(f"{out} must hold a result of the same {', '.join(changed)}: move the other one away")
        return
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    print(f"{out}: begins", flush=True)
    results.write(path, {"config": config, **measure()})


def train_model(config: TrainConfig) -> Json:
    begin = time.process_time()
    metrics = train(config)
    return {"cpu_seconds": time.process_time() - begin, "metrics": {name: metrics[name] for name in COLUMNS}}


def squeezed(label_maps: Tensor, tile: int) -> Tensor:
    return resize(label_maps, [tile, tile], InterpolationMode.NEAREST_EXACT)


def main() -> None:
    default = Study()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation.json", help="JSON file for the results")
    parser.add_argument("--only", nargs="+", choices=default.groups, default=list(default.groups), metavar="GROUP")
    parser.add_argument("--arms", nargs="+", help="arms of these groups; all by default")
    parser.add_argument("--stn", type=Path, default=default.stn, help="file that inverseform-fast train-stn wrote")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of the segmentation models")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(root=options.root, stn=options.stn, seeds=tuple(options.seeds))
    arms = [(group, name) for group in options.only for name in study.groups[group]]
    if options.arms:
        if unknown := set(options.arms) - {name for _, name in arms}:
            parser.error(f"--arms must be arms of {', '.join(options.only)}, got {', '.join(sorted(unknown))}")
        arms = [(group, name) for group, name in arms if name in options.arms]
    if {"align-stn", "align-mix"} & {name for _, name in arms} and not options.stn.is_file():
        parser.error(f"--stn: no file {options.stn}: run inverseform-fast train-stn first, or other groups by --only")
    about = machine(on_gpu=False)
    for group, name in arms:
        study.run(group, name)
        results.write(options.out, {"machine": about, **study.results()})


if __name__ == "__main__":
    main()
