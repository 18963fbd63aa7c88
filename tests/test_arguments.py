"""Every public function and module refuses an argument of a wrong type in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import inverseform_fast as iff
from inverseform_fast import functional, homography
from inverseform_fast.nets import Aet, Align, Dense
from inverseform_fast.segmentation.metrics import SegmentationMetrics

LABELS = torch.zeros(2, 8, 8, dtype=torch.uint8)
LOGITS, HEAD, TARGET = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 8, 8)
EYE, ROWS, TILES = torch.eye(3).expand(2, 3, 3), torch.zeros(2, 8), torch.zeros(1, 1, 8, 8)
NET = Align(8).requires_grad_(False)


def module(make: Callable[[], nn.Module], method: str = "forward") -> Callable[..., Any]:
    """Makes the module when it is called, so that tests are collected quickly."""

    def call(**arguments: Any) -> Any:
        return getattr(make(), method)(**arguments)

    return call


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "boundary_map": (functional.boundary_map, {"labels": LABELS, "radius": 1, "ignore_index": 255, "release": False}),
    "soft_boundary_map": (
        functional.soft_boundary_map,
        {"logits": LOGITS, "size": (8, 8), "radius": 1, "as_logits": True},
    ),
    "extract_tiles": (
        functional.extract_tiles,
        {"predicted": HEAD, "target": TARGET, "size": (8, 8), "tile": 8, "activation": "sigmoid"},
    ),
    "homography_exp": (functional.homography_exp, {"a": ROWS}),
    "homography_warp": (
        functional.homography_warp,
        {"image": LOGITS, "theta": EYE, "size": (4, 4), "mode": "bilinear", "padding": "zeros"},
    ),
    "local_correlation": (
        functional.local_correlation,
        {"first": LOGITS, "second": LOGITS, "reach": 1, "groups": 1},
    ),
    "align": (functional.align, {"predicted": TILES, "target": TILES, "weights": NET.weights}),
    "project_to_so3": (functional.project_to_so3, {"matrix": EYE}),
    "geodesic_distance": (
        functional.geodesic_distance,
        {"theta": EYE, "theta_hat": EYE, "lam": 0.1, "normalize": None, "smooth": 0.0, "damping": 0.0},
    ),
    "segmentation_loss": (
        functional.segmentation_loss,
        {"logits": LOGITS, "labels": LABELS, "class_weights": torch.ones(3), "ignore_index": 255},
    ),
    "move_labels": (
        functional.move_labels,
        {"motion": torch.zeros(2, 1, 1, 8), "labels": LABELS, "ignore_index": 255},
    ),
    "register_labels": (functional.register_labels, {"logits": LOGITS, "labels": LABELS, "ignore_index": 255}),
    "dice_loss": (
        functional.dice_loss,
        {"logits": LOGITS, "labels": LABELS, "ignore_index": 255, "sums": torch.ones(3, 3).double()},
    ),
    "dice_sums": (functional.dice_sums, {"logits": LOGITS, "labels": LABELS, "ignore_index": 255}),
    "boundary_f1_loss": (
        functional.boundary_f1_loss,
        {"logits": LOGITS, "labels": LABELS, "ignore_index": 255, "tolerance": 2, "sums": torch.ones(4, 3).double()},
    ),
    "boundary_f1_sums": (
        functional.boundary_f1_sums,
        {"logits": LOGITS, "labels": LABELS, "ignore_index": 255, "tolerance": 2},
    ),
    "boundary_loss": (
        functional.boundary_loss,
        {"boundary_logits": HEAD, "labels": LABELS, "radius": 1, "ignore_index": 255, "counts": torch.ones(2).double()},
    ),
    "homography.velocity": (homography.velocity, {"points": torch.zeros(2, 2)}),
    "homography.exp": (homography.exp, {"a": ROWS}),
    "homography.log": (homography.log, {"theta": EYE}),
    "homography.bracket": (homography.bracket, {"first": ROWS, "second": ROWS}),
    "homography.symmetric_product": (homography.symmetric_product, {"outer": ROWS, "inner": ROWS}),
    "homography.adjoint": (homography.adjoint, {"theta": EYE}),
    "homography.determinant": (homography.determinant, {"matrix": EYE}),
    "homography.inverse": (homography.inverse, {"matrix": EYE}),
    "homography.sample": (
        homography.sample,
        {"count": 2, "max_displacement": 0.1, "generator": torch.Generator(), "device": "cpu"},
    ),
    "homography.corner_displacement": (homography.corner_displacement, {"theta": EYE, "reference": EYE}),
    "homography.distance": (homography.distance, {"theta_hat": EYE, "theta": EYE, "kind": "log"}),
    "InverseFormLoss": (
        iff.InverseFormLoss,
        {
            "net": NET,
            "distance": "log",
            "resize": (8, 8),
            "activation": "sigmoid",
            "reduction": "mean",
            "check_finite": False,
        },
    ),
    "InverseFormLoss()": (module(lambda: iff.InverseFormLoss(NET)), {"logits": HEAD, "target": TARGET}),
    "BoundaryAwareLoss": (
        iff.BoundaryAwareLoss,
        {
            "beta": 1.0,
            "gamma": 0.0,
            "radius": 1,
            "ignore_index": 255,
            "class_weights": torch.ones(3),
            "inverseform": iff.InverseFormLoss(NET),
            "check_finite": False,
            "edge": 1.0,
            "dice": 1.0,
            "f1": 1.0,
            "process_group": None,
        },
    ),
    "BoundaryAwareLoss()": (
        module(lambda: iff.BoundaryAwareLoss(inverseform=iff.InverseFormLoss(NET))),
        {"segmentation_logits": LOGITS, "labels": LABELS, "boundary_logits": HEAD, "counts": torch.ones(6).double()},
    ),
    "BoundaryAwareLoss.count": (
        module(lambda: iff.BoundaryAwareLoss(inverseform=iff.InverseFormLoss(NET)), "count"),
        {"micro_batches": [LABELS]},
    ),
    "LabelAligner": (iff.LabelAligner, {"net": "predictions", "radius": 1, "ignore_index": 255}),
    "LabelAligner()": (
        module(iff.LabelAligner, "align"),
        {"segmentation_logits": LOGITS, "labels": LABELS, "boundary_logits": HEAD},
    ),
    "Align": (Align, {"tile": 8}),
    "Dense": (Dense, {"tile": 8, "outputs": 8}),
    "Aet": (Aet, {"tile": 8}),
    "Align()": (NET.pair, {"predicted": TILES, "target": TILES}),
    "Dense()": (module(lambda: Dense(8)), {"predicted": TILES, "target": TILES}),
    "Aet()": (module(lambda: Aet(8)), {"predicted": TILES, "target": TILES}),
    "SpatialTransformer": (iff.SpatialTransformer, {"channels": 3, "kind": "affine", "max_displacement": 0.1}),
    "SpatialTransformer()": (module(lambda: iff.SpatialTransformer(3)), {"x": LOGITS}),
    "set_backend": (lambda backend: iff.set_backend(backend).__exit__(), {"backend": "auto"}),
    "SegmentationMetrics": (
        SegmentationMetrics,
        {"num_classes": 3, "ignore_index": 255, "tolerances": (1,), "class_names": "abc", "dilation_ratio": 0.02},
    ),
    "SegmentationMetrics()": (
        module(lambda: SegmentationMetrics(3), "update"),
        {"prediction": LABELS, "target": LABELS},
    ),
}
WRONG = (
    object(), {"out": LOGITS}, np.zeros((2, 3)), 2.5j, "x" * 90, torch.zeros(2, dtype=torch.complex64),
    LOGITS.to_sparse(),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:net has no noise figure")
@pytest.mark.parametrize(("call", "argument"), [(call, name) for call, (_, good) in CALLS.items() for name in good])
def test_a_wrong_type_is_an_error_that_names_the_argument(call: str, argument: str) -> None:
    function, good = CALLS[call]
    function(**good)
    for wrong in WRONG:
        if isinstance(wrong, str) and argument == "net":
            continue  # it is a path
        with pytest.raises((TypeError, ValueError), match=argument) as raised:
            function(**{**good, argument: wrong})
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("call", "argument", "wrong", "message"),
    [
        ("segmentation_loss", "logits", {"out": LOGITS}, r"got dict: pass on one of its values, \['out'\]"),
        ("segmentation_loss", "logits", (LOGITS, LOGITS), "got tuple: pass on one of its items"),
        ("segmentation_loss", "logits", None, "logits must be a tensor, got NoneType"),
        ("segmentation_loss", "labels", np.zeros((2, 8, 8), np.uint8), "got ndarray: torch.from_numpy makes one"),
        ("segmentation_loss", "class_weights", [1.0, 2.0, 3.0], "class_weights must be a tensor, got list"),
        ("segmentation_loss", "class_weights", -torch.ones(3), "class_weights must be finite, at least 0 and at most"),
        ("segmentation_loss", "class_weights", torch.full((3,), 3e38), r"at most 1e\+28, got \[3\."),
        ("segmentation_loss", "logits", LOGITS.to_sparse(), "must be an ordinary, dense tensor.*of which to_dense"),
        (
            "segmentation_loss",
            "logits",
            torch.nested.nested_tensor([LOGITS[0]], layout=torch.jagged),
            "dense tensor, got a nested one",
        ),
        ("homography_warp", "size", (2**16, 2**15), r"size must be of fewer than 2\^31 pixels, got 65536 x 32768"),
        ("local_correlation", "reach", 10**6, r"reach must ask for fewer than 2\^31 numbers of an image, got 1000000"),
        ("segmentation_loss", "ignore_index", None, "ignore_index must be a whole number.*got None"),
        ("segmentation_loss", "ignore_index", 255.0, r"ignore_index must be a whole number.*got 255\.0"),
        ("segmentation_loss", "ignore_index", 2**63, "ignore_index must be a whole number of 64 bits"),
        ("boundary_map", "radius", True, "radius must be a whole number of pixels, at least 1, got True"),
        ("boundary_map", "radius", 2**31, r"radius must be a whole number of pixels, below 2\^31, got 2147483648"),
        ("boundary_map", "labels", torch.zeros(2, 8, 8, dtype=torch.uint16), "labels must be of an integer dtype"),
        ("soft_boundary_map", "logits", LOGITS.to(torch.float8_e5m2), "logits must be float16, bfloat16, float32 or"),
        ("extract_tiles", "size", None, r"size must be \(height, width\) in pixels, got None"),
        (
            "InverseFormLoss",
            "net",
            nn.Conv2d(1, 1, 1),
            "net must be an InverseTransformNet, a name or a path, got Conv2d",
        ),
        ("InverseFormLoss", "net", Align, "net must be a path"),
        ("InverseFormLoss", "resize", (8, 8, 8), r"resize must be \(height, width\) in pixels, got \(8, 8, 8\)"),
        ("BoundaryAwareLoss", "gamma", "0.3", "gamma must be a number, got '0.3'"),
        ("BoundaryAwareLoss", "gamma", float("inf"), "gamma must be finite and at least 0, got inf"),
        ("BoundaryAwareLoss", "inverseform", nn.Conv2d(1, 1, 1), "inverseform must be an InverseFormLoss, got Conv2d"),
        ("BoundaryAwareLoss", "class_weights", torch.ones(3, device="meta"), "class_weights must have values"),
        (
            "BoundaryAwareLoss()",
            "segmentation_logits",
            HEAD,
            "at least 2, got 1. For an object and its background, give",
        ),
        ("BoundaryAwareLoss()", "boundary_logits", HEAD[:1], "boundary_logits must be 2 maps, like labels, got 1"),
    ],
)
def test_the_message_says_the_way_out(call: str, argument: str, wrong: Any, message: str) -> None:
    function, good = CALLS[call]
    with pytest.raises((TypeError, ValueError), match=message):
        function(**{**good, argument: wrong})


def test_one_channel_of_two_classes_names_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 1\).*give two channels: torch.cat"):
        functional.segmentation_loss(HEAD, LABELS + 1)


@pytest.mark.parametrize(
    ("call", "argument", "number"),
    [
        ("boundary_map", "radius", np.int64(1)),
        ("boundary_map", "ignore_index", np.uint8(255)),
        ("soft_boundary_map", "size", np.array([8, 8])),
        ("extract_tiles", "size", [np.int64(8), 8]),
        ("extract_tiles", "tile", np.int32(8)),
        ("homography_warp", "size", torch.Size((4, 4))),
        ("local_correlation", "reach", np.int64(1)),
        ("geodesic_distance", "lam", np.float32(0.1)),
        ("InverseFormLoss", "resize", np.array([8, 8])),
        ("BoundaryAwareLoss", "gamma", np.float64(0.0)),
        ("Align", "tile", np.int64(8)),
    ],
)
def test_numbers_of_numpy_are_taken(call: str, argument: str, number: Any) -> None:
    function, good = CALLS[call]
    function(**{**good, argument: number})
