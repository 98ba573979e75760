"""Whether an object's fields meet a predicate: the one meaning that all engines give it."""

from collections.abc import Mapping
from typing import Any

from ndcass.store.base import Comparison, Predicate


def meets(fields: Mapping[str, Any], predicate: Predicate) -> bool:
    """Whether a field is there, of the value's kind (text or number), and compares as asked.

    `Any` is what JSON can hold.
    """
    value = fields.get(predicate.field)
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
