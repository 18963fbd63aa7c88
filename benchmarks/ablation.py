"""The choices behind InverseForm, one at a time: ``python -m benchmarks.ablation --root CAMVID --out FILE.json``.

Trains what has no result yet under ``runs/ablation``: inverse-transformation networks by architecture, distance, tile
and source of homographies, and segmentation models under them. The result of an arm is written when it is finished; one
that was interrupted begins anew. The tables are of the results that are there; without ``--root`` nothing is trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from benchmarks import gpu
from benchmarks.alignment import filled, table
from benchmarks.scores import COLUMNS, spread
from benchmarks.so3_speed import cpu
from inverseform_fast import InverseTransformNet
from inverseform_fast.files import write_atomically
from inverseform_fast.homography import DISTANCES
from inverseform_fast.inverse_net.evaluation import evaluate, says_nothing
from inverseform_fast.inverse_net.training import STATE, NetConfig, collect_label_maps, train_net, training_history
from inverseform_fast.nets import WEIGHTS
from inverseform_fast.segmentation.training.config import TrainConfig
from inverseform_fast.segmentation.training.run import train

TRAINED, EVALUATED = 24 / 224, 16 / 224  # largest |a|, as a share of the tile
# Of some minutes of CPU time each. From damaged pairs dense and aet learn nothing.
RECIPES: dict[str, dict[str, Any]] = {
    "align": {"steps": 1000, "batch_size": 16, "lr": 2.5e-3},
    "dense": {"steps": 1000, "batch_size": 128, "lr": 1e-4, "damage_every": 0},
    "aet": {"steps": 1500, "batch_size": 64, "lr": 1e-3, "damage_every": 0},
}
SHORT: dict[str, Any] = {"steps": 300, "batch_size": 4, "crop": (224, 448), "gamma": 0.3, "device": "cpu"}
RESULT = "result.json"
SHIPPED, WHOLE, SEGMENTATION = "shipped", "align-whole", "segmentation"
SOURCES = {"align-log": "random", "align-stn": "STN", "align-mix": "both"}


@dataclass(frozen=True)
class Study:
    """All arms, by sizes that a test makes smaller.

    Attributes:
        root: folder of the data set ``data``.
        stn: weights of the spatial transformer.
        runs: folder of all that is trained.
        seeds: of the segmentation models.
        tiles: edges in pixels. The first one is that of all networks where the tile is not the question, and the last
            one holds the whole image, too.
        size: height and width of the label maps.
        maps: procedural scenes to train networks on; as many shapes.
        pairs: to measure a network by.
        recipes: by architecture, what NetConfig is to have.
        short: what TrainConfig is to have.
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
    recipes: Mapping[str, dict[str, Any]] = field(default_factory=lambda: RECIPES)
    short: Mapping[str, Any] = field(default_factory=lambda: SHORT)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """The arms of each table; those of all but the last are networks."""
        tiles = ["align-log", *(f"align-{tile}" for tile in self.tiles[1:]), WHOLE]
        shipped = [f"{SHIPPED}-{distance}" for distance in DISTANCES]
        return {
            "networks": [f"{name}-{distance}" for name in self.recipes for distance in DISTANCES] + [SHIPPED],
            "tiles": tiles,
            "transforms": list(SOURCES),
            SEGMENTATION: ["boundary", *shipped, "dense-log", "aet-log", *tiles],
        }

    @cached_property
    def train_maps(self) -> Tensor:
        return collect_label_maps("scenes", "train", None, self.size, self.maps, self.maps, seed=0)

    @cached_property
    def test_maps(self) -> Tensor:
        return collect_label_maps(self.data, "test", self.root, self.size, self.maps, self.maps, seed=1)

    def run(self, group: str, name: str) -> None:
        """Train and measure an arm, unless that was done."""
        folder = self.net_folder(name)
        if group == SEGMENTATION:
            for config in (self.train_config(name, seed) for seed in self.seeds):
                # Without the root, which is this machine's.
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
        options: dict[str, Any] = {}
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

    def train_net(self, name: str) -> dict[str, Any]:
        config, maps = self.net_config(name), (self.train_maps, self.test_maps)
        train_maps, test_maps = (squeezed(each, config.tile) for each in maps) if name == WHOLE else maps
        begin = time.process_time()
        train_net(train_maps, config, self.net_folder(name), save_every=config.steps)
        seconds = time.process_time() - begin
        (self.net_folder(name) / STATE).unlink()  # 400 MB of the dense network
        return {"cpu_seconds": seconds, **self.measured(self.weights(name), test_maps)}

    def weights(self, name: str) -> Path:
        return self.net_folder(name) / f"{self.net_config(name).architecture}.safetensors"

    def measured(self, weights: Path, maps: Tensor) -> dict[str, Any]:
        net = InverseTransformNet.from_file(weights)
        sizes: dict[str, Any] = {"count": self.pairs, "batch": min(self.pairs, 64), "max_pixels": EVALUATED * net.tile}
        return {
            "tile": net.tile,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "pairs_seen": sum(stage["steps"] * stage["batch_size"] for stage in training_history(weights)),
            "crisp": evaluate(net, maps, **sizes),
            "degraded": evaluate(net, maps, **sizes, degraded=True),
            "noise_px": says_nothing(net, maps, count=min(self.pairs, 32))["noise"]["median"],
        }

    def train_config(self, name: str, seed: int) -> TrainConfig:
        options: dict[str, Any]
        if name == "boundary":
            options = {"loss": "boundary"}
        elif name.startswith(SHIPPED):
            options = {"distance": name.removeprefix(f"{SHIPPED}-")}
        else:
            whole = (self.tiles[-1], self.tiles[-1]) if name == WHOLE else None
            options = {"net": str(self.weights(name)), "resize": whole}
        return TrainConfig(
            data=self.data, root=str(self.root) if self.root else None, eval_split="test", seed=seed,
            out=str(self.runs / SEGMENTATION / f"{name}-{seed}"), **options, **self.short,
        )  # fmt: skip

    def results(self) -> dict[str, Any]:
        """Of the finished arms: networks by name, and for each loss a list over the seeds."""

        def found(kind: str, names: Iterable[str], seeds: str = "") -> dict[str, list[Any]]:
            files = {name: sorted((self.runs / kind).glob(f"{name}{seeds}/{RESULT}")) for name in names}
            return {name: [json.loads(file.read_text()) for file in each] for name, each in files.items() if each}

        *nets, losses = self.groups.values()
        one_each = found("nets", dict.fromkeys(chain(*nets)))
        return {
            "nets": {name: result for name, (result,) in one_each.items()},
            SEGMENTATION: found(SEGMENTATION, losses, "-[0-9]*"),
        }


