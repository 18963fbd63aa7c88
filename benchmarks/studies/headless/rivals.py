"""What others propose, as scalars of logits (N, C, h, w) and labels (N, H, W).

Each is written from its paper's formula, but for two: the active boundary loss follows notes on its paper, and the
probability-gradient loss its paper's abstract.

Where a paper speaks of one object, the term is the mean over the classes present, or as its docstring says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.studies.alignment.starts import distances
from benchmarks.studies.headless.terms import (
    EPS,
    VOID,
    classes_present,
    log_probabilities,
    probabilities,
    truth_of,
)
from inverseform_fast.segmentation.metrics.boundary import dilate

AROUND = torch.tensor([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)])


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Berman, Triki and Blaschko, CVPR 2018: the Lovász extension of each class's Jaccard loss, over the batch.

    With errors m sorted downwards, the extension is sum_i m_i (J_i - J_(i-1)), where J_i is the Jaccard loss if the
    first i pixels were the wrong ones: 1 - (|y| - wrong y) / (|y| + wrong others).
    """
    valid = labels != VOID
    known, predicted = labels[valid], probabilities(logits, labels).movedim(1, 0)[:, valid].unbind()
    terms = []
    for c in classes_present(labels):
        true = (known == c).float()
        errors = (predicted[c] - true).abs()
        # Floats that are not negative lie in the order of their bits, and PyTorch sorts integers much faster.
        order = errors.detach().view(torch.int32).argsort().flip(0)
        sorted_true = true[order]
        jaccard = 1 - (true.sum() - sorted_true.cumsum(0)) / (true.sum() + (1 - sorted_true).cumsum(0))
        weights = torch.empty_like(true).scatter_(0, order, jaccard.diff(prepend=jaccard.new_zeros(1)))
        terms.append(errors @ weights)
    return torch.stack(terms).mean()


def signed_distance(logits: Tensor, labels: Tensor) -> Tensor:
    """Kervadec et al., Boundary loss for highly unbalanced segmentation, MIDL 2019: the mean of sum_c phi_c p_c.

    phi_c is the distance in pixels from the outline of class c in the image, negative inside; 0 for an absent class.
    """
    predicted, valid = probabilities(logits, labels), labels != VOID
    outside, inside = class_distances(truth_of(labels, logits.shape[1]))
    phi = outside - (inside - 1).clamp(min=0)
    return (phi * predicted).sum(1)[valid].sum() / valid.sum().clamp(min=1)


def hausdorff(logits: Tensor, labels: Tensor) -> Tensor:
    """Karimi and Salcudean, IEEE TMI 2019, alpha = 2: mean of (p - y)^2 (d_p^2 + d_y^2), over the classes present.

    d_y is the distance in pixels from the outline of the class, d_p from that of where p > 0.5.
    """
    present = classes_present(labels)
    predicted, true = (x[:, present] for x in (probabilities(logits, labels), truth_of(labels, logits.shape[1])))
    squares = [torch.add(*class_distances(mask)).square() for mask in (predicted.detach() > 0.5, true)]
    errors = (predicted - true.float()).square() * (squares[0] + squares[1])
    valid = labels != VOID
    return errors.mean(1)[valid].sum() / valid.sum().clamp(min=1)


