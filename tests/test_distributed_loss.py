"""On several processes, and over micro-batches, the loss and its gradients are those of the whole batch in one process.

Each number of processes is started once, and takes all cases one after the other.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
from helpers import some_labels
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

import inverseform_fast as iff
from inverseform_fast.losses import LossTerms
from inverseform_fast.nets import Align

IMAGES, CLASSES, TILE = 6, 3, 32
SPLITS = {2: [1, 5], 3: [2, 1, 3]}  # how many images each process has
TERMS = LossTerms._fields


def random_labels() -> Tensor:
    return some_labels((IMAGES, 64, 96), CLASSES, share=0.01)


def constant(images: int, value: int) -> Callable[[], Tensor]:
    """Labels that are ``value`` in all of the first images."""

    def labels() -> Tensor:
        found = random_labels()
        found[:images] = value
        return found

    return labels


@dataclass(frozen=True)
class Case:
    """A loss, and the labels that the processes share."""

    labels: Callable[[], Tensor] = random_labels
    options: dict[str, Any] = field(default_factory=dict)
    has_head: bool = False
    dtype: torch.dtype = torch.float32
    autocast: bool = False
    compiled: bool = False

    def criterion(self, group: dist.ProcessGroup | None) -> Any:
        torch.manual_seed(0)
        term = iff.InverseFormLoss(Align(TILE), resize=(2 * TILE, 3 * TILE))
        criterion = iff.BoundaryAwareLoss(**{"gamma": 0.3, **self.options}, inverseform=term, process_group=group)
        return torch.compile(criterion, fullgraph=True, backend="aot_eager") if self.compiled else criterion


WEIGHTS = {"class_weights": torch.tensor([0.2, 5.0, 1.0])}
CASES = {
    "headless": Case(options={"beta": 2}),
    "head": Case(has_head=True),
    "no InverseForm": Case(options={"gamma": 0}),
    "cross-entropy": Case(options={"beta": 0, "gamma": 0, "edge": 0, "dice": 0, "f1": 0}),
    "the paper's": Case(options={"edge": 0, "dice": 0, "f1": 0}, has_head=True),
    "boundary F1 without Dice": Case(options={"dice": 0}),
    "Dice without boundary F1": Case(options={"f1": 0}),
    "class weights": Case(options=WEIGHTS),
    "class weights, head": Case(options=WEIGHTS, has_head=True),
    "weightless": Case(options={"class_weights": torch.zeros(CLASSES)}),
    "float64": Case(dtype=torch.float64),
    "autocast": Case(autocast=True),
    "one class on the first": Case(constant(1, 2)),
    "one class on the first, head": Case(constant(1, 2), has_head=True),
    "void on the first": Case(constant(2, 255), has_head=True),
    "void on all but the last": Case(constant(IMAGES - 1, 255)),
    "no boundary": Case(constant(IMAGES, 1)),
    "void": Case(constant(IMAGES, 255), has_head=True),
    "compiled": Case(compiled=True, options={**WEIGHTS, "beta": 2}),
}


ACCUMULATED, MICRO_BATCHES = Case(has_head=True), 2


class Model(nn.Module):
    """Predicts class logits, and boundary logits if it has a head, of a quarter of the labels' resolution."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.has_head = case.has_head
        self.layer = nn.Conv2d(4, CLASSES + 1, 3, padding=1, dtype=case.dtype)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        maps = 3 * self.layer(images)
        return maps[:, :CLASSES], maps[:, CLASSES:] if self.has_head else None


def images(case: Case) -> Tensor:
    return torch.randn(IMAGES, 4, 16, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        case.dtype
    )


