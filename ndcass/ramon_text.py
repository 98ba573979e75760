"""Values of annotation objects as texts: single ones as URLs have them, pairs as CSV."""

import csv
import io
import re
from collections.abc import Mapping, Sequence

from ndcass.errors import InvalidRequest, Malformed
from ndcass.ramon import AXES, MAX_NUMBER_CHARACTERS, SHOWN_CHARACTERS, Field, Kind, Value, checked

# A key and its value.
PAIR = 2

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?\Z")


def field_text(value: Value) -> str:
    """A value as ``getField`` answers: floats as the shortest text that reads back exactly."""
    if isinstance(value, tuple):
        return ",".join(map(field_text, value))
    return repr(value) if isinstance(value, float) else str(value)


def parse_field(field: Field, text: str) -> Value:
    """A value as ``setField`` has it.

    Raises
    ------
    Malformed
        If it is none of the field's kind.
    InvalidRequest
        If it should have three numbers and has not.
    """
    if field.kind is Kind.TEXT:
        return checked(field, text)
    if field.kind in (Kind.IDS, Kind.VOXEL, Kind.POINT):
        items = [parse_number(item, field.name) for item in text.split(",")]
        if field.kind is not Kind.IDS and len(items) != AXES:
            raise InvalidRequest(f"{field.name} has {len(items)} values; it has {AXES}")
        return checked(field, items)
    return checked(field, parse_number(text, field.name))


def parse_number(text: str, what: str) -> int | float:
    """A number; whole if it is written so. Malformed if it is none."""
    if len(text) <= MAX_NUMBER_CHARACTERS:
        if _INTEGER.match(text):
            return int(text)
        if _NUMBER.match(text):
            return float(text)
    raise Malformed(f"{what[:SHOWN_CHARACTERS]}: {text[:SHOWN_CHARACTERS]!r} is no number")


# -- pairs as CSV


def pairs_text(pairs: Mapping[str, Sequence[str]]) -> str:
    """Pairs as lines ``key,value``, each ended by CR LF."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerows((key, value) for key, values in pairs.items() for value in values)
    return lines.getvalue()


def parse_pairs(text: str) -> dict[str, tuple[str, ...]]:
    """Pairs of such lines, also with LF alone or without a last one; of two with one key the last.

    Lines of nothing but blanks are none.

    Raises
    ------
    Malformed
        If a line is no pair.
    """
    found: dict[str, tuple[str, ...]] = {}
    try:
        for line in csv.reader(io.StringIO(text, newline="")):
            if not "".join(line).strip() and len(line) < PAIR:
                continue
            key, value = line
            found[key] = (value,)
    except (csv.Error, ValueError) as error:
        raise Malformed("KVPAIRS has a line that is not key,value") from error
    return found
