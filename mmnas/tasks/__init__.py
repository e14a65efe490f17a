"""The tasks by name. A new task is a module here and a line below."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from mmnas.errors import ConfigError
from mmnas.schema import nearest

if TYPE_CHECKING:
    from mmnas.tasks.base import Task

TASKS = {"vqa": "mmnas.tasks.vqa:VQATask", "vgd": "mmnas.tasks.vgd:VGDTask", "itm": "mmnas.tasks.itm:ITMTask"}


def task_named(name: str) -> type[Task]:
    """Return the class of the task called `name`."""
    if name not in TASKS:
        raise ConfigError(f"unknown task '{name}'; {nearest(name, TASKS)}")
    module, attribute = TASKS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
