"""Lists of classes are read as people's editors write them, and a bad one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_files import semantic, write_pair

from inverseform_fast.segmentation.datasets import Folder
from inverseform_fast.segmentation.datasets.classes import read_task


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("kind", ["txt", "json"])
def test_a_byte_order_mark_and_spaces_are_no_part_of_a_name(tmp_path: Path, mark: bytes, kind: str) -> None:
    path = tmp_path / f"classes.{kind}"
    content = "road\r\n\r\n  traffic light\t\r\n" if kind == "txt" else json.dumps(["road", " traffic light\t"])
    path.write_bytes(mark + content.encode())
    assert read_task(path).classes == ("road", "traffic light")


@pytest.mark.parametrize("kind", ["txt", "json"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_an_error_that_names_the_file(tmp_path: Path, kind: str, encoding: str) -> None:
    path = tmp_path / f"classes.{kind}"
    path.write_bytes(("straße\nauto\n" if kind == "txt" else '["straße", "auto"]').encode(encoding))
    with pytest.raises(ValueError, match=rf"classes\.{kind} must be text in UTF-8"):
        read_task(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("road\nsky\nroad \n", r"class 2 of .*classes\.txt must have a name of its own, got road again"),
        ("# names\nroad\nsky\n", r"classes\.txt must hold names alone, for it knows no comments, got '# names'"),
        ("road\nsk\x07y\n", r"class 1 of .*classes\.txt must have a name of printable characters, got 'sk\\x07y'"),
    ],
)
def test_a_name_that_is_none_or_occurs_twice_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_task(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"name": "road"}, " road"]', "class 1 of .* must have a name of its own, got road again"),
        ('["road", "  "]', "class 1 of .* must have a name, got .*'  '"),
        ('["road", "a\\nb"]', "class 1 of .* must have a name of printable characters"),
        ('["road", "\\ud800"]', "class 1 of .* must have a name of printable characters"),
        ("[" * 100_000, r"classes\.json must be JSON"),
    ],
)
def test_names_in_json_are_held_to_the_same(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_task(path)


def test_names_of_any_script_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    names = (
        "road\u00a0sign",
        "\u0645\u06cc\u200c\u0631\u0648\u062f",
        "\u9053\u8def\u3000x",
    )  # NBSP, ZWNJ, ideographic space
    path.write_text("\n".join(names), encoding="utf-8")
    assert read_task(path).classes == names


def test_the_list_of_a_folder_is_found_in_capital_letters_and_is_one(tmp_path: Path) -> None:
    for name in "abc":
        write_pair(tmp_path, name)
    (tmp_path / "Classes.TXT").write_text("sky\nroad\ncar")
    assert semantic(Folder("train", tmp_path)).classes == ("sky", "road", "car")
    (tmp_path / "classes.json").write_text('["car", "road", "sky"]')
    with pytest.raises(ValueError, match=r"must hold one list of classes, got .*Classes\.TXT and .*classes\.json"):
        Folder("train", tmp_path)


def test_a_list_of_classes_that_links_nowhere_is_named(tmp_path: Path) -> None:
    for name in "abc":
        write_pair(tmp_path, name)
    (tmp_path / "classes.txt").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold a list of classes: no file .*classes\.txt"):
        Folder("train", tmp_path)
