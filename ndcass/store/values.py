"""What engines keep without looking into it: fields and details as JSON, and side records."""

import json
from collections.abc import Mapping
from typing import Any

from ndcass.errors import InvalidRequest, TooLarge
from ndcass.store.base import MAX_RECORD_BYTES, MAX_RECORD_NAME


def json_text(value: Mapping[str, Any]) -> str:
    """`value` as JSON, which is plain ASCII; `Any` is what JSON can hold.

    Raises
    ------
    InvalidRequest
        If JSON cannot hold it.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"not JSON-able: {error}") from error


def check_record(kind: str, key: str, value: bytes = b"") -> None:
    """Make sure that a side record is one that every engine can keep.

    Raises
    ------
    InvalidRequest
        If its kind or its key is no name.
    TooLarge
        If its value is.
    """
    for name in (kind, key):
        if not 0 < len(name) <= MAX_RECORD_NAME or not name.isprintable():
            raise InvalidRequest(
                f"{name[:MAX_RECORD_NAME]!r} is no name of a record: 1 to {MAX_RECORD_NAME}"
                " printable characters"
            )
    if len(value) > MAX_RECORD_BYTES:
        raise TooLarge("record", asked=len(value), limit=MAX_RECORD_BYTES)
