"""What others propose, each from its paper's formula: scalars of logits (N, C, h, w) and labels (N, H, W).

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


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Berman, Triki and Blaschko, CVPR 2018: the Lovász extension of each class's Jaccard loss, over the batch.

    With errors m sorted downwards, the extension is sum_i m_i (J_i - J_(i-1)), where J_i is the Jaccard loss if the
    first i pixels were the wrong ones: 1 - (|y| - wrong y) / (|y| + wrong others).
    """
    valid = labels != VOID
    predicted = probabilities(logits, labels).movedim(1, 0)[:, valid].unbind()
    terms = []
    for c in classes_present(labels):
        true = (labels[valid] == c).float()
        errors, order = (predicted[c] - true).abs().sort(descending=True)
        true = true[order]
        jaccard = 1 - (true.sum() - true.cumsum(0)) / (true.sum() + (1 - true).cumsum(0))
        terms.append(errors @ jaccard.diff(prepend=jaccard.new_zeros(1)))
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
    """``distances`` of masks (N, C, H, W)."""
    outside, inside = distances(masks.flatten(0, 1)[:, None])
    return outside.view(masks.shape), inside.view(masks.shape)


def boundary_f1(logits: Tensor, labels: Tensor, width: int = 3, tolerance: int = 5) -> Tensor:
    """Bokhovkin and Burnaev, 2019: 1 - F1 of boundaries by max-pooling, mean over the images and their classes.

    The boundary of a map y is pool(1 - y) - (1 - y) with a window of ``width``. Precision counts predicted boundary
    within the true one pooled by ``tolerance``, recall the other way round. Void and what its window touches are left
    out.
    """
    truth = truth_of(labels, logits.shape[1])
    known = 1 - _pool((labels == VOID).float()[:, None], width)
    predicted, true = (known * (_pool(1 - y, width) - (1 - y)) for y in (probabilities(logits, labels), truth.float()))
    precision = _share(predicted, _pool(true, tolerance))
    recall = _share(true, _pool(predicted, tolerance))
    f1 = 2 * precision * recall / (precision + recall).clamp(min=EPS)
    return (1 - f1)[true.flatten(2).any(2)].mean()


def _pool(x: Tensor, window: int) -> Tensor:
    return F.max_pool2d(x, window, stride=1, padding=window // 2)


def _share(mine: Tensor, others: Tensor) -> Tensor:
    """(N, C): how much of one boundary lies in the other."""
    return (mine * others).sum((2, 3)) / mine.sum((2, 3)).clamp(min=EPS)


def relaxed_cross_entropy(logits: Tensor, labels: Tensor, radius: int = 1) -> Tensor:
    """Zhu et al., CVPR 2019: -log of the probability of all classes in the window around a pixel, mean over valid ones.

    Away from boundaries this is cross-entropy. The window reaches ``radius`` pixels in each direction.
    """
    log_p, truth = log_probabilities(logits, labels), truth_of(labels, logits.shape[1])
    near = _pool(truth.float(), 2 * radius + 1) > 0
    likelihood = log_p.masked_fill(~near, -torch.inf).logsumexp(1)
    valid = labels != VOID
    return -likelihood[valid].sum() / valid.sum().clamp(min=1)
