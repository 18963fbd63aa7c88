"""Reads the PTX of a kernel: its parameters, its threads, and its statements, one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass

ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\n\{(.*)\n\}", re.DOTALL)
STATEMENT = re.compile(r"(?:@(!?[%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
LABEL = re.compile(r"([\w$]+):(?!:)\s*")
PARAMETER = re.compile(r"\.param\s+\.(\w+)\s.*?(\w+)\s*$")


@dataclass(frozen=True)
class Statement:
    """An instruction, as ``@%p1 ld.global.v2.b32 {%r1, %r2}, [%rd1 + 4]``, and the labels before it."""

    labels: tuple[str, ...]
    guard: str  # "", "%p1" or "!%p1"
    name: str
    operands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'@' + self.guard if self.guard else ''} {self.name} {', '.join(self.operands)}".strip()


@dataclass(frozen=True)
class Kernel:
    """A kernel's PTX: its parameters' types by name, and what it does."""

    name: str
    parameters: dict[str, str]  # as "u32"
    threads: int
    registers: frozenset[str]  # those without a number, as inline assembly declares them
    statements: tuple[Statement, ...]


def parse(ptx: str) -> Kernel:
    """Read the only kernel of a module.

    Raises:
        ValueError: there is none, or a statement is not one of PTX.
    """
    code = re.sub(r"//[^\n]*", "", ptx)
    match = ENTRY.search(code)
    if match is None or code.count(".entry") != 1:
        raise ValueError(f"the PTX must have one .entry and its body, got {code.count('.entry')}")
    name, parameters, directives, body = match.groups()
    threads = re.search(r"\.reqntid\s+(\d+)", directives)
    if threads is None:
        raise ValueError(f"{name} must say its number of threads (.reqntid)")
    return Kernel(
        name,
        dict(_parameter(text) for text in parameters.split(",") if text.strip()),
        int(threads[1]),
        frozenset(re.findall(r"\.reg\s+\.\w+\s+(\w+)\s*;", body)),
        tuple(_statements(body)),
    )


def _parameter(text: str) -> tuple[str, str]:
    match = PARAMETER.search(text)
    if match is None:
        raise ValueError(f"a parameter must be like '.param .u32 name', got {text.strip()!r}")
    return match[2], match[1]


def _statements(body: str) -> list[Statement]:
    lines = [line.strip() for line in body.split("\n")]
    # Braces of their own lines are scopes of inline assembly.
    code = "\n".join(line for line in lines if not line.startswith(".") and line not in ("{", "}"))
    statements, labels = [], []
    for text in code.split(";"):
        rest = text.strip()
        while label := LABEL.match(rest):
            labels.append(label[1])
            rest = rest[label.end() :]
        if not rest:
            continue
        match = STATEMENT.fullmatch(rest)
        if match is None:
            raise ValueError(f"a statement must be '@guard name operands', got {rest!r}")
        statements.append(Statement(tuple(labels), match[1] or "", match[2], tuple(split(match[3]))))
        labels = []
    return statements


def split(operands: str) -> list[str]:
    """Split at the commas that stand outside of braces and brackets."""
    return [part.strip() for part in re.findall(r"(?:\{[^}]*\}|\[[^\]]*\]|[^,{\[])+", operands) if part.strip()]
