"""What is done about displaced labels, as data, and where it is tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from benchmarks.studies.displaced.displacements import Setting
from benchmarks.studies.headless.arms import Arm, Loss, Weights
from inverseform_fast import BoundaryAwareLoss


def default_loss(_: Weights) -> Loss:
    return _headless(BoundaryAwareLoss())


def with_inverseform(_: Weights) -> Loss:
    return _headless(BoundaryAwareLoss(gamma=0.3))


def _headless(whole: BoundaryAwareLoss) -> Loss:
    def loss(predictions: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return whole(predictions["semantic"], labels).total

    return loss


EXACT = Setting("homography", 0)
MAIN = (Setting("homography", 8), Setting("homography", 16), EXACT)
OTHERS = (
    Setting("homography", 4), Setting("objects", 8), Setting("objects", 16), Setting("coarse", 16),
    Setting("coarse", 32),
)  # fmt: skip
CHOSEN_ON = MAIN[:2]  # where the descent is tuned
FEW = 3  # seeds, where no goal is set

GIVEN, ALIGNED, TWICE, PERMUTED, TUNED, SHIPPED, INVERSEFORM, DESCENT = (
    "given", "aligned", "twice", "permuted", "self-tuned", "shipped", "inverseform", "descent"
)  # fmt: skip
# How often the labels of an arm are moved by the aligner without a network.
ROUNDS = {GIVEN: 0, ALIGNED: 1, TWICE: 2}
ALIGNERS = (ALIGNED, TWICE, TUNED, SHIPPED, DESCENT)  # are tried where labels are exact, too

# In the order in which they are trained. The descent's weights are its blur and rate (in pixels), its steps, and
# whether it has a dead zone, that is, whether its noise is measured.
ARMS = {
    GIVEN: Arm("as given", "no label is moved", ((),), default_loss, main=True),
    ALIGNED: Arm(
        "aligner", "moved once, by `LabelAligner()` with the first model's predictions", ((),), default_loss,
        ours=True, main=True,
    ),
    TWICE: Arm(
        "aligner, twice", "moved by `LabelAligner()` with the predictions of the arm *aligner*'s model", ((),),
        default_loss, ours=True, main=True,
    ),
    PERMUTED: Arm("aligner, permuted", "moved as the aligner moves another image's", ((),), default_loss, main=True),
    TUNED: Arm(
        "self-tuned network", "moved once, by a network that was tuned on the first model's predictions", ((),),
        default_loss, ours=True, main=True,
    ),
    SHIPPED: Arm(
        "shipped network", "moved once, by the network as it comes: no noise figure, so no dead zone", ((),),
        default_loss, main=True,
    ),
    INVERSEFORM: Arm("InverseForm, weight 0.3", "no label is moved; a term of the loss", ((),), with_inverseform,
                     main=True),
    DESCENT: Arm(
        "registration by descent", "moved once, by the homography of the largest overlap of blurred boundaries",
        ((8, 2, 60, 0), (4, 2, 60, 0), (16, 2, 60, 0), (8, 1, 60, 0), (8, 4, 60, 0), (8, 2, 120, 0), (4, 1, 60, 0),
         (8, 2, 60, 1)),
        default_loss, main=True,
    ),
}  # fmt: skip


def arms_of(setting: Setting) -> list[str]:
    """The arms of a setting. The labels as given of ``EXACT`` are the ceiling of the others."""
    return [name for name in ARMS if setting != EXACT or name in (GIVEN, *ALIGNERS)]


def seeds_of(name: str, setting: Setting, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds of an arm in a setting: all where a goal is set, for which the aligner has twelve."""
    return seeds if setting in MAIN and name in ROUNDS else seeds[:FEW]
