"""The losses: thin modules over the ops; InverseForm reads like sections 3.3 to 3.5 of the paper."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from . import checks, functional, homography
from .nets.frozen import WithFrozenNet, in_full_precision, keeping_values, nearest_multiples
from .whole_batch import COUNTS, Part, check_micro_batches, check_process_group

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class InverseFormLoss(WithFrozenNet):
    """How far a predicted boundary is from the true one: the distance from the identity of the homography between them.

    Prediction and target are resized, cut into tiles, and a frozen inverse-transformation network estimates each tile's
    homography (paper, sections 3.2 to 3.4). With the default network and ``distance="log"`` the value is the mean
    boundary displacement in half tiles (times 112: pixels of a 224 tile), and exactly 0 for identical maps. Tiles whose
    target has no boundary are left out.

    The network is no part of ``parameters()`` or ``state_dict()``, so optimisers, checkpoints and DDP do not see it; it
    follows ``.to()``, but stays in float32 or wider: the loss computes in float32 under autocast.

    Args:
        net: ``"compact"`` or ``"predictions"`` (the package's own), a path to a weight file, or an
            :class:`InverseTransformNet`, which is frozen.
        distance: ``"log"``, ``"euclidean"`` or ``"geodesic"`` (the paper's, which hardly sees scale, aspect and shear:
            docs/measured/alignment.md); see :func:`inverseform_fast.homography.distance`.
        resize: ``(H, W)`` that both maps are resized to, multiples of the network's tile. None takes the multiple of
            the tile that is nearest to the target's size in each direction, at least one tile.
        activation: applied to the prediction: ``"sigmoid"``, or None if the prediction is a probability already.
        reduction: over tiles: ``"mean"`` (of those with a true boundary), ``"sum"`` or ``"none"`` (``(N * tiles,)``).
        check_finite: raise ValueError if the prediction is not finite. This is off by default, because it waits for
            the GPU.

    Raises:
        TypeError, ValueError: an option is not one of these, or the weight file is not valid.
        FileNotFoundError: the weight file is missing.

    Example:
        >>> target = torch.zeros(1, 1, 224, 224, dtype=torch.uint8)
        >>> target[..., 100:104, :] = target[..., :, 60:64] = 1  # two lines that cross
        >>> loss = iff.InverseFormLoss(activation=None)
        >>> loss(target.float(), target)  # a match
        tensor(0.)
        >>> moved = target.float().roll(8, -1)
        >>> round(112 * loss(moved, target).item())  # in pixels
        8
    """

    def __init__(
        self,
        net: str | os.PathLike[str] | nn.Module = "compact",
        distance: str = "log",
        resize: tuple[int, int] | None = None,
        activation: str | None = "sigmoid",
        reduction: str = "mean",
        check_finite: bool = False,
    ) -> None:
        homography.check_distance(distance)
        checks.check_activation(activation)
        checks.check_choice(reduction, "reduction", ("mean", "sum", "none"))
        super().__init__(net)
        self.resize = None if resize is None else checks.check_size(resize, "resize")
        if self.resize is not None and any(edge % self.net.tile for edge in self.resize):
            raise ValueError(f"resize must be multiples of the network's tile, {self.net.tile}, got {self.resize}")
        self.distance = distance
        self.activation = activation
        self.reduction = reduction
        self.check_finite = checks.check_flag(check_finite, "check_finite")
        self.knows_boundaries = False  # whether a target had a boundary, or its maker is known to draw them

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of ``logits (N, 1, h, w)`` against ``target (N, 1, H, W)`` of 0, 1 and 255 (void): scalar, or per tile.

        Raises:
            TypeError, ValueError: wrong dtype or shape; other values in ``target``, which are looked for as class ids
                are in :func:`inverseform_fast.functional.segmentation_loss`; with ``check_finite``, a prediction that
                is not finite.
        """
        checks.check_boundaries(logits, target, "logits")
        if self.check_finite:
            require_finite(logits, "logits")
        if self.activation is None and checks.readable(logits):
            checks.check_probabilities(logits, "logits")
        with in_full_precision(logits):
            predicted, true = self._tiles(logits, target)
            self._look_for_boundaries(target)
            distance = self._distance(predicted, true)
        has_boundary = _has_boundary(true)
        distance = torch.where(has_boundary, distance, 0)
        if self.reduction == "none":
            return distance
        total = distance.sum()
        return total if self.reduction == "sum" else total / has_boundary.sum().clamp(min=1)

    def tiles_with_boundary(self, target: Tensor) -> Tensor:
        """How many tiles of ``target (N, 1, H, W)`` have a boundary, which are those that the mean is over: scalar."""
        nothing = torch.zeros(len(target), 1, 1, 1, device=target.device)
        return _has_boundary(self._tiles(nothing, target)[1]).sum()

    def _tiles(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        tile = self.net.tile
        size = self.resize or nearest_multiples(target, tile)
        return functional.extract_tiles(logits, target, size, tile, self.activation)

    def _distance(self, predicted: Tensor, true: Tensor) -> Tensor:
        net = self.net_for(predicted)
        if self.distance == "log":
            return torch.linalg.vector_norm(net.algebra(predicted, true), dim=1)
        return homography.distance(net.pair(predicted, true), kind=self.distance)

    def _look_for_boundaries(self, target: Tensor) -> None:
        """Warn once of targets of 0 and 255, which mean that nothing is a boundary and the rest is void."""
        if self.knows_boundaries or not checks.readable(target):
            return
        self.knows_boundaries = bool((target == 1).any())
        if not self.knows_boundaries and bool((target == 255).any()):
            self.knows_boundaries = True
            warnings.warn(
                "target holds 255 (void) but no 1 (boundary) so far, so nothing is compared; divide a map of 0 and 255 "
                "by 255",
                stacklevel=5,  # the caller of the module
            )

    def extra_repr(self) -> str:
        return f"net={type(self.net).__name__}, distance={self.distance!r}, reduction={self.reduction!r}"


def _has_boundary(true: Tensor) -> Tensor:
    return (true > 0).flatten(1).any(1)


class LossTerms(NamedTuple):
    """Scalars. The terms are unweighted, and one whose weight is 0 is 0, since it is not computed.

    ``total = segmentation + edge_weight edge + dice_weight dice + f1_weight f1 + beta boundary + gamma inverseform``.

    Example:
        >>> labels = torch.arange(4).repeat_interleave(8).expand(2, 32, 32)  # four stripes
        >>> terms = iff.BoundaryAwareLoss(edge=0, dice=3, f1=2)(torch.zeros(2, 4, 8, 8), labels)
        >>> torch.allclose(terms.total, terms.segmentation + 3 * terms.dice + 2 * terms.f1)
        True
    """

    total: Tensor
    segmentation: Tensor
    boundary: Tensor
    inverseform: Tensor
    edge: Tensor
    dice: Tensor
    f1: Tensor


class BoundaryAwareLoss(nn.Module):
    """Cross-entropy, and terms that care for boundaries and for rare classes.

    ``L = L_xe + edge L_edge + dice L_dice + f1 L_f1 + beta L_bxe + gamma L_if``: cross-entropy, cross-entropy of the
    true boundary's pixels alone, Dice and boundary F1, averaged over classes, balanced boundary BCE and InverseForm.
    The default weights had the highest score on held-out frames (docs/measured/headless.md). The paper's loss (section
    3.5) is ``BoundaryAwareLoss(beta=10, gamma=0.3, edge=0, dice=0, f1=0)`` with a boundary head.

    Args:
        beta: weight of the class-balanced boundary BCE. None means 10 with a boundary head, and 0 without one, where
            this term acts on the class logits themselves.
        gamma: weight of InverseForm. The default leaves it out, because it did not sharpen boundaries where labels are
            exact (docs/measured/results.md).
        radius: of all terms' true boundaries, in pixels.
        ignore_index: the label that marks void.
        class_weights: ``(C,)`` weights of the classes in both cross-entropies.
        inverseform: the InverseForm term; None makes ``InverseFormLoss()``.
        check_finite: raise ValueError if logits are not finite. This is off by default, because it waits for the GPU.
        edge: weight of the cross-entropy of the boundary's pixels.
        dice: weight of the Dice loss.
        f1: weight of :func:`inverseform_fast.functional.boundary_f1_loss`.
        process_group: the processes that share a batch, usually ``torch.distributed.group.WORLD``, once
            ``init_process_group`` has been called. Balances, counts and means are then of the whole batch: the *mean
            over the processes* of every term, and the gradients that ``DistributedDataParallel`` averages, are those
            of one process with the whole batch, to rounding. Each call is one small all-reduce, so all processes must
            call equally often. The criterion keeps the group's name, by which copies and pickles find it.

    Raises:
        TypeError, ValueError: an option is not one of these, or this process is not in the group.

    Example:
        >>> criterion = iff.BoundaryAwareLoss()
        >>> logits = torch.randn(2, 19, 32, 64, requires_grad=True)
        >>> labels = torch.arange(19).repeat_interleave(14)[:256].expand(2, 128, 256)  # 19 stripes
        >>> terms = criterion(logits, labels)
        >>> terms.total.backward()
        >>> terms._fields
        ('total', 'segmentation', 'boundary', 'inverseform', 'edge', 'dice', 'f1')
    """

    class_weights: Tensor | None

    def __init__(
        self,
        beta: float | None = None,
        gamma: float = 0.0,
        radius: int = 2,
        ignore_index: int = 255,
        class_weights: Tensor | None = None,
        inverseform: InverseFormLoss | None = None,
        check_finite: bool = False,
        *,
        edge: float = 4.0,
        dice: float = 4.0,
        f1: float = 16.0,
        process_group: ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        self.beta = None if beta is None else checks.check_weight(beta, "beta")
        self.gamma, self.edge = checks.check_weight(gamma, "gamma"), checks.check_weight(edge, "edge")
        self.dice, self.f1 = checks.check_weight(dice, "dice"), checks.check_weight(f1, "f1")
        self.radius, self.ignore_index = checks.check_radius(radius), checks.check_ignore_index(ignore_index)
        if class_weights is not None:
            checks.check_class_weights(class_weights)
            if class_weights.is_meta:
                raise ValueError("class_weights must have values, got a tensor on the meta device")
            checks.check_weights_are_positive(class_weights)
        self.register_buffer("class_weights", class_weights, persistent=False)
        if not isinstance(inverseform, (InverseFormLoss, type(None))):
            raise TypeError(f"inverseform must be an InverseFormLoss, got {checks.shown(inverseform)}")
        self.inverseform = InverseFormLoss() if inverseform is None else inverseform
        self.inverseform.knows_boundaries = True  # boundary_map draws its targets
        self.check_finite = checks.check_flag(check_finite, "check_finite")
        self.process_group = None if process_group is None else check_process_group(process_group)
        if self.process_group is not None:
            self._check_parts_add_up()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BoundaryAwareLoss:
        """Let the class weights follow ``.to()``; no checkpoint holds them."""
        super()._apply(keeping_values(fn), recurse)
        return self

    def count(self, micro_batches: Sequence[Tensor]) -> Tensor:
        """Count in all labels of a step whose gradients are accumulated, for ``counts`` of :meth:`forward`.

        The micro-batches' mean of every term but Dice and F1 is then that of the whole batch, and so are the gradients
        of ``total / len(micro_batches)``. Dice and F1, which need all predictions at once, are the micro-batches' mean.

        Args:
            micro_batches: each one's labels ``(N, H, W)``. All processes of ``process_group`` must have equally many.

        Returns:
            The counts, of all processes if there is a group: float64. They depend on ``gamma``: if it is 0 here, and
            not in :meth:`forward`, InverseForm is infinite.

        Raises:
            TypeError, ValueError: wrong dtype or shape, or no labels.

        Example:
            >>> criterion = iff.BoundaryAwareLoss(dice=0, f1=0)
            >>> logits, labels = torch.randn(4, 3, 8, 8), torch.arange(32).expand(4, 32, 32) // 11
            >>> whole = criterion(logits, labels).total
            >>> parts = logits.split(2), labels.split(2)
            >>> counts = criterion.count(parts[1])
            >>> torch.allclose(sum(criterion(*part, counts=counts).total / 2 for part in zip(*parts)), whole)
            True
        """
        check_micro_batches(micro_batches)
        self._check_parts_add_up()
        with in_full_precision(micro_batches[0]):
            own = torch.stack([self._count(labels, self._boundary_map(labels)) for labels in micro_batches]).sum(0)
        return Part(own, self.process_group).sum()

    def forward(
        self,
        segmentation_logits: Tensor,
        labels: Tensor,
        boundary_logits: Tensor | None = None,
        counts: Tensor | None = None,
    ) -> LossTerms:
        """Loss terms of a batch.

        Args:
            segmentation_logits: ``(N, C, h, w)``, of the labels' resolution or lower.
            labels: ``(N, H, W)`` class ids, uint8 or int8 to int64.
            boundary_logits: ``(N, 1, h', w')`` of a boundary head; None derives the boundary from the segmentation
                (headless).
            counts: what :meth:`count` has counted, if this is one of several micro-batches.

        Raises:
            TypeError, ValueError: wrong dtype, shape or class id, or fewer than two classes; with ``check_finite``,
                logits that are not finite.
        """
        self._check(segmentation_logits, labels, boundary_logits, counts)
        if self.check_finite:
            require_finite(segmentation_logits, "segmentation_logits")
            if boundary_logits is not None:
                require_finite(boundary_logits, "boundary_logits")
        beta = self.beta if self.beta is not None else 0.0 if boundary_logits is None else 10.0
        is_part = self.process_group is not None or counts is not None
        balance = dice_sums = f1_sums = None
        with in_full_precision(segmentation_logits):
            segmentation_logits = functional.channels_first(segmentation_logits)
            if self.edge or self.gamma or is_part:
                target = self._boundary_map(labels)
            if is_part:
                part = Part(self._count(labels, target), self.process_group, self._sums(segmentation_logits, labels))
            segmentation = self._cross_entropy(segmentation_logits, labels)
            edge = dice = f1 = boundary = inverseform = torch.zeros_like(segmentation)
            if self.edge:
                pixels = torch.where(target == 1, labels.long(), self.ignore_index)  # a narrow dtype may not hold void
                edge = self._cross_entropy(segmentation_logits, pixels)
            if is_part:
                whole = part.whole(counts)
                balance, dice_sums, f1_sums = whole.balance, whole.sums.get("dice"), whole.sums.get("f1")
            if self.dice:
                dice = functional.dice_loss(segmentation_logits, labels, self.ignore_index, dice_sums)
            if self.f1:
                f1 = functional.boundary_f1_loss(
                    segmentation_logits, labels, self.radius, self.ignore_index, sums=f1_sums
                )
            if boundary_logits is None and (beta or self.gamma):
                size = labels.shape[-2:]
                boundary_logits = functional.soft_boundary_map(segmentation_logits, size, self.radius, as_logits=True)
            if beta and boundary_logits is not None:
                boundary = functional.boundary_loss(boundary_logits, labels, self.radius, self.ignore_index, balance)
            if self.gamma and boundary_logits is not None:
                inverseform = self.inverseform(boundary_logits, target[:, None])
            terms = segmentation, boundary, inverseform, edge, dice, f1
            if is_part:
                terms = whole.terms(*terms)
            total = terms[0]
            for weight, term in zip((beta, self.gamma, self.edge, self.dice, self.f1), terms[1:], strict=True):
                total = total + weight * term if weight else total  # a launch is spared where there is no term
        return LossTerms(total, *terms)

    @torch.no_grad()
    def _sums(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the terms that depend on all predictions need to know of each part of a batch, by term."""
        dice = {"dice": functional.dice_sums(logits, labels, self.ignore_index)} if self.dice else {}
        f1 = {"f1": functional.boundary_f1_sums(logits, labels, self.radius, self.ignore_index)} if self.f1 else {}
        return dice | f1

    @torch.no_grad()
    def _count(self, labels: Tensor, target: Tensor) -> Tensor:
        """What is counted in labels, in the order of :mod:`.whole_batch`: float64."""
        positive, negative = target == 1, target == 0
        positives, negatives = positive.sum(), negative.sum()
        edge, other = positives, negatives
        if self.class_weights is not None:
            checks.check_same_device("class_weights", self.class_weights, "labels", labels)
            weights = self.class_weights[labels.long().clamp(0, len(self.class_weights) - 1)]
            edge, other = (torch.where(kind, weights, 0).sum(dtype=torch.float64) for kind in (positive, negative))
        one = torch.ones_like(positives)
        tiles = self.inverseform.tiles_with_boundary(target[:, None]) if self.gamma else torch.zeros_like(one)
        return torch.stack((one, positives, negatives, edge + other, edge, tiles)).double()

    def _boundary_map(self, labels: Tensor) -> Tensor:
        return functional.boundary_map(labels, self.radius, self.ignore_index)

    def _check_parts_add_up(self) -> None:
        """Raise ValueError if terms of parts of a batch do not make up those of the whole."""
        where = "where a batch is spread over processes or micro-batches"
        if self.inverseform.reduction != "mean":
            raise ValueError(f"inverseform must have reduction='mean' {where}, got {self.inverseform.reduction!r}")
        if self.class_weights is not None and self.class_weights.requires_grad:
            raise ValueError(f"class_weights must not require a gradient {where}")

    def _check(
        self, segmentation_logits: Tensor, labels: Tensor, boundary_logits: Tensor | None, counts: Tensor | None
    ) -> None:
        checks.check_maps(segmentation_logits, "segmentation_logits")
        checks.check_two_classes(segmentation_logits, "segmentation_logits")
        checks.check_labels(labels, batch=len(segmentation_logits))
        checks.check_same_device("labels", labels, "segmentation_logits", segmentation_logits)
        if boundary_logits is not None:
            checks.check_maps(boundary_logits, "boundary_logits", channels=1)
            if len(boundary_logits) != len(labels):
                raise ValueError(f"boundary_logits must be {len(labels)} maps, like labels, got {len(boundary_logits)}")
            checks.check_same_device("boundary_logits", boundary_logits, "segmentation_logits", segmentation_logits)
        if counts is not None:
            checks.check_sums(counts, "counts", (COUNTS,), "segmentation_logits", segmentation_logits)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.segmentation_loss(logits, labels, self.class_weights, self.ignore_index)

    def extra_repr(self) -> str:
        options = f"beta={self.beta}, gamma={self.gamma}, radius={self.radius}, ignore_index={self.ignore_index}"
        group = "" if self.process_group is None else f", process_group={self.process_group!r}"
        return f"{options}, edge={self.edge}, dice={self.dice}, f1={self.f1}{group}"


def require_finite(logits: Tensor, name: str) -> None:
    """Raise ValueError if ``logits`` holds NaN or infinity; waits for the device."""
    bad = logits.numel() - int(logits.isfinite().sum())
    if bad:
        raise ValueError(f"{name} must be finite, but {bad} of {logits.numel()} values are NaN or infinite")
