"""The registry of tasks: a new task is one new file and one line here."""

from __future__ import annotations

import dataclasses
from typing import Any

from .base import RGB, Headline, Task, choose_tasks, metric_prefixes
from .counted import CountedLoss, divided
from .depth import DepthTask
from .edges import EdgeTask
from .normals import NormalsTask
from .parts import PartsTask
from .saliency import SaliencyTask
from .semantic import SemanticTask

__all__ = [
    "RGB",
    "TASKS",
    "CountedLoss",
    "DepthTask",
    "EdgeTask",
    "Headline",
    "NormalsTask",
    "PartsTask",
    "SaliencyTask",
    "SemanticTask",
    "Task",
    "choose_tasks",
    "divided",
    "metric_prefixes",
    "task_from_dict",
    "task_to_dict",
]

TASKS: dict[str, type[Task]] = {
    "semantic": SemanticTask,
    "parts": PartsTask,
    "edges": EdgeTask,
    "saliency": SaliencyTask,
    "normals": NormalsTask,
    "depth": DepthTask,
}


def task_to_dict(task: Task) -> dict[str, Any]:
    """Turns a task into plain values: ``"type"``, which is its key in ``TASKS``, and its fields.

    Raises:
        ValueError: the class of the task is not in ``TASKS``.
    """
    for key, task_type in TASKS.items():
        if task_type is type(task):
            return {"type": key, **dataclasses.asdict(task)}
    raise ValueError(f"task must be of a class in TASKS ({', '.join(TASKS)}), got {type(task).__name__}")


def task_from_dict(values: dict[str, Any]) -> Task:
    """Makes the task that :func:`task_to_dict` turned into plain values.

    Raises:
        ValueError: the type is not in ``TASKS``.
    """
    fields = dict(values)
    if (key := fields.pop("type")) not in TASKS:
        raise ValueError(f"the type of a task must be one of {', '.join(TASKS)}, got {key!r}")
    return TASKS[key](**fields)
