"""The links of the documents lead somewhere, and their code and commands work.

A Python block runs after the blocks before it on its page, with the tensors that ``prepared`` makes. Words after
``python`` name what a block needs besides (``python cuda``, ``python lightning``, ``python checkpoint``); where that is
missing, the block is only compiled. A command is parsed, with all of its options, but does not start its work.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import typer.core
from markdown_it import MarkdownIt
from markdown_it.token import Token
from torch import nn
from torch.distributed.run import get_args_parser

from inverseform_fast import cli

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "benchmarks", "inverseform_fast")
PAGES = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/**/*.md"))]
pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
OF_THE_SYSTEM = {".", "cd", "git", "mkdir", "pip", "pre-commit"}


@functools.cache
def tokens(page: Path) -> list[Token]:
    """The page's blocks and what is in them, in order."""
    blocks = MarkdownIt().enable("table").parse(page.read_text())
    return [token for block in blocks for token in (block, *(block.children or ()))]


@functools.cache
def anchors(page: Path) -> set[str]:
    """GitHub's anchors of the page's headings."""
    everything = tokens(page)
    titles = [text for tag, text in itertools.pairwise(everything) if tag.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.content.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files of the repository that the page links to or shows, and the anchors in them."""
    for token in tokens(page):
        target = str(token.attrGet("href") or token.attrGet("src") or "")
        if target and not re.match(r"\w+:", target):
            path, _, anchor = unquote(target).partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for file, anchor in links(page):
        assert file.exists(), file
        assert not anchor or anchor in anchors(file), f"{file}#{anchor}"


def test_every_page_is_reached_from_the_index() -> None:
    reached = [ROOT / "docs/README.md"]
    for page in reached:  # grows as links are followed
        reached += {file for file, _ in links(page) if file in PAGES} - set(reached)
    assert set(PAGES) <= set(reached)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def fences(page: Path, language: str) -> Iterator[tuple[Token, list[str]]]:
    """The page's code blocks of a language, and the other words behind their fences."""
    for token in tokens(page):
        words = token.info.split() if token.type == "fence" else []
        if words[:1] == [language]:
            yield token, words[1:]


def prepared() -> dict[str, Any]:
    """The names that Python blocks may use without making them."""
    torch.manual_seed(0)
    model = nn.Conv2d(3, 19, 3, stride=4, padding=1)
    images = torch.randn(2, 3, 64, 96)
    labels = torch.randint(19, (2, 8, 12)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    dataset = torch.utils.data.TensorDataset(images, labels)
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "loader": torch.utils.data.DataLoader(dataset, batch_size=2),
        "images": images,
        "labels": labels,
        "segmentation_logits": model(images),
        "boundary_logits": torch.randn(2, 1, 16, 24, requires_grad=True),
        "theta": torch.eye(3).expand(4, 3, 3),
        "theta_hat": torch.eye(3) + 0.05 * torch.randn(4, 3, 3),
    }


def is_here(need: str) -> bool:
    return torch.cuda.is_available() if need == "cuda" else find_spec(need) is not None


# extend.md adds to the registries: test_extending.py runs it, and cleans up.
RUNNABLE = [page for page in PAGES if any(fences(page, "python")) and page.name != "extend.md"]


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda path: path.stem)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = prepared()
    with torch.compiler.set_stance("force_eager"):  # that the loss compiles is tested elsewhere, and takes a minute
        for token, needs in fences(page, "python"):
            line = token.map[0] + 1 if token.map else 0
            code = compile("\n" * line + token.content, str(page), "exec")
            if all(map(is_here, needs)):
                exec(code, names)


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """The commands of the page, as words, and whether they are whole: those in running text may lack arguments."""
    for token, _ in fences(page, "bash"):
        for line in token.content.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True), True
    for token in tokens(page):
        if token.type == "code_inline" and re.match(r"(inverseform-fast|python -m|make) [a-z]", token.content):
            yield shlex.split(token.content), False


@pages
def test_commands_exist(page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(typer.core.TyperCommand, "invoke", lambda command, context: None)
    for words, whole in commands(page):
        words = words[next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words)) :]
        if words:
            monkeypatch.setattr(sys, "argv", words)
            problem = stops_with(Path(words[0]).name or words[0], words[1:], whole)
            message = capsys.readouterr().err
            assert not problem or (not whole and "Missing" in message), f"{shlex.join(words)}: {problem}{message}"


def parse_and_stop(parser: argparse.ArgumentParser, parse_args: Any = argparse.ArgumentParser.parse_args) -> None:
    parse_args(parser)  # exits with 2 if it does not know an option
    parser.exit()


def stops_with(program: str, arguments: list[str], whole: bool) -> str | int | None:
    """What is wrong with a command, if anything; ``sys.argv`` holds it."""
    if program in OF_THE_SYSTEM:
        return None
    if program == "make":
        return subprocess.run(["make", "--dry-run", *arguments], capture_output=True).returncode
    if program == "inverseform-fast":
        return exit_code(cli.main)
    if program == "torchrun":
        given, _ = get_args_parser().parse_known_args(arguments)  # exits if it does not know an option
        sys.argv = [given.training_script, *given.training_script_args]
        return stops_with(given.training_script, given.training_script_args, whole)
    if program == "python" and arguments[0] != "-m":
        return None if Path(arguments[0]).is_file() else "no such file"
    if program != "python" or not (spec := find_spec(arguments[1])):
        return "no such program"
    if arguments[1] == "pytest":
        return " ".join(path for path in arguments[2:] if "/" in path and not list(ROOT.glob(path)))
    module = importlib.import_module(f"{spec.name}.__main__" if spec.submodule_search_locations else spec.name)
    sys.argv = sys.argv[2:]
    has_options = "parse_args" in Path(str(module.__file__)).read_text()
    return exit_code(module.main) if whole and has_options else None


def exit_code(main: Callable[[], None]) -> str | int | None:
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code
