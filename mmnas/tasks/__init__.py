"""The tasks by name: a task is a module here, and a YAML file of the same name in `mmnas/configs`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from mmnas.errors import ConfigError
from mmnas.schema import nearest

if TYPE_CHECKING:
    from mmnas.tasks.base import Task  # with torch, which would slow down --help

_FOLDER = Path(__file__).parent
_CONFIGS = {path.stem for path in _FOLDER.parent.glob("configs/*.yml")}
TASKS = tuple(sorted(path.stem for path in _FOLDER.glob("*.py") if path.stem in _CONFIGS))
"""The names of all tasks."""


def task_named(name: str) -> type[Task]:
    """Return the class of the task called `name`."""
    if name not in TASKS:
        raise ConfigError(f"unknown task '{name}'; {nearest(name, TASKS)}")
    members = vars(importlib.import_module(f"mmnas.tasks.{name}")).values()
    return next(member for member in members if isinstance(member, type) and getattr(member, "name", None) == name)
