"""What the stores in memory do with their dicts."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ndcass.errors import InvalidRequest, NotFound

T = TypeVar("T")
K = TypeVar("K")


def known(things: Mapping[K, T], key: K, kind: str) -> T:
    """The thing of that key; NotFound."""
    if key not in things:
        raise NotFound(f"there is no {kind} {key}")
    return things[key]


def by_name(things: Mapping[str, T]) -> list[T]:
    """All of them, in the order of their names."""
    return [things[name] for name in sorted(things)]


def forget(things: dict[K, T], is_doomed: Callable[[K], bool]) -> int:
    """Delete some entries; how many."""
    doomed = [key for key in things if is_doomed(key)]
    for key in doomed:
        del things[key]
    return len(doomed)


def json_copy(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A deep copy as another engine would return it, after JSON; `Any` is what that can hold."""
    try:
        copied: Mapping[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"not JSON-able: {error}") from error
    return copied