def once(out: Path, config: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> None:
    """Write what ``measure`` returns into the folder ``out``, unless that was done; what was interrupted begins anew.

    Raises:
        ValueError: the result there is of another configuration.
    """
    path = out / RESULT
    if path.exists():
        old = json.loads(path.read_text())["config"]
        if changed := [name for name in old if config.get(name) != old[name]]:
            raise ValueError(f"{out} holds the result of another {', '.join(changed)}: move it away")
        return
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    print(f"{out}: begins", flush=True)
    text = json.dumps({"config": config, **measure()}, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def train_model(config: TrainConfig) -> dict[str, Any]:
    begin = time.process_time()
    metrics = train(config)
    return {"cpu_seconds": time.process_time() - begin, "metrics": {name: metrics[name] for name in COLUMNS}}


def squeezed(label_maps: Tensor, tile: int) -> Tensor:
    return resize(label_maps, [tile, tile], InterpolationMode.NEAREST_EXACT)


def tables(study: Study, results: dict[str, Any]) -> dict[str, str]:
    """Markdown for each group, of the arms that are finished."""
    tiles = {f"align-{edge}": str(edge) for edge in study.tiles}
    tiles |= {"align-log": str(study.tiles[0]), WHOLE: f"{study.tiles[-1]}, whole image"}
    accuracy = ["error, crisp, %", "degraded, %", "rank, crisp", "degraded"]
    cost = ["pairs seen", "CPU min"]

    def of_net(net: dict[str, Any], *more: str) -> list[str]:
        scores = net["crisp"], net["degraded"]
        errors = [f"{100 * each['relative_corner_error']:.1f}" for each in scores]
        ranks = [f"{each['spearman']:.3f}" for each in scores]
        minutes = f"{net['cpu_seconds'] / 60:.1f}" if "cpu_seconds" in net else "-"
        return [f"{net['pairs_seen']:,}", minutes, *errors, *ranks, *more]

    def network(name: str, net: dict[str, Any]) -> list[str]:
        shipped = f" (tile {net['tile']}, trained far longer)" if name == SHIPPED else ""
        return [spelled(name) + shipped, *of_net(net, f"{net['noise_px']:.2f}", f"{net['parameters']:,}")]

    def tile(name: str, net: dict[str, Any]) -> list[str]:
        # Image pixels in one of the tile; a squeezed image has other ones across than down.
        pixels = math.sqrt(math.prod(study.size)) / net["tile"] if name == WHOLE else 1
        moved, error = EVALUATED * net["tile"], net["crisp"]["corner_error"]
        return [tiles[name], *of_net(net, f"{moved:.1f}", f"{moved * pixels:.1f}", f"{error * pixels:.2f}")]

    def source(name: str, net: dict[str, Any]) -> list[str]:
        return [SOURCES[name], *of_net(net)]

    def loss(name: str, runs: list[dict[str, Any]]) -> list[str]:
        scores = [spread([run["metrics"].get(column) for run in runs]) for column in COLUMNS]
        return [spelled(name), str(len(runs)), f"{sum(run['cpu_seconds'] for run in runs) / 60:.1f}", *scores]

    def filled_in(group: str, head: list[str], row: Callable[[str, Any], list[str]]) -> str:
        found = results[SEGMENTATION if group == SEGMENTATION else "nets"]
        rows = [row(name, found[name]) for name in study.groups[group] if name in found]
        return table(head, {first: rest for first, *rest in rows}) if rows else "Not measured.\n"

    moves = ["largest move, tile px", "image px", "error, image px"]
    return {
        "networks": filled_in("networks", ["network, distance", *cost, *accuracy, "noise, px", "parameters"], network),
        "tiles": filled_in("tiles", ["tile", *cost, *accuracy, *moves], tile),
        "transforms": filled_in("transforms", ["homographies", *cost, *accuracy], source),
        SEGMENTATION: filled_in(SEGMENTATION, ["loss", "seeds", "CPU min", *COLUMNS.values()], loss),
    }


def spelled(name: str) -> str:
    return {"boundary": "boundary BCE alone"}.get(name, name.replace("-", ", "))


def publish(study: Study, machine: dict[str, Any], out: Path | None, page: Path | None) -> None:
    """Write what is finished to the JSON file and the page."""
    results = {"machine": machine, **study.results()}
    if out:
        write_atomically(out, lambda file: file.write(json.dumps(results, indent=1).encode()))
    if page:
        text = page.read_text()
        for group, each in tables(study, results).items():
            text = filled(text, each, (f"<!-- {group}: begin -->", f"<!-- {group}: end -->"))
        write_atomically(page, lambda file: file.write(text.encode()))


def main() -> None:
    default = Study()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of CamVid; without it nothing is trained")
    parser.add_argument("--out", type=Path, help="JSON file for the results: benchmarks/results/ablation.json")
    parser.add_argument("--page", type=Path, help="Markdown file whose tables to fill: docs/measured/ablation.md")
    parser.add_argument("--only", nargs="+", choices=default.groups, default=list(default.groups), metavar="GROUP")
    parser.add_argument("--arms", nargs="+", help="of these groups; all by default")
    parser.add_argument("--stn", type=Path, default=default.stn, help="what inverseform-fast train-stn wrote")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the segmentation models")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(root=options.root, stn=options.stn, seeds=tuple(options.seeds))
    arms = [(group, name) for group in options.only for name in study.groups[group]]
    if options.arms:
        if unknown := set(options.arms) - {name for _, name in arms}:
            parser.error(f"no such arms in {', '.join(options.only)}: {', '.join(sorted(unknown))}")
        arms = [(group, name) for group, name in arms if name in options.arms]
    needs_stn = {"align-stn", "align-mix"} & {name for _, name in arms}
    if options.root and needs_stn and not options.stn.is_file():
        parser.error(f"no {options.stn}: run inverseform-fast train-stn first, or other groups by --only")
    machine = gpu.machine() | {"device": cpu(), "threads": options.threads}
    publish_all = partial(publish, study, machine, options.out, options.page)
    for group, name in arms if options.root else []:
        study.run(group, name)
        publish_all()
    publish_all()
    print("\n".join(tables(study, study.results()).values()))


if __name__ == "__main__":
    main()
