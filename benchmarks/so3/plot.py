"""``python -m benchmarks.so3.plot`` draws docs/design/so3.png: how four methods err near a match and near half a turn.

The picture shows errors of the angle and of its gradient with respect to theta_hat. Everything is float32: theta is
near I, and ``theta_hat = theta R S``, where R is a rotation by x or pi - x about a random axis, and S a stretch of
about the size of x. The truth is the reference of the same matrices in float64. A gradient that differs in its sign
alone counts as right, because near half a turn both ways back are equally short.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # it needs no display
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from benchmarks.common.paths import ROOT
from benchmarks.ops import bench_so3
from benchmarks.so3.hunt import norm, rotations
from inverseform_fast import functional, reference
from inverseform_fast.files import write_atomically

PAIRS = 1000  # for each x
FEW = 0.02  # share of finite gradients below which their median says nothing
XS = torch.logspace(-7, -1, 25, dtype=torch.float64)
QUANTILES = torch.tensor([0.05, 0.5, 1.0], dtype=torch.float64)
PANELS = ("error of the angle (rad)", "gradient norm / true norm", "relative gradient error", "NaN or inf")


@dataclass(frozen=True)
class Method:
    name: str
    color: str  # from Okabe and Ito's palette, which the colour-blind can tell apart
    style: str
    label: tuple[float, float]  # position of its name in the first panel
    function: Callable[[Tensor, Tensor], Tensor]


def roma_arccos(theta: Tensor, theta_hat: Tensor) -> Tensor:
    return bench_so3.arccos_angle(bench_so3.roma_projection(torch.linalg.inv(theta) @ theta_hat))


METHODS = (
    Method("SVD autograd + arccos", "#D55E00", "-", (1e-7, 2e-3), partial(bench_so3.naive_distance, lam=0.0)),
    Method("roma + arccos", "#E69F00", "--", (1.5e-6, 5e-6), roma_arccos),
    Method("roma + its own asin", "#009E73", "-.", (1e-7, 7e-8), partial(bench_so3.roma_distance, lam=0.0)),
    Method("ours", "#0072B2", "-", (4e-7, 8e-13), partial(functional.geodesic_distance, lam=0.0)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs/design/so3.png")
    options = parser.parse_args()
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    heights = {"height_ratios": [3, 3, 3, 1.3]}
    figure, axes = plt.subplots(4, 2, figsize=(9, 10), sharex="col", sharey="row", gridspec_kw=heights)
    for column, near_pi in ((axes[:, 0], False), (axes[:, 1], True)):
        draw(column, near_pi)
    decorate(axes)
    figure.align_ylabels()
    figure.tight_layout()
    write_atomically(options.out, lambda file: figure.savefig(file, dpi=110, format="png"))


def draw(column: list[Axes], near_pi: bool) -> None:
    pairs = [pair(float(x), near_pi) for x in XS]
    true_angle = partial(reference.geodesic_distance, lam=0.0)
    truths = [angle_and_gradient(true_angle, *p, torch.float64) for p in pairs]
    for method in METHODS:
        found = [angle_and_gradient(method.function, *p, torch.float32) for p in pairs]
        rows = [errors(result, truth) for result, truth in zip(found, truths, strict=True)]
        lost = torch.stack([row.isnan().any(0).double().mean() for row in rows])
        for axis, values in zip(column[:3], torch.stack(rows, 1), strict=True):
            low, median, worst = values.nanquantile(QUANTILES, dim=1)
            median = torch.where(lost > 1 - FEW, math.nan, median)
            axis.plot(XS, median, method.style, color=method.color, linewidth=2)
            axis.fill_between(XS, low, worst, where=~median.isnan(), color=method.color, alpha=0.15, linewidth=0)
        column[3].plot(XS, lost, method.style, color=method.color, linewidth=2)


def pair(x: float, near_pi: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise, stretch = torch.rand(2, PAIRS, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    axis = torch.randn(PAIRS, 3, generator=generator, dtype=torch.float64)
    angle = torch.full((PAIRS,), math.pi - x if near_pi else x, dtype=torch.float64)
    eye = torch.eye(3, dtype=torch.float64)
    theta = (eye + 0.2 * noise).float()
    return theta, (theta.double() @ rotations(axis, angle) @ (eye + x * (stretch + stretch.mT) / 2)).float()


def angle_and_gradient(
    function: Callable[..., Tensor], theta: Tensor, theta_hat: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    theta_hat = theta_hat.to(dtype, copy=True).requires_grad_()
    angle = function(theta.to(dtype), theta_hat)
    return angle.detach().double(), torch.autograd.grad(angle.sum(), theta_hat)[0].double()


def errors(found: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> Tensor:
    """Compute the rows (3, n) of the first three panels; NaN where anything is not finite."""
    (angle, gradient), (true_angle, true_gradient) = found, truth
    size = norm(true_gradient)
    either_way = torch.minimum(norm(gradient - true_gradient), norm(gradient + true_gradient))
    rows = torch.stack([(angle - true_angle).abs(), norm(gradient) / size, either_way / size])
    return torch.where(rows.isfinite().all(0), rows, math.nan)


def decorate(axes: list[list[Axes]]) -> None:
    for row, title in zip(axes, PANELS, strict=True):
        row[0].set_ylabel(title)
        for axis in row:
            axis.set(xscale="log", yscale="linear" if title == PANELS[-1] else "log")
            axis.grid(color="0.9", linewidth=0.8)
            axis.minorticks_off()
    near_0, near_pi = axes[0]
    near_0.set_title("near a match: angle $x$")
    near_pi.set_title(r"near half a turn: angle $\pi - x$")
    near_pi.invert_xaxis()  # the angle grows to the right in both columns
    for method in METHODS:
        near_0.text(*method.label, method.name, color=method.color, weight="bold")
    near_0.set_ylim(top=5e-2)
    for axis in axes[-1]:
        axis.set_xlabel("$x$ (rad)")
        axis.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])


if __name__ == "__main__":
    main()
