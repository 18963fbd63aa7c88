"""The program and its commands, in the order of ``--help``. A new command is a function and one more name below."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated

import typer

from . import DEBUG
from .bench import bench
from .doctor import doctor
from .labels import align
from .networks import calibrate, convert, train_net, train_stn, tune_net
from .segmentation import evaluate, train

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Semantic segmentation with the InverseForm boundary loss."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("inverseform_fast").setLevel(logging.INFO)  # what the data sets saw in their files
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
    if debug:
        os.environ[DEBUG] = "1"


for command in (train, evaluate, align, train_net, tune_net, train_stn, convert, calibrate, bench, doctor):
    app.command()(command)
