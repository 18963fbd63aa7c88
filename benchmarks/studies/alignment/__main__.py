"""``python -m benchmarks.studies.alignment --root CAMVID --out FILE.json``: does a loss lead a displaced boundary home?

Every loss descends from the same starts, tiles of true boundaries displaced by random homographies, by the same Adam
with a rate that falls as a cosine. It moves the 8 Lie coefficients of a warp of the prediction, or free logits. Each
loss gets the best of three rates, chosen on other label maps. Without ``--root`` the boundaries are those of procedural
scenes and shapes. ``make docs`` turns ``benchmarks/results/alignment.json`` into docs/measured/alignment.md.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from benchmarks.common import results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from benchmarks.studies.alignment.study import keep_rows, measure
from inverseform_fast.inverse_net.label_maps import collect_label_maps
from inverseform_fast.nets import WEIGHTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--root", type=Path, help="folder of CamVid")
    parser.add_argument(
        "--net", action="append", metavar="[NAME=]PATH", help="weight file; repeatable; the shipped one by default"
    )
    parser.add_argument("--starts", type=int, default=12, help="starts of each displacement, and to choose the rates")
    parser.add_argument("--steps", type=int, default=30, help="steps of each descent")
    parser.add_argument("--seed", type=int, default=0, help="seed of the maps and the starts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = options.net or [str(WEIGHTS / "compact.safetensors")]
    nets = dict(named(text) for text in texts)
    if len(nets) < len(texts):
        parser.error(f"--net must give each network another name by NAME=PATH, got {', '.join(texts)}")
    maps, other_maps = (
        collect_label_maps("camvid" if options.root else "scenes", split, options.root, (360, 480), 100, 100, seed)
        for split, seed in (("test", options.seed), ("train", options.seed + 1))
    )
    result: Json = {
        "machine": machine(on_gpu=False),
        "data": "CamVid" if options.root else "procedural scenes and shapes",
        "nets": {name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for name, path in nets.items()},
        "starts": options.starts,
        "steps": options.steps,
        "seed": options.seed,
        "warp": {},
        "pixel": {},
    }
    keep_rows(options.out, result)
    measure(result, nets, maps, other_maps, lambda: results.write(options.out, result))


def named(text: str) -> tuple[str, Path]:
    name, _, path = text.rpartition("=")
    return name or Path(path).stem, Path(path)


if __name__ == "__main__":
    main()
