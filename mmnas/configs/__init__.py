"""The shipped YAML files, one per task, and how a run's configuration is read from them."""

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmnas.config import Config
from mmnas.errors import ConfigError
from mmnas.typed import reject_unknown

DEEPEST = 20
LARGEST = 1 << 16
PARTS = ("model", "data", "training", "paths", "search")


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
        with open(path, encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except OSError as exception:
        raise ConfigError(f"--CFG {path} cannot be read: {exception.strerror}") from None
    except UnicodeDecodeError as exception:
        raise ConfigError(f"--CFG {path} is not valid YAML: it is not UTF-8 text: {exception.reason}") from None
    try:
        _check_plain(text, path)
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError) as exception:  # what is no date or number after all
        if isinstance(exception, ConfigError):
            raise
        raise ConfigError(f"--CFG {path} is not valid YAML: {' '.join(str(exception).split())}") from None


def _check_plain(text: str, path: Path) -> None:
    """Raise `ConfigError` for what no configuration needs and small files become endless by."""
    if len(text) > LARGEST:
        raise ConfigError(f"--CFG {path} has more than {LARGEST} characters: is it a configuration?")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"--CFG {path} is not valid YAML of a configuration: it is nested too deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise ConfigError(f"--CFG {path} is not valid YAML of a configuration: it has an alias or a tag")


def _merge(section: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Return `section` with the keys of `other`'s parts laid over it."""
    if not isinstance(other, Mapping) or not all(isinstance(part, Mapping) for part in other.values()):
        raise ConfigError("a configuration must look like a section of the shipped YAML: {training: {seed: 1}}")
    reject_unknown(other, PARTS, "section", "")
    return {part: {**section.get(part, {}), **other.get(part, {})} for part in PARTS if part in {*section, *other}}
