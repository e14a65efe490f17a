"""YAML files of settings, read as plain values and without trust: small, flat, no aliases or tags."""

import re
from typing import Any

import yaml

from mmnas.errors import ConfigError
from mmnas.files import PathLike, read_utf8
from mmnas.schema import shown

DEEPEST, LARGEST = 20, 1 << 16  # levels and characters


class _Loader(yaml.SafeLoader):
    """Reads 1e-9 as a number, as YAML 1.2 does, and refuses a key that a mapping holds twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for name in (str(key.value) for key, _ in node.value):
            if name in names:
                raise ConfigError(f"the key {shown(name)} occurs twice")
            names.add(name)
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+\Z")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def read_yaml(path: PathLike) -> Any:
    """Return the value in the file that `--CFG` names. Raises `ConfigError` naming the file."""
    content = read_utf8(path, "--CFG file", ConfigError, 4 * LARGEST)
    try:
        return parse_yaml(content.decode())
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
