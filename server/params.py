"""Bodies and options that are not voxels -> typed values."""

import contextlib
import json
from typing import Any

from aiohttp import web

from ndcass.errors import BadBody, TooLarge
from ndcass.server.streaming import chunks

# A resource is a few short texts and numbers.
MAX_JSON_BYTES = 1 << 20


async def json_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object of plain values; the Content-Type is ignored, as clients vary.

    Raises
    ------
    TooLarge
        If it is larger than `MAX_JSON_BYTES`.
    BadBody
        If it is no JSON object, or holds lists or objects: no resource has such fields.
    """
    length = request.content_length
    if length is not None and length > MAX_JSON_BYTES:
        raise TooLarge("JSON body", asked=length, limit=MAX_JSON_BYTES)
    body = bytearray()
    async with contextlib.aclosing(chunks(request)) as arriving:
        async for chunk in arriving:
            body += chunk
            if len(body) > MAX_JSON_BYTES:
                raise TooLarge("JSON body", asked=len(body), limit=MAX_JSON_BYTES)
    try:
        found = json.loads(bytes(body), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise BadBody("the body must be one JSON object")
    for key, value in found.items():
        _check_plain(key)
        _check_plain(value)
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


def _check_plain(value: Any) -> None:
    """Refuse what no field holds; `Any` is whatever JSON holds."""
    if isinstance(value, dict | list):
        raise BadBody("values must be texts, numbers, true or false")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadBody("texts must be Unicode without lone surrogates")
