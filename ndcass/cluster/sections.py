"""Settings below names, as YAML holds them, read without guessing.

Every mistake is told with the whole name of the setting, and an unknown one with the nearest known.
`Any` is what YAML can hold, throughout.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ndcass.errors import ConfigError

T = TypeVar("T")

_MOST_LISTED = 20


def read_yaml(path: Path) -> dict[str, Any]:
    """What a file holds; `Any` is whatever YAML holds."""
    try:
        # It is a safe loader, and knows no tags but YAML's own.
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold settings, as conf/cluster-local.yaml does")
    return content


def put(content: dict[str, Any], names: Sequence[str], value: Any, whole: str) -> None:
    """Set a value deep inside what YAML holds (`Any`)."""
    for name in names[:-1]:
        inner = content.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{whole}: {name} holds no settings")
        content = inner
    content[names[-1]] = value


class Section:
    """The settings below one name."""

    def __init__(self, content: Any, path: str, known: Sequence[str] | None) -> None:
        if content is None:
            content = {}
        if not isinstance(content, Mapping):
            raise ConfigError(f"{path or 'the file'} must hold settings, not {content!r}")
        self.content = {str(name): value for name, value in content.items()}
        self.path = path
        if known is not None:
            refuse_unknown(self.content, known, self.name_of(""))

    def name_of(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def section(self, name: str, known: Sequence[str] | None) -> "Section":
        return Section(self.content.get(name), self.name_of(name), known)

    def get(self, name: str, kind: type[T], default: T) -> T:
        value = self.content.get(name)
        return default if value is None else typed(value, kind, self.name_of(name))

    def required(self, name: str, kind: type[T]) -> T:
        if self.content.get(name) is None:
            raise ConfigError(f"{self.name_of(name)} is missing")
        return typed(self.content[name], kind, self.name_of(name))

    def given(self, kind: type[T], *names: str) -> dict[str, Any]:
        """Those settings that are there, of all or of these; `Any` so that it can be unpacked."""
        chosen = [name for name in self.content if name in (names or self.content)]
        return {name: self.required(name, kind) for name in chosen}


def refuse_unknown(given: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
    """Name the nearest known setting to one that does not exist; `Any` is what YAML holds.

    Raises
    ------
    ConfigError
        If a name is not known.
    """
    for name in given:
        if name in known:
            continue
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {prefix}{nearest[0]}?" if nearest else "."
        names = ", ".join(prefix + one for one in sorted(known))
        listed = f" Known are {names}" if len(known) <= _MOST_LISTED else ""
        raise ConfigError(f"unknown setting {prefix}{name}{hint}{listed}")


def typed(value: Any, kind: type[T], name: str) -> T:
    """A value of YAML (`Any`) as a type, without guessing.

    Raises
    ------
    ConfigError
        If it is of another type.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words: dict[type[object], str] = {
            bool: "true or false",
            int: "a whole number",
            float: "a number",
            str: "a text",
            list: "a list",
            dict: "settings",
        }
        raise ConfigError(f"{name} must be {words[kind]}, not {value!r}")
    return value


def merged(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `patch` laid over it, section by section; None takes a setting away.

    `Any` is what YAML holds.
    """
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            result[name] = merged(result[name], value)
        else:
            result[name] = value
    return result


class _StrictLoader(yaml.SafeLoader):
    """Refuses a name that stands twice in one section, where YAML would forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{name} stands twice in one section (line {line})")
            seen.add(name)
        return super().construct_mapping(node, deep=deep)
