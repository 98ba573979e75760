"""Whether an object's fields meet a predicate: the one meaning that all engines give it."""

from collections.abc import Mapping
from typing import Any

from ndcass.store.base import Comparison, Predicate


def meets(fields: Mapping[str, Any], predicate: Predicate) -> bool:
    """Whether a field is there, of the value's kind (text or number), and compares as asked.

    A list is equal to each of its elements, and neither less nor greater than anything. `Any` is
    what JSON can hold.
    """
    value = fields.get(predicate.field)
    if isinstance(value, list) and predicate.comparison is Comparison.EQUAL:
        return any(_equals(item, predicate.value) for item in value)
    if isinstance(value, str) != isinstance(predicate.value, str):
        return False
    if not isinstance(value, str | int | float):
        return False
    match predicate.comparison:
        case Comparison.EQUAL:
            return bool(value == predicate.value)
        case Comparison.LESS:
            return bool(value < predicate.value)
        case Comparison.GREATER:
            return bool(value > predicate.value)


def _equals(item: object, value: object) -> bool:
    """Whether an element is of the value's kind, and equal to it."""
    return (
        isinstance(item, str | int | float)
        and isinstance(item, str) == isinstance(value, str)
        and item == value
    )
