"""The program and its commands, in the order of ``--help``. A new command is a function and one more name below."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Annotated, Any

import torch.distributed as dist
import typer
from typer.core import TyperGroup

from .. import __version__
from ..errors import DEBUG, Interrupted, said_by_another
from .bench import bench
from .doctor import doctor
from .labels import align
from .networks import calibrate, convert, train_net, train_stn, tune_net
from .reproduce import reproduce
from .segmentation import evaluate, train


class Commands(TyperGroup):
    """The commands; typer would end the program in silence at Ctrl-C, and show a wrong command line once a process."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(str(error)) from error
        except Exception as error:
            if getattr(error, "exit_code", None) == 2 and said_by_another():
                raise typer.Exit(2) from error
            raise


app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"inverseform-fast {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Semantic segmentation with losses that care for boundaries."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("inverseform_fast").setLevel(logging.INFO)  # what the data sets saw in their files
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the terminal cannot show
    if debug:
        os.environ[DEBUG] = "1"
    command = context.invoked_subcommand
    if dist.is_torchelastic_launched() and os.environ.get("WORLD_SIZE") != "1" and command not in ("train", "evaluate"):
        raise ValueError(f"on several processes, torchrun must start train or evaluate, got {command}")


for command in (train, evaluate, reproduce, align, train_net, tune_net, train_stn, convert, calibrate, bench, doctor):
    app.command()(command)
