"""How engines keep what has no columns of its own: fields and details, as JSON."""

import json
from collections.abc import Mapping
from typing import Any

from ndcass.errors import InvalidRequest


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
