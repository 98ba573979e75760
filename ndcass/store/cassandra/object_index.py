"""What the index of Cassandra holds of an object: every text and number, as it can be searched for.

Too much where values were cut, rounded or changed, never too little: who searches compares. How the
rows are written and searched: ``objects.py``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ndcass.store.base import Comparison, Predicate

# What the index takes of a text; the rest is compared by the reader.
INDEXED_CHARACTERS = 200
# The field whose numbers a column of its own has, so that the index finds ranges of them.
COMPARED_FIELD = "ann_confidence"


def index_values(fields: Mapping[str, Any]) -> tuple[set[str], dict[str, float]]:
    """What an object is found by, also by the elements of its lists; and its numbers by field."""
    items: set[str] = set()
    numeric: dict[str, float] = {}
    for name, value in fields.items():
        if not is_indexed(name):
            continue
        values = value if isinstance(value, list) else [value]
        items |= {index_item(name, one) for one in values if isinstance(one, str | int | float)}
        if isinstance(value, int | float):
            numeric[as_text(name)] = as_number(value)
    return items, numeric


def index_item(name: str, value: str | float) -> str:
    """A value of a field as the index has it."""
    text = f"t{value}" if isinstance(value, str) else f"n{as_number(value)!r}"
    return as_text(f"{name}\0{text}")


def is_indexed(name: str) -> bool:
    """Whether fields of a name are in the index: it is not cut as values are."""
    return len(name) <= INDEXED_CHARACTERS


def as_text(text: str) -> str:
    """A text as the index has it, which cuts and escapes it."""
    # JSON can say half of a surrogate pair, the index cannot.
    return text[:INDEXED_CHARACTERS].encode(errors="backslashreplace").decode()


def as_number(value: float) -> float:
    """A number as the index has it: of 64 bits, with one zero."""
    try:
        return float(value) + 0.0
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def bounds_of(predicates: Sequence[Predicate]) -> dict[str, float]:
    """What comparisons of one field leave of its numbers; bounds are included, see the schema."""
    bounds: dict[str, float] = {}
    for predicate in predicates:
        number = as_number(predicate.value)
        if predicate.comparison is Comparison.LESS:
            bounds["<="] = min(number, bounds.get("<=", math.inf))
        elif predicate.comparison is Comparison.GREATER:
            bounds[">="] = max(number, bounds.get(">=", -math.inf))
    return bounds
