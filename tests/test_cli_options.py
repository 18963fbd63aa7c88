"""Options are made from the fields of dataclasses; the command gets the right values, and the user a readable help."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner

from inverseform_fast.cli.options import options_of


@dataclass(frozen=True)
class Oven:
    heat: Annotated[int, "Degrees."] = 180
    mode: Annotated[Literal["fan", "grill"], "What heats."] = "fan"
    size: Annotated[tuple[int, int] | None, "Height and width."] = None
    door: Annotated[bool, "With a door."] = True
    count: Annotated[int, "Left to the command, which has an argument of this name."] = 5
    secret: str = "not an option"


@dataclass(frozen=True)
class Cake:
    name: Annotated[str, "What it is called."]
    weights: Annotated[dict[str, float], "Grams of each ingredient."] = field(default_factory=dict)
    extra_notes: Annotated[dict[str, Any], "Whatever else."] = field(default_factory=dict)


def run(*arguments: str) -> tuple[Any, Any]:
    """Calls the command below; returns what it was given, and what typer says of the call."""
    given: list[Any] = []

    @options_of(Oven, Cake, door="--door/--open")
    def bake(oven: dict[str, Any], cake: dict[str, Any], *, count: int = 1) -> None:
        """Bake."""
        given.extend((oven, cake, count))

    app = typer.Typer()
    app.command()(bake)
    return given, CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})


def test_a_command_is_given_what_stands_on_the_command_line() -> None:
    given, _ = run("--name", "Sacher", "--heat", "180", "--open", "--size", "3", "4", "--count", "2")
    assert given == [{"heat": 180, "door": False, "size": (3, 4)}, {"name": "Sacher"}, 2]
    given, _ = run("--name", "Sacher")
    assert given == [{}, {"name": "Sacher"}, 1]
    assert Cake(**given[1]) == Cake("Sacher")


def test_a_dict_is_a_repeatable_option_in_the_singular() -> None:
    notes = ("--extra-note", "layers=[1, 2]", "--extra-note", "icing=dark=bitter", "--extra-note", "layers=3")
    given, _ = run("--name", "Sacher", "--weight", "sugar=200", "--weight", "flour=1.5e2", *notes)
    assert given[1] == {
        "name": "Sacher",
        "weights": {"sugar": 200.0, "flour": 150.0},
        "extra_notes": {"layers": 3, "icing": "dark=bitter"},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weight", "sugar"), "weight must be NAME=VALUE, got 'sugar'"),
        (("--weight", "=3"), "weight must be NAME=VALUE, got '=3'"),
        (("--weight", "sugar=much"), "weight must be NAME=NUMBER, got 'sugar=much'"),
        (("--extra-note", "sweet"), "extra-note must be NAME=VALUE, got 'sweet'"),
    ],
)
def test_a_bad_pair_is_a_readable_error(arguments: tuple[str, ...], message: str) -> None:
    given, result = run("--name", "Sacher", *arguments)
    assert not given
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == message


def test_help_has_every_described_field_with_its_default() -> None:
    _, result = run("--help")
    lines = result.output.splitlines()
    for flag, text in {
        "--heat": "Degrees. [default: 180]",
        "--mode": "What heats. [default: fan]",
        "--size": "Height and width.",
        "--open": "With a door. [default: door]",
        "--name": "What it is called. [required]",
        "--weight": "NAME=VALUE",
        "--extra-note": "Whatever else.",
        "--count": "[default: 1]",
    }.items():
        assert any(flag in line and text in " ".join(line.split()) for line in lines), flag
    assert "secret" not in result.output


def test_a_missing_or_bad_value_is_a_usage_error() -> None:
    for arguments in ((), ("--name", "Sacher", "--mode", "steam"), ("--name", "Sacher", "--heat", "hot")):
        given, result = run(*arguments)
        assert not given
        assert result.exit_code == 2
