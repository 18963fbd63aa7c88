"""Command-line options: the decorator that makes them from the fields of dataclasses, and those that commands share."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import torch
import typer

from ..fields import MOST_THREADS

Device = Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:1; by default the GPU, if there is one.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; PyTorch's own choice if not given.")]


def use_threads(threads: int | None) -> None:
    """Lets PyTorch use this many CPU threads; None leaves the number to PyTorch.

    Raises:
        ValueError: the number is not positive, or more than OpenMP can make.
    """
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads must be from 1 to {MOST_THREADS}, got {threads}")
        torch.set_num_threads(threads)


def options_of(*configs: type, **flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command: it gets an option for each field of the dataclasses that is ``Annotated[type, "help."]``.

    The command's first arguments are dicts, one for each dataclass. They hold the fields that the user gave on the
    command line, and no defaults. A field that is a dict becomes a repeatable option in the singular: ``data_options``
    becomes ``--data-option NAME=VALUE``. A field that has the name of another argument of the command gets no option.

    Args:
        configs: the dataclasses.
        flags: flags of options that are not named after their field, by the field's name.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = list(inspect.signature(command, eval_str=True).parameters.values())[len(configs) :]
        taken = {parameter.name for parameter in parameters}
        options = [_options(config, taken, flags) for config in configs]

        def wrapper(context: typer.Context, **values: Any) -> None:
            given = [
                {name: option.read(values[name]) for name, option in group.items() if _is_given(context, name)}
                for group in options
            ]
            command(*given, **{name: values[name] for name in taken})

        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        fields = [option.parameter for group in options for option in group.values()]
        wrapper.__name__, wrapper.__doc__ = command.__name__, command.__doc__
        wrapper.__signature__ = inspect.Signature([context, *fields, *parameters])  # type: ignore[attr-defined]
        return wrapper

    return decorate


class _Option(NamedTuple):
    parameter: inspect.Parameter  # what typer reads from the command's signature
    read: Callable[[Any], Any] = lambda value: value  # turns what typer gives into what the field holds


def _options(config: type, taken: set[str], flags: dict[str, str]) -> dict[str, _Option]:
    """The option of each field that has a help text and whose name is not taken, by the field's name."""
    hints = get_type_hints(config, include_extras=True)
    options = {}
    for field in dataclasses.fields(config):
        if get_origin(hints[field.name]) is Annotated and field.name not in taken:
            kind, text, *_ = get_args(hints[field.name])
            options[field.name] = _option(field, kind, text, flags.get(field.name))
    return options


def _option(field: dataclasses.Field[Any], kind: Any, text: str, flag: str | None) -> _Option:
    if get_origin(kind) is dict:
        name = field.name.replace("_", "-").removesuffix("s")
        option = typer.Option(flag or f"--{name}", help=text, metavar="NAME=VALUE")
        return _Option(
            _parameter(field.name, list[str] | None, None, option), partial(_values, name, get_args(kind)[1])
        )
    default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
    return _Option(_parameter(field.name, kind, default, typer.Option(*[flag] if flag else [], help=text)))


def _parameter(name: str, kind: Any, default: Any, option: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=Annotated[kind, option])


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _values(option: str, kind: type, texts: Sequence[str]) -> dict[str, Any]:
    """The values of ``NAME=VALUE`` texts by name: numbers if ``kind`` is float, else JSON where it is, else strings."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{option} must be NAME=VALUE, got {text!r}")
        try:
            values[name] = float(value) if kind is float else json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
        except ValueError:
            raise ValueError(f"{option} must be NAME=NUMBER, got {text!r}") from None
    return values
