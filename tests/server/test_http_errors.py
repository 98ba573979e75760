from http import HTTPStatus
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from ndcass import errors
from ndcass.errors import NdcassError
from ndcass.server.http_errors import (
    DATA_STATUS,
    STATUS,
    Plane,
    error_response,
    status_of,
    wants_json,
)


def every_error() -> list[type[NdcassError]]:
    found = [NdcassError]
    for error in found:
        found += [cls for cls in error.__subclasses__() if cls.__module__ == errors.__name__]
    return found[1:]


@pytest.mark.parametrize("cls", every_error())
def test_every_error_has_a_status_of_its_own_or_of_its_parent(cls: type[NdcassError]) -> None:
    if issubclass(cls, errors.ConfigError | errors.ClusterError):  # never reach a request
        return
    assert any(parent in STATUS for parent in cls.__mro__)


@pytest.mark.parametrize(
    ("error", "data", "resource"),
    [
        (errors.InvalidRequest("x"), 404, 400),
        (errors.OutOfBounds("x"), 404, 400),
        (errors.BadBody("x"), 404, 400),
        (errors.InvalidOption("x"), 400, 400),
        (errors.TooLarge("x", asked=2, limit=1), 413, 413),
        (errors.NotFound("x"), 404, 404),
        (errors.AlreadyExists("x"), 404, 409),
        (errors.ReadOnly("x"), 404, 409),
        (errors.Unauthenticated("x"), 401, 401),
        (errors.PermissionDenied("x"), 403, 403),
        (errors.DeadlineExceeded("x"), 504, 504),
        (errors.StoreUnavailable("x"), 503, 503),
        (errors.StoreTimeout("x"), 504, 504),
        (errors.StoreFull("x"), 507, 507),
        (errors.CorruptValue("x"), 500, 500),
        (errors.StoreError("x"), 500, 500),
        (NdcassError("x"), 500, 500),
    ],
)
def test_statuses_are_those_of_the_contract(error: NdcassError, data: int, resource: int) -> None:
    assert status_of(error, Plane.DATA) == data
    assert status_of(error, Plane.RESOURCE) == resource


def test_data_plane_differs_only_where_old_clients_test_for_404() -> None:
    changed = {cls for cls in STATUS if STATUS[cls] != DATA_STATUS[cls]}
    assert changed == {errors.InvalidRequest, errors.AlreadyExists, errors.Conflict}


def answer(error: NdcassError, *, plane: Plane = Plane.DATA, accept: str = "*/*") -> Any:
    request = make_mocked_request("GET", "/", headers={"Accept": accept})
    return error_response(request, error, plane=plane, request_id="id1")


def test_data_plane_speaks_escaped_html() -> None:
    response = answer(errors.InvalidRequest("<script>"))
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.text == "&lt;script&gt; (request id1)"


def test_resource_plane_speaks_plain_text() -> None:
    response = answer(errors.InvalidRequest("a < b"), plane=Plane.RESOURCE)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.text == "a < b (request id1)"


def test_permission_errors_speak_json() -> None:
    response = answer(errors.PermissionDenied("no"))
    assert response.content_type == "application/json"
    assert response.text == '{"detail": "no", "request_id": "id1"}'


def test_missing_key_is_told_the_scheme() -> None:
    assert answer(errors.Unauthenticated("no")).headers["WWW-Authenticate"] == "Token"


def test_absent_store_says_when_to_come_back() -> None:
    assert int(answer(errors.StoreUnavailable("away")).headers["Retry-After"]) > 0


def test_who_asks_for_json_gets_a_problem_document() -> None:
    response = answer(errors.TooLarge("box", asked=9, limit=3), accept="application/json")
    assert response.content_type == "application/problem+json"
    assert response.text == (
        f'{{"type": "about:blank", "title": "{HTTPStatus(413).phrase}", "status": 413, '
        '"detail": "box: 9 bytes asked for, at most 3 bytes are allowed", "request_id": "id1"}'
    )


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", False),
        ("", False),
        ("application/*", False),
        ("text/html", False),
        ("application/json", True),
        ("Application/JSON; q=0.5", True),
        ("text/html, application/problem+json", True),
        ("application/json;q=0", False),
        ("application/json;q=0.000", False),
        ("application/jsonp", False),
    ],
)
def test_json_is_wanted_only_when_it_is_named(accept: str, wanted: bool) -> None:
    assert wants_json(make_mocked_request("GET", "/", headers={"Accept": accept})) is wanted
