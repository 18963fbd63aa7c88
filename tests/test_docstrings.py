"""Every public function and class has an example in its docstring, and the examples work."""

from __future__ import annotations

import doctest
import inspect
from types import FunctionType

import pytest
import torch

import inverseform_fast as iff

EXPORTED = [getattr(iff, name) for name in iff.__all__]
PUBLIC: list[type | FunctionType] = [
    *(thing for thing in EXPORTED if not inspect.ismodule(thing)),
    *(getattr(iff.functional, name) for name in iff.functional.__all__),
    *(
        function
        for name, function in inspect.getmembers(iff.homography, inspect.isfunction)
        if function.__module__ == iff.homography.__name__ and not name.startswith("_")
    ),
]


@pytest.mark.parametrize("thing", PUBLIC, ids=lambda thing: thing.__name__)
def test_example_works(thing: type | FunctionType) -> None:
    torch.manual_seed(0)
    names = {"torch": torch, "iff": iff}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", names, thing.__name__, None, None)
    assert example.examples, f"{thing.__name__} has no example"
    assert doctest.DocTestRunner().run(example).failed == 0
