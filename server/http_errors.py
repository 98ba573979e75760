"""Errors -> statuses and bodies: the one table.

Two planes speak differently, because clients of the original test for it: on ``sd`` nearly
everything that a request can do wrong is a 404 with its text as HTML; on ``resource`` it is a 400.
What only ndcass offers follows HTTP.
"""

import enum
import html
import json
from collections.abc import Mapping
from http import HTTPStatus

from aiohttp import web

from ndcass import errors
from ndcass.errors import NdcassError

RETRY_AFTER_S = 5


class Plane(enum.Enum):
    """Whose habits an answer follows."""

    DATA = "sd"
    RESOURCE = "resource"
    OWN = "ndcass"


STATUS: dict[type[NdcassError], int] = {
    errors.InvalidRequest: 400,
    errors.InvalidOption: 400,
    errors.Malformed: 400,
    errors.TooLarge: 413,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Conflict: 409,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.DeadlineExceeded: 504,
    errors.StoreError: 500,
    errors.StoreUnavailable: 503,
    errors.StoreTimeout: 504,
    errors.StoreFull: 507,
    errors.CorruptValue: 500,
    errors.IncompatibleStore: 503,
}
# Clients of the original test for 404 (data plane 2.5); InvalidOption is none of theirs, and what
# is Malformed was a 500 (annotation plane 0.3).
DATA_STATUS: dict[type[NdcassError], int] = {
    **STATUS,
    errors.InvalidRequest: 404,
    errors.AlreadyExists: 404,
    errors.Conflict: 404,
}
# The permission layer of the original spoke JSON (control plane 0.2).
_JSON_STATUSES = frozenset({401, 403, 405})
_JSON_TYPES = frozenset({"application/json", "application/problem+json"})


def status_of(error: NdcassError, plane: Plane = Plane.OWN) -> int:
    """Status of the nearest listed class of `error`; 500 if none is listed."""
    table = DATA_STATUS if plane is Plane.DATA else STATUS
    return next((table[cls] for cls in type(error).__mro__ if cls in table), 500)


def error_response(
    request: web.Request, error: NdcassError, *, plane: Plane, request_id: str
) -> web.Response:
    """The answer to a request that failed with `error`."""
    status = status_of(error, plane)
    headers = {}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Token"
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    return plain_error(
        request, status, str(error), plane=plane, request_id=request_id, headers=headers
    )


def plain_error(
    request: web.Request,
    status: int,
    text: str,
    *,
    plane: Plane,
    request_id: str,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """An error answer: problem+json for who asks for JSON, else what the plane's clients know."""
    title = HTTPStatus(status).phrase
    text = text or title
    if wants_json(request):
        problem = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": text,
            "request_id": request_id,
        }
        return _json(problem, status, "application/problem+json", headers)
    if status in _JSON_STATUSES:
        body = {"detail": text, "request_id": request_id}
        return _json(body, status, "application/json", headers)
    text = f"{text} (request {request_id})"
    if plane is Plane.DATA:
        return web.Response(
            status=status,
            text=html.escape(text),
            content_type="text/html",
            charset="utf-8",
            headers=headers,
        )
    return web.Response(status=status, text=text, headers=headers)


def wants_json(request: web.Request) -> bool:
    """Whether the client names JSON; the ``*/*`` that every client sends does not count."""
    accept = request.headers.get("Accept", "").lower()
    if "json" not in accept:
        return False
    for part in accept.split(","):
        kind, *options = (word.strip() for word in part.split(";"))
        if kind in _JSON_TYPES and not any(_is_refusal(option) for option in options):
            return True
    return False


def _is_refusal(option: str) -> bool:
    name, _, value = option.partition("=")
    return name.strip() == "q" and value.strip().rstrip("0") in ("", "0", "0.", ".")


def _json(
    body: Mapping[str, object], status: int, content_type: str, headers: dict[str, str] | None
) -> web.Response:
    return web.Response(
        status=status, text=json.dumps(body), content_type=content_type, headers=headers
    )
