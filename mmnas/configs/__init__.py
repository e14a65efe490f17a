"""The shipped YAML files, one per task, and how a run's configuration is read from them."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmnas.config import Config
from mmnas.errors import ConfigError
from mmnas.typed import reject_unknown

PARTS = ("model", "data", "training", "paths")


def load_config(
    task: str,
    size: str,
    *,
    split: str,
    version: str,
    overrides: Mapping[str, Any] | None = None,
    file: str | None = None,
) -> Config:
    """Read the shipped YAML's section `size`, then `file`, then `overrides` (`"training.seed": 1`)."""
    section = _shipped_section(task, size)
    if file is not None:
        section = _merge(section, _read_yaml(Path(file)))
    for dotted, value in (overrides or {}).items():
        part, key = dotted.split(".", 1)
        section = _merge(section, {part: {key: value}})
    return Config.from_dict({"task": task, "size": size, "split": split, "version": version, **section})


def read_overrides(file: str | None) -> dict[str, Any]:
    """Return what a `--CFG` file sets, by dotted key."""
    parts = {} if file is None else _merge({}, _read_yaml(Path(file)))
    return {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}


def _shipped_section(task: str, size: str) -> dict[str, Any]:
    file = importlib.resources.files("mmnas.configs") / f"{task}.yml"
    sections = yaml.safe_load(file.read_text(encoding="utf-8"))
    if size not in sections:
        raise ConfigError(f"no section '{size}' for {task}; valid ones: {', '.join(sections)}")
    return _merge({"data": {}, "paths": {}}, sections[size])


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exception:
        raise ConfigError(f"--CFG {path} cannot be read: {exception.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exception:
        raise ConfigError(f"--CFG {path} is not valid YAML: {' '.join(str(exception).split())}") from None


def _merge(section: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Return `section` with the keys of `other`'s parts laid over it."""
    if not isinstance(other, Mapping) or not all(isinstance(part, Mapping) for part in other.values()):
        raise ConfigError("a configuration must look like a section of the shipped YAML: {training: {seed: 1}}")
    reject_unknown(other, PARTS, "section", "")
    return {part: {**section.get(part, {}), **other.get(part, {})} for part in PARTS if part in {*section, *other}}
