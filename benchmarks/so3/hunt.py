"""Hunts for inputs on which project_to_so3 and geodesic_distance fail: ``python -m benchmarks.so3.hunt``.

It compares millions of hard float32 matrices, drawn from a fresh seed, with an SVD in float64. It fails (exit status 1)
if a projection is further than 64 eps kappa from the nearest rotation, if it is not a rotation, or if anything is not
finite. Here kappa = s1 / (s2 + s3), with the determinant's sign in s3; beyond 1e6 P is noise, and must only be a
rotation.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import inverseform_fast as iff
from benchmarks.common import results
from benchmarks.common.results import Json
from inverseform_fast import functional

CHUNK = 250_000
EPS, POSED = 2.0**-24, 1e6
LIMITS = {"error": 64, "orthogonality": 4e-6, "determinant": 4e-6, "not_finite": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    print("seed", options.seed, flush=True)
    result = hunt(options.matrices, options.seed, options.device)
    print(json.dumps(result, indent=1))
    if options.out:
        results.write(options.out, result)
    sys.exit(0 if result["passed"] else 1)


def hunt(matrices: int, seed: int, device: str) -> Json:
    generator = torch.Generator(device).manual_seed(seed)
    eye = torch.eye(3, dtype=torch.float64, device=device)
    worst: Json = dict.fromkeys(LIMITS, 0)
    worst_case: Json = {}
    posed = 0
    for start in range(0, matrices, CHUNK):
        matrix = hard_matrices(min(CHUNK, matrices - start), generator)
        kappa, nearest = truth(matrix)
        rotation = functional.project_to_so3(matrix).double()
        found = {
            "error": torch.where(kappa < POSED, norm(rotation - nearest) / (EPS * kappa.clamp(min=0.5)), 0),
            "orthogonality": norm(rotation.mT @ rotation - eye),
            "determinant": (rotation.det() - 1).abs(),
        }
        largest = {name: float(values.nan_to_num(math.inf).max()) for name, values in found.items()}
        if largest["error"] > worst["error"]:
            row = found["error"].nan_to_num(math.inf).argmax()
            worst_case = {"matrix": matrix[row].tolist(), "kappa": float(kappa[row])}
        worst |= {name: max(worst[name], value) for name, value in largest.items()}
        worst["not_finite"] += not_finite(rotation, *distance_and_gradients(matrix, generator))
        posed += int((kappa < POSED).sum())
    passed = all(worst[name] <= limit for name, limit in LIMITS.items())
    about = {"seed": seed, "device": device, "backend": iff.backend_info()["ops"]["project_to_so3"]}
    about["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    counts = {"torch": torch.__version__, "matrices": matrices, "kappa_below_1e6": posed}
    return about | counts | {"worst": worst, "limits": LIMITS, "worst_error_at": worst_case, "passed": passed}


def hard_matrices(n: int, generator: torch.Generator) -> Tensor:
    """Draw matrices (n, 3, 3) float32 with singular values far apart and in clusters, in many frames and scales."""
    uniform = partial(torch.rand, generator=generator, dtype=torch.float64, device=generator.device)
    one, sign = torch.ones_like(uniform(n)), (uniform(n) - 0.5).sign()
    d, e, small = 10 ** (-7 * uniform(3, n))
    values = [(one, d, sign * e), (one, 1 - d, sign * (1 - d) * (1 - e)), (one, d, sign * d * (1 - e))]
    singular = one_of([torch.stack(v, -1) for v in values], generator)
    angle = one_of([0 * one, small, math.pi - small, math.pi * uniform(n)], generator)  # 0 makes it symmetric
    frame = rotations(uniform(n, 3) - 0.5, math.pi * uniform(n))
    stretch = frame * singular[:, None, :] @ frame.mT
    scale = 2.0 ** torch.randint(-40, 41, (n, 1, 1), generator=generator, device=generator.device)
    return (scale * (rotations(uniform(n, 3) - 0.5, angle) @ stretch)).float()


def one_of(choices: list[Tensor], generator: torch.Generator) -> Tensor:
    """Choose at random for each row."""
    rows = torch.arange(len(choices[0]), device=generator.device)
    return torch.stack(choices)[torch.randint(len(choices), rows.shape, generator=generator, device=rows.device), rows]


def rotations(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotate by ``angle (n,)`` about ``axis (n, 3)``, by Rodrigues' formula; returns ``(n, 3, 3)``."""
    eye = torch.eye(3, dtype=axis.dtype, device=axis.device)
    cross = torch.linalg.cross(eye[None], torch.nn.functional.normalize(axis, dim=-1)[:, None])
    return eye + angle.sin()[:, None, None] * cross + (1 - angle.cos())[:, None, None] * cross @ cross


def truth(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Compute kappa and the nearest rotation, by LAPACK in float64."""
    u, s, vh = torch.linalg.svd(matrix.double())
    signs = torch.ones_like(s)
    signs[:, 2] = torch.linalg.det(u @ vh).sign()
    return s[:, 0] / (s * signs)[:, 1:].sum(-1), u * signs[:, None, :] @ vh


def distance_and_gradients(matrix: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Compute geodesic_distance from theta to ``theta @ matrix``, and its gradients, for a well-conditioned theta."""
    noise = torch.rand(matrix.shape, generator=generator, device=matrix.device) - 0.5
    theta = (torch.eye(3, device=matrix.device) + 0.4 * noise).requires_grad_()
    theta_hat = (theta @ matrix).detach().requires_grad_()
    distance = functional.geodesic_distance(theta, theta_hat)
    grad_theta, grad_theta_hat = torch.autograd.grad(distance.sum(), (theta, theta_hat))
    return distance.detach(), grad_theta, grad_theta_hat


def not_finite(*results: Tensor) -> int:
    """Count the rows in which any of the results is not finite."""
    finite = [result.reshape(len(result), -1).isfinite().all(-1) for result in results]
    return len(finite[0]) - int(torch.stack(finite).all(0).sum())


def norm(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix)


if __name__ == "__main__":
    main()
