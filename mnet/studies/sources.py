"""YAML files, read with the line of every value, so that an error can name file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from mnet.errors import ConfigError
from mnet.files import LARGEST_YAML, compose_yaml, read_limited, read_yaml

Place = tuple[str | int, ...]
"""The path to a value: keys of mappings and positions in lists."""


@dataclass(frozen=True)
class Source:
    """The content of a YAML file, with its path and line numbers."""

    path: Path
    content: object
    lines: Mapping[Place, int]
    """The line of every key and of every item of a list."""

    def error(self, at: Place, message: object) -> ConfigError:
        """An error with file and line. A place without a line (a missing key) takes that of the mapping around it."""
        while at and at not in self.lines:
            at = at[:-1]
        return ConfigError(f"{self.path}, line {self.lines.get(at, 1)}: {message}")


def read_source(path: Path) -> Source:
    """Read a YAML file.

    Raises:
        ConfigError: It cannot be read, is not YAML, has a key twice (YAML readers silently keep the last), or has a key
            that is not a string.
    """
    try:
        return _parse(path, read_limited(path, LARGEST_YAML))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{path}, line {line}: not valid YAML: {error.problem or error.context}") from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # not text, a control character, an impossible date
        raise ConfigError(f"{path} is not valid YAML: {error}") from None


@lru_cache(maxsize=64)  # all profiles are in one file, which every study reads
def _parse(path: Path, content: bytes) -> Source:
    text = content.decode()
    return Source(path, read_yaml(text), dict(_lines(path, compose_yaml(text), ())))


def _lines(path: Path, node: yaml.Node | None, at: Place) -> Iterator[tuple[Place, int]]:
    """The line of every key and item below a node."""
    if isinstance(node, yaml.SequenceNode):
        for i, item in enumerate(node.value):
            yield (*at, i), item.start_mark.line + 1
            yield from _lines(path, item, (*at, i))
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                name = key.value if isinstance(key, yaml.ScalarNode) else "[...]"
                raise ConfigError(f"{path}, line {line}: YAML does not read key {name} as a string; quote or rename it")
            if key.value in first:
                raise ConfigError(f"{path}, line {line}: duplicate key {key.value}, first in line {first[key.value]}")
            first[key.value] = line
            yield (*at, key.value), line
            yield from _lines(path, value, (*at, key.value))
