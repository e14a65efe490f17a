"""YAML files of settings, read as plain values and without trust: small, flat, no aliases, no tags."""

import re
from typing import Any

import yaml

from mmnas.errors import ConfigError
from mmnas.files import PathLike

DEEPEST, LARGEST = 20, 1 << 16  # levels and characters


class _Loader(yaml.SafeLoader):
    """Reads 1e-9 as a number; YAML 1.1 takes it for text."""


_EXPONENT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def read_yaml(path: PathLike) -> Any:
    """Return the value in the file that `--CFG` names. Raises `ConfigError` naming the file."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_yaml(file.read(LARGEST + 1))
    except OSError as exception:
        raise ConfigError(f"--CFG {path} cannot be read: {exception.strerror}") from None
    except UnicodeDecodeError as exception:
        raise ConfigError(f"--CFG {path} is not valid YAML: it is not UTF-8 text: {exception.reason}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as exception:  # also dates and numbers out of range
        raise ConfigError(f"--CFG {path} is not valid YAML: {' '.join(str(exception).split())}") from None


def parse_yaml(text: str) -> Any:
    """Return the value in `text`. Raises `ValueError` or `yaml.YAMLError`."""
    if len(text) > LARGEST:
        raise ConfigError(f"a configuration has at most {LARGEST} characters")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError("a configuration is not nested so deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
            raise ConfigError("a configuration has no aliases or tags")
    return _Loader(text).get_single_data()