def terms_and_gradients(model: nn.Module, step: Callable[[], LossTerms]) -> dict[str, Tensor]:
    """Terms of a step, and the gradients that it leaves in the model."""
    model.zero_grad()
    terms = step()._asdict()
    return {name: term.detach() for name, term in terms.items()} | {
        name.removeprefix("module."): parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def one_step(model: nn.Module, criterion: nn.Module, case: Case, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    def step() -> LossTerms:
        logits, boundary = model(x)
        with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
            terms = criterion(logits, labels, boundary)
        terms.total.backward()
        return terms

    return terms_and_gradients(model, step)


def in_one_process(case: Case) -> dict[str, Tensor]:
    return one_step(Model(case), case.criterion(None), case, images(case), case.labels())


def accumulated(
    model: nn.Module, criterion: iff.BoundaryAwareLoss, micro_batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The mean of the micro-batches' terms, and the gradients that they leave together."""

    def step() -> LossTerms:
        counts = criterion.count([labels for _, labels in micro_batches])
        every = []
        for x, labels in micro_batches:
            logits, boundary = model(x)
            every.append(criterion(logits, labels, boundary, counts=counts))
            (every[-1].total / len(micro_batches)).backward()
        return LossTerms(*(torch.stack(term).mean(0) for term in zip(*every, strict=True)))

    return terms_and_gradients(model, step)


def micro_batches_of(case: Case, processes: int) -> list[list[tuple[Tensor, Tensor]]]:
    """The micro-batches of each process, of which some are empty."""
    parts = zip(images(case).split(SPLITS[processes]), case.labels().split(SPLITS[processes]), strict=True)
    return [
        list(zip(x.tensor_split(MICRO_BATCHES), labels.tensor_split(MICRO_BATCHES), strict=True)) for x, labels in parts
    ]


def but_for_overlaps(case: Case, micro_batches: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The terms of the whole batch in one process, but for Dice and F1, which are the mean of the micro-batches'."""
    model, criterion = Model(case), case.criterion(None)
    overlaps: dict[str, tuple[float, Callable[..., Tensor]]] = {"dice": (criterion.dice, iff.functional.dice_loss)}
    if criterion.f1:
        overlaps["f1"] = criterion.f1, iff.functional.boundary_f1_loss
    criterion.dice = criterion.f1 = 0.0

    def step() -> LossTerms:
        logits, boundary = model(images(case))
        terms = criterion(logits, case.labels(), boundary)
        for name, (weight, loss) in overlaps.items():
            mean = torch.stack([loss(model(x)[0], labels) for x, labels in micro_batches]).mean()
            terms = terms._replace(**{name: mean}, total=terms.total + weight * mean)
        terms.total.backward()
        return terms

    return terms_and_gradients(model, step)


def averaged(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace this process's terms by their mean over the processes, as a logger does."""
    for name in TERMS:
        dist.all_reduce(found[name])
        found[name] /= dist.get_world_size()
    return found


def communications(step: Callable[[], object]) -> list[str]:
    """Names of what gloo has done in a step, as the profiler saw it."""
    with profile() as profiled:
        step()
    return [event.name for event in profiled.events() or [] if event.name.startswith("gloo:")]


def message(make: Callable[[], object]) -> str:
    with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
        make()
    return f"{raised.type.__name__}: {raised.value}"


def process(rank: int, processes: int, folder: Path) -> None:
    """What every process does: the cases, one after the other. The first one writes what was found."""
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", timedelta(minutes=2)  # so that nobody waits for a process that failed
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes, timeout=patience)
    world = dist.group.WORLD
    found: dict[str, Any] = {"processes": processes}

    def part(case: Case) -> tuple[Tensor, Tensor]:
        return images(case).split(SPLITS[processes])[rank], case.labels().split(SPLITS[processes])[rank]

    for name, case in CASES.items():
        if case.compiled and processes > 2:
            continue  # it takes long
        model = DistributedDataParallel(Model(case))
        found[name] = averaged(one_step(model, case.criterion(world), case, *part(case)))

    case = ACCUMULATED
    x, labels = part(case)
    model = DistributedDataParallel(Model(case))
    found["accumulated"] = averaged(accumulated(model, case.criterion(world), micro_batches_of(case, processes)[rank]))

    criterion = CASES["headless"].criterion(world)
    logits = torch.randn(len(x), CLASSES, 16, 24)
    copies = [copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))]
    found["copies"] = [each(logits, labels).total for each in (criterion, *copies)]
    found["repr"] = repr(criterion)
    counts = criterion.count([labels])
    alone = CASES["headless"].criterion(None)
    found["communications"] = {
        "with": communications(lambda: criterion(logits, labels)),
        "count": communications(lambda: criterion.count([labels, labels])),
        "with counts": communications(lambda: criterion(logits, labels, counts=counts)),
        "without": communications(lambda: alone(logits, labels)),
    }
    not_groups: tuple[Any, ...] = (dist.new_group([1]), "gloo")
    if rank:
        return
    found["errors"] = [message(partial(iff.BoundaryAwareLoss, process_group=group)) for group in not_groups]
    dist.destroy_process_group()
    found["errors"].append(message(lambda: criterion(logits, labels)))
    torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module", params=SPLITS, ids=lambda processes: f"{processes} processes")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(process, (request.param, folder), request.param)
    return torch.load(folder / "found.pt", weights_only=False)


@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients_are_those_of_one_process(found: dict[str, Any], name: str) -> None:
    if name not in found:
        pytest.skip("two processes are enough")
    expected = in_one_process(replace(CASES[name], compiled=False))
    assert found[name].keys() == expected.keys()
    torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_micro_batches_on_several_processes_are_the_whole_batch(found: dict[str, Any]) -> None:
    every = zip(*micro_batches_of(ACCUMULATED, found["processes"]), strict=True)  # each one's on all processes
    expected = but_for_overlaps(
        ACCUMULATED, [(torch.cat([x for x, _ in each]), torch.cat([labels for _, labels in each])) for each in every]
    )
    torch.testing.assert_close(found["accumulated"], expected, rtol=1e-5, atol=5e-6)  # F1's gradients are long


def test_a_call_is_one_all_reduce_and_none_without_a_group(found: dict[str, Any]) -> None:
    one = ["gloo:all_reduce"]
    assert found["communications"] == {"with": one, "count": one, "with counts": one, "without": []}


def test_a_copy_and_a_pickle_know_the_group(found: dict[str, Any]) -> None:
    first, *others = found["copies"]
    assert others == [first, first]
    assert "process_group='0'" in found["repr"]


def test_a_group_that_cannot_be_used_is_an_error(found: dict[str, Any]) -> None:
    *not_a_group, destroyed = found["errors"]
    assert not_a_group == [
        "ValueError: process_group must be a group that this process is in, got one of other processes",
        "TypeError: process_group must be a torch.distributed.ProcessGroup, got 'gloo'",
    ]
    assert "process group" in destroyed


def test_a_group_without_init_process_group_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"process_group must be made by torch\.distributed\.init"):
        iff.BoundaryAwareLoss(process_group=cast(Any, "gloo"))


def test_each_process_alone_would_be_another_loss() -> None:
    """So the other tests see whether processes are added up."""
    case = replace(CASES["one class on the first"], options={"beta": 2})
    whole = in_one_process(case)
    parts = zip(images(case).split(SPLITS[2]), case.labels().split(SPLITS[2]), strict=True)
    alone = [one_step(Model(case), case.criterion(None), case, x, labels) for x, labels in parts]
    for name in whole:
        mean = torch.stack([each[name] for each in alone]).mean(0)
        assert (mean - whole[name]).abs().max() > 0.02 * whole[name].abs().max(), name


@pytest.mark.parametrize("sizes", [[1] * IMAGES, [4, 2], [IMAGES]], ids=str)
@pytest.mark.parametrize(
    "name",
    ["headless", "Dice without boundary F1", "class weights, head", "one class on the first", "no boundary", "void"],
)
def test_micro_batches_are_the_whole_batch_but_for_overlaps(name: str, sizes: list[int]) -> None:
    case = CASES[name]
    micro_batches = list(zip(images(case).split(sizes), case.labels().split(sizes), strict=True))
    found = accumulated(Model(case), case.criterion(None), micro_batches)
    torch.testing.assert_close(found, but_for_overlaps(case, micro_batches), rtol=1e-5, atol=1e-6)


def test_counts_without_inverseform_do_not_pass_for_counts_with_it() -> None:
    criterion = CASES["no InverseForm"].criterion(None)
    labels = random_labels()
    counts = criterion.count([labels])
    criterion.gamma = 0.3
    assert not criterion(torch.randn(IMAGES, CLASSES, 16, 24), labels, counts=counts).total.isfinite()


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"reduction": "none"}])
def test_only_a_mean_over_tiles_is_that_of_a_whole_batch(options: dict[str, Any]) -> None:
    criterion = iff.BoundaryAwareLoss(inverseform=iff.InverseFormLoss(**options))
    with pytest.raises(ValueError, match="inverseform must have reduction='mean' where a batch is spread"):
        criterion.count([random_labels()])


def test_class_weights_that_are_learned_are_refused() -> None:
    criterion = iff.BoundaryAwareLoss(class_weights=torch.ones(CLASSES, requires_grad=True))
    with pytest.raises(ValueError, match="class_weights must not require a gradient where a batch is spread"):
        criterion.count([random_labels()])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ([], TypeError, r"micro_batches must be a list of at least one tensor of labels, got \[\]"),
        (random_labels(), TypeError, "micro_batches must be a list of at least one tensor of labels, got Tensor"),
        ([random_labels()[0]], ValueError, r"labels must have shape \(N, H, W\), got \(64, 96\)"),
    ],
)
def test_count_says_what_it_wants(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iff.BoundaryAwareLoss().count(wrong)


def test_counts_must_be_what_count_returns() -> None:
    with pytest.raises(ValueError, match=r"counts must be float64 of shape \(6,\), got torch.float32 \(2,\)"):
        iff.BoundaryAwareLoss()(torch.randn(IMAGES, CLASSES, 16, 24), random_labels(), counts=torch.ones(2))
