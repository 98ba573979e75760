"""Bodies and options that are not voxels -> typed values."""

import json
from collections import Counter
from typing import Any

from aiohttp import web

from ndcass.errors import BadBody, InvalidOption
from ndcass.server.streaming import whole_body

# A resource is a few short texts and numbers.
MAX_JSON_BYTES = 1 << 20
# Far more than any field takes; reading many more would take time.
MAX_DIGITS = 100
# Options of ours in a query; what else stands there is ignored (data plane 2.1).
OPTIONS = ("write", "encoding")


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object of plain values.

    Raises
    ------
    TooLarge
        If it is larger than `MAX_JSON_BYTES`.
    BadBody
        If it is no JSON object, or holds lists or objects: no resource has such fields.
    """
    found = await json_body(request)
    for key, value in found.items():
        _check_plain(key)
        _check_plain(value)
    return found


async def json_body(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object of whatever values; the Content-Type is ignored, as clients vary.

    Raises
    ------
    TooLarge
        If it is larger than `MAX_JSON_BYTES`.
    BadBody
        If it is no JSON object.
    """
    body = await whole_body(request, "JSON body", limit_bytes=MAX_JSON_BYTES)
    found = _json(bytes(body))
    if not isinstance(found, dict):
        raise BadBody("the body must be one JSON object")
    return found


def check_options(request: web.Request) -> None:
    """Refuse an option of ours that is there twice: which one counts would be anybody's guess.

    Raises
    ------
    InvalidOption
        If there is such an option.
    """
    if not request.query_string:
        return
    for option in OPTIONS:
        if len(request.query.getall(option, ())) > 1:
            raise InvalidOption(f"the option {option} is there more than once")


def _json(body: bytes) -> Any:
    """What a JSON text holds, hence `Any`; BadBody in our own words, not in Python's."""
    try:
        return json.loads(
            body, parse_constant=_no_constant, parse_int=_integer, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise BadBody(f"the body is no JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise BadBody("the body is no JSON: its text is not UTF-8") from error
    except RecursionError as error:
        raise BadBody("the body is nested too deep; it must be one JSON object") from error


def _no_constant(name: str) -> None:
    raise BadBody(f"the body is no JSON: {name} is no number")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadBody(f"a number has {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys; `Any` is whatever JSON holds."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise BadBody(f"the key {twice[:80]!r} is there more than once")
    return found


def _check_plain(value: Any) -> None:
    """Refuse what no field holds; `Any` is whatever JSON holds."""
    if isinstance(value, dict | list):
        raise BadBody("values must be texts, numbers, true or false")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadBody("texts must be Unicode without lone surrogates")