def class_distances(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Apply ``distances`` to each class of masks (N, C, H, W)."""
    outside, inside = distances(masks.flatten(0, 1)[:, None])
    return outside.view(masks.shape), inside.view(masks.shape)


def boundary_f1(logits: Tensor, labels: Tensor, width: int = 3, tolerance: int = 5) -> Tensor:
    """Bokhovkin and Burnaev, 2019: 1 - F1 of boundaries by max-pooling, mean over the images and their classes.

    The boundary of a map y is pool(1 - y) - (1 - y) with a window of ``width``. Precision counts predicted boundary
    within the true one pooled by ``tolerance``, recall the other way round. Void and what its window touches are left
    out.
    """
    truth, others = truth_of(labels, logits.shape[1]), 1 - probabilities(logits, labels)
    known = ~_dilated(labels == VOID, width)[:, None]
    predicted, true = known * (_pool(others, width) - others), known & truth & _dilated(~truth, width)
    precision = _share(predicted, _dilated(true, tolerance))
    recall = _share(true.float(), _pool(predicted, tolerance))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=EPS)
    return (1 - f1)[true.flatten(2).any(2)].mean()


def _pool(x: Tensor, window: int) -> Tensor:
    """The largest value in the window around each pixel of maps (N, C, H, W)."""
    # Only channels last are vectorized in PyTorch's max-pooling.
    x = x.contiguous(memory_format=torch.channels_last)
    for shape in ((window, 1), (1, window)):
        x = F.max_pool2d(x, shape, stride=1, padding=(shape[0] // 2, shape[1] // 2))
    return x


def _dilated(mask: Tensor, window: int) -> Tensor:
    """Where the window around a pixel of masks (..., H, W) has a true one."""
    return dilate(mask, [window // 2] * window, torch.logical_or)


def _share(mine: Tensor, others: Tensor) -> Tensor:
    """(N, C): how much of one boundary lies in the other."""
    return (mine * others).sum((2, 3)) / mine.sum((2, 3)).clamp(min=EPS)


def relaxed_cross_entropy(logits: Tensor, labels: Tensor, radius: int = 1) -> Tensor:
    """Zhu et al., CVPR 2019: -log of the probability of all classes in the window around a pixel, mean over valid ones.

    Away from boundaries this is cross-entropy. The window reaches ``radius`` pixels in each direction.
    """
    log_p, truth = log_probabilities(logits, labels), truth_of(labels, logits.shape[1])
    near = _dilated(truth, 2 * radius + 1)
    likelihood = log_p.masked_fill(~near, -torch.inf).logsumexp(1)
    valid = labels != VOID
    return -likelihood[valid].sum() / valid.sum().clamp(min=1)


def probability_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Shan and Jia, Convolution-based probability gradient loss, 2024: gradients of p shall be like those of the truth.

    Both gradients are Sobel's, and their likeness is the cosine of the angle between them. The loss is one minus its
    mean over the pixels and classes where the true gradient is not 0. Where Sobel's window touches void, none counts.
    """
    truth, predicted = truth_of(labels, logits.shape[1]).float(), probabilities(logits, labels)
    true, ours = _sobel(truth), _sobel(predicted)
    known = ~_dilated(labels == VOID, 3)[:, None]
    counted = (true != 0).any(0) & known
    cosines = F.cosine_similarity(true[:, counted], ours[:, counted], dim=0, eps=EPS)
    return 1 - cosines.sum() / counted.sum().clamp(min=1)


def _sobel(maps: Tensor) -> Tensor:
    """(2, N, C, H, W): the gradients by y and x of maps (N, C, H, W)."""
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(maps, (1, 1, 1, 1), mode="replicate").contiguous(memory_format=torch.channels_last)
    kernels = [kernel.expand(maps.shape[1], 1, 3, 3) for kernel in (across.T, across)]
    return torch.stack([F.conv2d(padded, kernel, groups=maps.shape[1]) for kernel in kernels])


def active_boundary(logits: Tensor, labels: Tensor, share: float = 0.01, reach: float = 20) -> Tensor:
    """Wang et al., Active boundary loss, AAAI 2022: predicted boundary pixels shall move towards the true boundary.

    A pixel is predicted boundary if its Kullback-Leibler divergence from its right or lower neighbour is among the
    image's ``share`` of largest ones. Of its eight neighbours, the one nearest to the true boundary is the answer, with
    0.8 for it and 0.2 / 7 for the others; its divergences from them are the logits, and they get no gradient.
    Each such cross-entropy weighs min(distance from the true boundary, ``reach``) / ``reach``. Void and the image's
    frame are left out.
    """
    log_p = log_probabilities(logits, labels)
    away = distances(_true_edges(labels)[:, None])[0][:, 0]
    n, y, x = (_predicted_edges(log_p.detach(), share) & _inside(labels)).nonzero(as_tuple=True)
    neighbours = (n[:, None], y[:, None] + AROUND[:, 0], x[:, None] + AROUND[:, 1])  # each (K, 8)
    mine, theirs = log_p[n, :, y, x][:, None], log_p.detach()[neighbours[0], :, neighbours[1], neighbours[2]]
    answer = away[neighbours].argmin(1)
    terms = F.cross_entropy(_divergence(mine, theirs, 2), answer, reduction="none", label_smoothing=0.2 * 8 / 7)
    return (terms * away[n, y, x].clamp(max=reach) / reach).sum() / max(1, len(n))


def _divergence(log_p: Tensor, log_q: Tensor, dim: int) -> Tensor:
    """Kullback-Leibler divergence of p from q."""
    return (log_p.exp() * (log_p - log_q)).sum(dim)


def _predicted_edges(log_p: Tensor, share: float) -> Tensor:
    """(N, H, W) bool: at most this share of an image's pixels."""
    right = F.pad(_divergence(log_p[..., :-1], log_p[..., 1:], 1), (0, 1))
    down = F.pad(_divergence(log_p[..., :-1, :], log_p[..., 1:, :], 1), (0, 0, 0, 1))
    strength = torch.maximum(right, down)
    allowed = int(share * strength[0].numel())
    return strength > strength.flatten(1).topk(allowed + 1).values[:, -1, None, None]


def _true_edges(labels: Tensor) -> Tensor:
    """(N, H, W) bool: the right or the lower neighbour is of another class, void being none."""
    right = F.pad(_differ(labels[..., :-1], labels[..., 1:]), (0, 1))
    down = F.pad(_differ(labels[..., :-1, :], labels[..., 1:, :]), (0, 0, 0, 1))
    return right | down


def _differ(here: Tensor, there: Tensor) -> Tensor:
    return (here != there) & (here != VOID) & (there != VOID)


def _inside(labels: Tensor) -> Tensor:
    """(N, H, W) bool: valid, and not on the image's frame."""
    return F.pad((labels != VOID)[:, 1:-1, 1:-1], (1, 1, 1, 1))
