"""The environment report names versions, devices, backends with reasons, and weights, whatever is missing."""

from __future__ import annotations

import pytest
import torch

from inverseform_fast import doctor
from inverseform_fast.nets import base


def test_report_names_everything() -> None:
    text = doctor.report()
    for name in (
        *doctor.BASE,
        *doctor.EXTRA,
        "reference",
        "cpu",
        "triton",
        "cuda",
        "boundary_map",
        "geodesic_distance",
    ):
        assert name in text
    assert torch.__version__ in text
    assert "tiles of 224 x 224" in text
    assert f"CPU threads          {torch.get_num_threads()} of " in text
    assert f"instruction set      {torch.backends.cpu.get_cpu_capability()}" in text
    built = sorted(map(str, doctor.PACKAGE.glob("_C*.so")))
    assert f"loaded from          {', '.join(built) or 'nowhere'}" in text
    assert "input checks         on; " in text
    assert ("GPU 0" in text) == torch.cuda.is_available()


def test_report_notices_checks_that_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "segmentation_loss", lambda *_: torch.zeros(()))
    assert "input checks         off: " in doctor.report()


def test_report_survives_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(doctor, "EXTRA", ("no-such-package",))
    monkeypatch.setattr(base, "WEIGHTS", tmp_path)
    text = doctor.report()
    assert "no-such-package      not installed" in text
    assert "broken: net: no weight file at" in text
