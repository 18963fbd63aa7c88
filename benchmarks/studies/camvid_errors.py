"""``python -m benchmarks.studies.camvid_errors RUN --root CAMVID`` asks whether a model's errors are displacements.

InverseForm takes a predicted boundary for a true one that was moved by a homography. How far does that hold for the
model in the folder RUN, on test frames? How much nearer do its boundaries come to the true ones when each tile is moved
by the network's estimate, and by the best homography that can be found? And does InverseForm's gradient agree with
those of the boundary BCE and the cross-entropy, which know the truth pixel by pixel?
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from benchmarks.common import paths, results
from benchmarks.common.machine import machine
from benchmarks.common.results import Json
from inverseform_fast import InverseFormLoss, InverseTransformNet, functional, homography
from inverseform_fast.inverse_net.pairs import blur
from inverseform_fast.segmentation.datasets import build_dataset
from inverseform_fast.segmentation.evaluation import load_model, predict
from inverseform_fast.segmentation.tasks.semantic import VOID
from inverseform_fast.segmentation.transforms import EvalTransform

RESULTS = paths.RESULTS / "camvid_errors.json"
NEAR = (1, 5, 16)  # pixels up to which a boundary is found, displaced a little, displaced as far as the network trained
SIZES = ((448, 448), (896, 896))  # sizes to which the whole frame is resized before it is cut into tiles of 224
STEPS, RATE, BLUR = 60, 0.02, (6.0, 0.5)  # the search for the best homography; its blur in pixels falls from 6 to 0.5


def shares_by_distance(pixels: Tensor, others: Tensor) -> list[float]:
    """Sort the boundary ``pixels (H, W)`` bool by their distance to the nearest one of ``others (H, W)``.

    Returns:
        Their shares up to each of NEAR, from the one before it, and beyond the last.
    """
    distance = distance_transform_edt(~others.numpy())[pixels.numpy()]
    edges = [-1.0, *NEAR, float("inf")]
    return [float(((distance > low) & (distance <= high)).mean()) for low, high in pairwise(edges)]


def dice(predicted: Tensor, true: Tensor) -> Tensor:
    """Compute the overlap ``(N,)`` of boundaries ``(N, 1, H, W)``; it is 1 if they are equal."""
    return 2 * (predicted * true).sum((1, 2, 3)) / (predicted.sum((1, 2, 3)) + true.sum((1, 2, 3))).clamp(min=1e-6)


def moved(tiles: Tensor, a: Tensor) -> Tensor:
    return functional.homography_warp(tiles, homography.exp(a), (tiles.shape[-2], tiles.shape[-1]))


def best_homography(predicted: Tensor, true: Tensor) -> Tensor:
    """Find the coefficients ``(N, 8)`` of the move that brings each prediction nearest to the truth.

    The search is a descent on blurred overlap. No move at all is among the candidates, so the overlap never falls.
    """
    a = torch.zeros(len(predicted), 8, requires_grad=True)
    optimizer = torch.optim.Adam([a], lr=RATE)
    best, overlap = torch.zeros_like(a), dice(predicted, true)
    for step in range(STEPS):
        done = step / STEPS
        optimizer.param_groups[0]["lr"] = RATE * (1 - done)
        sigma = torch.full((len(a), 1, 1, 1), BLUR[0] + (BLUR[1] - BLUR[0]) * done)
        (-dice(blur(moved(predicted, a), sigma), blur(true, sigma)).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            now = dice(moved(predicted, a), true)
            best = torch.where((now > overlap)[:, None], a, best)
            overlap = torch.maximum(now, overlap)
    return best.detach()


def overlaps(net: InverseTransformNet, predicted: Tensor, true: Tensor) -> Iterator[dict[str, float]]:
    """Measure each tile with a boundary: its overlap as it is, moved by the estimate, and by the best homography."""
    seen = true.flatten(1).sum(1) > 0
    predicted, true = predicted[seen], true[seen]
    if not len(true):
        return
    with torch.no_grad():
        estimate = net.algebra(predicted, true)
    best = best_homography(predicted, true)
    columns = {
        "as_predicted": dice(predicted, true),
        "by_estimate": dice(moved(predicted, -estimate), true),
        "by_best": dice(moved(predicted, best), true),
        "estimated_px": estimate.norm(dim=1) * net.tile / 2,
        "best_px": best.norm(dim=1) * net.tile / 2,
    }
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, map(float, values), strict=True))


def gradients(predictions: dict[str, Tensor], labels: Tensor, size: tuple[int, int]) -> dict[str, float]:
    """Compare InverseForm's gradient with another one: their cosine, and how many times as long it is.

    ``head`` compares it with the boundary BCE's, with respect to the boundary logits; ``headless`` compares it with the
    cross-entropy's, with respect to the segmentation logits.
    """
    target, term = functional.boundary_map(labels)[:, None], InverseFormLoss(resize=size)
    segmentation, boundary = (predictions[name].detach().requires_grad_() for name in ("semantic", "boundary"))
    soft = functional.soft_boundary_map(segmentation, labels.shape[-2:]).logit(eps=1e-6)
    losses = {
        "head": (boundary, term(boundary, target), functional.boundary_loss(boundary, labels)),
        "headless": (segmentation, term(soft, target), functional.segmentation_loss(segmentation, labels)),
    }
    result = {}
    for name, (logits, *pair) in losses.items():
        inverseform, other = (torch.autograd.grad(loss, logits, retain_graph=True)[0].flatten() for loss in pair)
        result[f"{name}_cosine"] = float(F.cosine_similarity(inverseform, other, dim=0))
        result[f"{name}_ratio"] = float(inverseform.norm() / other.norm())
    return result


def measure(run: Path, root: Path | None, data: str = "camvid", stride: int = 20) -> Json:
    """Average over every ``stride``-th test frame.

    Returns:
        ``rows``: the overlaps and gradients for each of SIZES. ``missing``: shares of the true boundary pixels by their
        distance to the predicted boundary, see :func:`shares_by_distance`; ``false``: the other way round.
    """
    model, _ = load_model(run)
    frames = build_dataset(data, "test", root)
    net, transform, rows = InverseTransformNet.compact(), EvalTransform(frames.tasks), []
    shares: dict[str, list[list[float]]] = {"missing": [], "false": []}
    for size in SIZES:
        tiles: list[dict[str, float]] = []
        slopes: list[dict[str, float]] = []
        for index in range(0, len(frames), stride):
            sample = transform(frames[index])
            images, labels = sample["image"][None], sample["semantic"][None]
            with torch.no_grad():
                predictions = model({"image": images})
            maps = predict(model, {"image": images}, frames.tasks, (labels.shape[-2], labels.shape[-1]))
            classes = maps["semantic"]
            predicted = functional.boundary_map(classes.masked_fill(labels == VOID, VOID))
            target = functional.boundary_map(labels)[:, None]
            boundary = (predicted == 1).float()[:, None]
            tiles += overlaps(net, *functional.extract_tiles(boundary, target, size, net.tile, None))
            slopes.append(gradients(predictions, labels, size))
            if size == SIZES[0]:
                found, true = predicted[0] == 1, target[0, 0] == 1
                shares["missing"].append(shares_by_distance(true, found))
                shares["false"].append(shares_by_distance(found, true))
        rows.append({"size": size, "tiles": len(tiles)} | _means(tiles) | _means(slopes))
    means = {name: [statistics.mean(column) for column in zip(*shares[name], strict=True)] for name in shares}
    return {"rows": rows, **means}


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.mean(row[name] for row in rows) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a training with a boundary head")
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file for the results")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {"run": options.run.name, "machine": machine(on_gpu=False), **measure(options.run, options.root)}
    results.write(options.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
