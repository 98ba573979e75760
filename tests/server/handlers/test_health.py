"""What operators ask."""

import json
import re
from typing import Any

import pytest

from ndcass.errors import StoreUnavailable
from ndcass.server.routes import ROUTES
from ndcass.store.base import Health
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running


async def test_process_that_lives_is_healthy(app: Running) -> None:
    answer = await app.get("/healthz")
    assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_store_that_answers_is_ready(app: Running) -> None:
    answer = await app.get("/readyz")
    assert answer.status == 200
    assert json.loads(await answer.text())["ready"] is True


@pytest.mark.parametrize("raises", [True, False])
async def test_store_that_does_not_answer_is_not_ready_and_says_why(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    stores = MemoryStores()

    async def health() -> Health:
        if raises:
            raise StoreUnavailable("the store is away")
        return Health(ready=False, reason="the store is away")

    monkeypatch.setattr(stores, "health", health)
    async with running(stores) as app:
        answer = await app.get("/readyz")
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert json.loads(await answer.text())["reason"] == "the store is away"
        assert await app.status("/healthz") == 200


LINE = re.compile(r'[a-z_]+(?:\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*\})? (?:[0-9.e+-]+|NaN)')


async def test_metrics_are_prometheus_text(app: Running) -> None:
    await app.make_volume("v")
    await app.post_ones("v")
    await app.get("/nd/sd/v/img/npz/0/0,4/0,3/0,2/")
    await app.get("/nd/sd/none/info/")
    answer = await app.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = await answer.text()
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or LINE.fullmatch(line), line
    for name in (
        "ndcass_received_bytes_total",
        "ndcass_sent_bytes_total",
        "ndcass_store_seconds_total",
        "ndcass_codec_seconds_total",
        "ndcass_network_seconds_total",
        'ndcass_in_flight_bytes{worker="0"}',
        'ndcass_event_loop_lag_seconds{worker="0"}',
        'ndcass_in_flight_requests{worker="0"} 1',
        'format="npz"',
        'status="401"',
        'ndcass_request_seconds_bucket{route="/sd/{token}/info{junk}",le="+Inf"} 1',
    ):
        assert name in text, name


async def test_metrics_count_jobs_by_kind_and_state(app: Running) -> None:
    await app.make_volume("v")
    path = "/nd/resource/dataset/v/project/v/channel/img/"
    assert await app.status(path, user="admin", method="DELETE") == 204
    assert re.search(
        r'ndcass_jobs\{kind="delete",state="(PENDING|STARTED|SUCCESS)"\} 1',
        await (await app.get("/metrics")).text(),
    )


async def description(app: Running) -> Any:
    return json.loads(await (await app.get("/openapi.json")).text())


async def test_description_lists_every_route(app: Running) -> None:
    document = await description(app)
    assert document["openapi"].startswith("3.1")
    described = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    served = {
        (route.method, path)
        for route in ROUTES
        if not route.refuses
        for path, _ in route.expanded()
    }
    assert described == served
    assert ("POST", "/sd/{token}/{channels}/npz/{box}") in described
    assert ("GET", "/sd/{token}/xy/{plane}") in described


async def test_description_explains_every_part_of_a_path(app: Running) -> None:
    document = await description(app)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"\{([^}]*)\}", path))
            assert operation["summary"].endswith(".")
            assert operation["responses"]


async def test_description_names_options_where_they_work(app: Running) -> None:
    paths = (await description(app))["paths"]

    def options(path: str, method: str) -> set[str]:
        parameters = paths[path][method].get("parameters", ())
        return {p["name"] for p in parameters if p["in"] != "path"}

    assert options("/sd/{token}/raw/{box}", "get") == {"encoding"}
    assert options("/sd/{token}/raw/{box}", "post") == {"write", "X-Volume-Dtype"}
    assert options("/sd/{token}/npz/{box}", "get") == set()
