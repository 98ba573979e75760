"""What every request gets: id, headers, errors, limits, deadline, log line."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web
from blockbuster import blockbuster_ctx

from ndcass.config import ServerSettings, Settings
from ndcass.errors import CorruptValue, InvalidOption, StoreFull, StoreUnavailable
from ndcass.server.app_keys import METRICS
from ndcass.server.exchange import exchange_of
from ndcass.server.match import Match
from ndcass.server.routes import ROUTES
from ndcass.server.routing import Handler, Route
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running


@asynccontextmanager
async def serving(handler: Handler, **server: Any) -> AsyncIterator[Running]:
    """A gateway with `handler` at ``/sd/x/``, ``/resource/x/`` and ``/x/`` besides."""
    extra = [
        Route(method, path, handler, "A test.")
        for method in ("GET", "POST")
        for path in ("/sd/x/", "/resource/x/", "/x/")
    ]
    settings = Settings(server=ServerSettings(**server))
    async with running(MemoryStores(), settings, routes=[*extra, *ROUTES]) as app:
        yield app


async def hello(request: web.Request, match: Match) -> web.StreamResponse:
    return web.Response(text="hello")


def raising(error: Exception) -> Handler:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        raise error

    return handler


async def raw_answer(app: Running, request: bytes) -> bytes:
    """What comes back on a connection of its own, until the server closes it."""
    reader, writer = await asyncio.open_connection(app.client.host, app.client.port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()


# -- request ids


@pytest.mark.parametrize("sent", ["a", "A.b_c-9", "x" * 128])
async def test_sane_request_id_comes_back(sent: str) -> None:
    async with serving(hello) as app:
        answer = await app.get("/x/", headers={"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b", "a/b", "é", "a;b"])
async def test_other_request_id_is_replaced(sent: str) -> None:
    async with serving(hello) as app:
        answer = await app.get("/x/", headers={"X-Request-Id": sent})
    assert answer.headers["X-Request-Id"] != sent
    assert len(answer.headers["X-Request-Id"]) == 32


@pytest.mark.parametrize("path", ["/sd/x/", "/resource/x/", "/x/", "/sd/none/", "/none"])
@pytest.mark.parametrize("accept", ["*/*", "application/json"])
async def test_request_id_stands_in_every_error(path: str, accept: str) -> None:
    async with serving(raising(InvalidOption("no"))) as app:
        headers = {"X-Request-Id": "my-id", "Accept": accept}
        answer = await app.get(path, headers=headers)
        assert "my-id" in await answer.text()
    assert answer.headers["X-Request-Id"] == "my-id"
    assert answer.status in (400, 404)


# -- headers and methods


async def test_answers_to_get_may_be_read_by_any_page() -> None:
    async with serving(hello) as app:
        for method, path in (("GET", "/x/"), ("HEAD", "/x/"), ("GET", "/nowhere")):
            headers = (await app.request(method, path)).headers
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert headers["Access-Control-Allow-Methods"] == "GET"
        assert "Access-Control-Allow-Origin" not in (await app.request("POST", "/x/")).headers


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with serving(hello) as app:
        got = await app.get("/x/")
        head = await app.request("HEAD", "/x/")
        assert head.status == 200
        assert await head.read() == b""
    for name in ("Content-Type", "Content-Length", "Server"):
        assert head.headers[name] == got.headers[name]
    assert set(head.headers) == set(got.headers)


async def test_browser_may_ask_before_it_sends_a_key() -> None:
    async with serving(hello) as app:
        answer = await app.request("OPTIONS", "/nd/x/")
        assert answer.status == 204
        assert answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS"
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert (await app.request("OPTIONS", "/nowhere")).status == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_other_method_is_405_with_json(method: str) -> None:
    async with serving(hello) as app:
        answer = await app.request(method, "/sd/x/")
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS"
        assert method in json.loads(await answer.text())["detail"]


@pytest.mark.parametrize(
    "service", "zip jpeg xy id xyanno xzanno yzanno minproj maxproj mcfc".split()
)
async def test_post_to_what_only_reads_is_400_with_a_text(service: str) -> None:
    async with serving(hello) as app:
        answer = await app.request("POST", f"/nd/sd/t/c/{service}/0/1,2/3,4/5/", data=b"x")
        assert answer.status == 400
        assert "post to npz" in await answer.text()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_blaze_cannot_be_read_and_that_is_400(method: str) -> None:
    async with serving(hello) as app:
        assert await app.status("/nd/sd/t/c/blaze/0/1,2/3,4/5,6/", method=method) == 400


async def test_option_that_is_there_twice_is_400() -> None:
    async with serving(hello) as app:
        answer = await app.request("POST", "/sd/x/?write=merge&write=replace")
        assert answer.status == 400
        assert "write" in await answer.text()
        assert await app.status("/sd/x/?other=1&other=2&write=merge") == 200


async def test_empty_channel_name_in_a_list_is_said_to_be_one(app: Running) -> None:
    answer = await app.get("/nd/sd/t/a,,b/raw/0/1,2/3,4/5,6/")
    assert answer.status == 404
    assert "empty name" in await answer.text()


@pytest.mark.parametrize(
    "path", ["/nd/sd/t/nosuch/", "/nd/sd/t/c/", "/sd/t/c", "/sd/t/c/preserve/"]
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reading_what_names_no_service_is_404(method: str, path: str) -> None:
    async with serving(hello) as app:
        answer = await app.request(method, path)
        assert answer.status == 404
        assert answer.content_type == "text/html"
        assert (await app.request("OPTIONS", path)).headers["Allow"] == "POST, OPTIONS"


async def test_unknown_service_is_404_with_a_text() -> None:
    async with serving(hello) as app:
        answer = await app.get("/nd/sd/t/c/gif/0/1,2/3,4/5,6/")
        assert answer.status == 404
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "no route fits" in await answer.text()


async def test_redirects_are_never_sent() -> None:
    async with serving(hello) as app:
        for path in ("/x", "//x", "/nd//x/", "/nd/nd/x", "/ocp/x"):
            assert await app.status(path) == 200, path


async def test_query_is_ignored() -> None:
    async with serving(hello) as app:
        assert await app.status("/x/?format=none&format=%ff") == 200


# -- failures


async def test_unknown_failure_is_500_without_internals_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(raising(RuntimeError("secret path /etc"))) as app:
        answer = await app.get("/sd/x/", headers={"X-Request-Id": "find-me"})
        assert answer.status == 500
        assert "secret" not in await answer.text()
        assert "find-me" in await answer.text()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None
    assert "find-me" in errors[0].getMessage()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreUnavailable("the store is away"), 503),
        (StoreFull("no space"), 507),
        (CorruptValue("channel 1 level 0 is damaged"), 500),
    ],
)
async def test_failure_of_the_store_is_told_and_logged_once(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(raising(error)) as app:
        answer = await app.get("/sd/x/")
        assert answer.status == status
        assert str(error) in await answer.text()
    assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1


async def test_mistake_of_a_client_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(raising(InvalidOption("no"))) as app:
        await app.get("/sd/x/")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_stray_timeout_of_a_handler_is_not_taken_for_the_deadline() -> None:
    async with serving(raising(TimeoutError())) as app:
        assert await app.status("/x/") == 500


@pytest.mark.parametrize("announced", [True, False])
async def test_failure_after_the_first_byte_breaks_the_connection(
    announced: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        response = web.StreamResponse()
        if announced:
            response.content_length = 100
        await response.prepare(request)
        await response.write(b"x" * 10)
        raise CorruptValue("damaged")

    async with serving(handler) as app:
        with pytest.raises(ClientPayloadError):
            await app.get("/sd/x/")
        async with asyncio.timeout(5):
            while app_metrics(app).in_flight_requests:
                await asyncio.sleep(0.01)
        assert await app.status("/healthz") == 200
    assert " /sd/x/ broken " in capsys.readouterr().err


def app_metrics(app: Running) -> Any:
    return app.client.server.app[METRICS]  # type: ignore[attr-defined]  # a TestServer has it


# -- deadlines


async def test_request_without_progress_is_504() -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        await asyncio.sleep(30)
        raise AssertionError

    async with serving(handler, request_timeout_s=0.1) as app:
        answer = await app.get("/sd/x/")
        assert answer.status == 504
        assert "0.1 s" in await answer.text()


async def test_progress_puts_the_deadline_off() -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        for _ in range(10):
            await asyncio.sleep(0.1)
            exchange_of(request).progress.moved()
        return web.Response(text="slow but moving")

    async with serving(handler, request_timeout_s=0.5) as app:
        assert await app.status("/x/") == 200


async def test_progress_does_not_put_it_off_for_ever() -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        while True:
            await asyncio.sleep(0.05)
            exchange_of(request).progress.moved()

    async with serving(handler, request_timeout_s=0.3, transfer_timeout_s=0.6) as app:
        assert await app.status("/x/") == 504


async def test_client_that_does_not_read_is_dropped() -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        return web.Response(body=bytes(64 << 20))

    async with serving(handler, request_timeout_s=0.5, send_timeout_s=0.5) as app:
        _, writer = await asyncio.open_connection(app.client.host, app.client.port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
        writer.write(b"GET /x/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(0.2)
        assert app_metrics(app).in_flight_requests == 1
        async with asyncio.timeout(10):
            while app_metrics(app).in_flight_requests:
                await asyncio.sleep(0.05)
        writer.close()


async def test_client_that_leaves_cancels_what_is_done_for_it() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async with serving(handler) as app:
        _, writer = await asyncio.open_connection(app.client.host, app.client.port)
        writer.write(b"GET /x/ HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await started.wait()
            writer.close()
            await cancelled.wait()
            while app_metrics(app).in_flight_requests:
                await asyncio.sleep(0.01)


# -- absurd requests


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /nd/sd/" + b"n" * 10_000_000 + b"/info/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"DELETE /nd/resource/dataset/" + b"n" * 100_000 + b"/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"h" * 1_000_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 5000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    ],
    ids=[
        "10 MB name",
        "long name",
        "long header",
        "many headers",
        "tls",
        "short",
        "9.9",
        "nul",
        "length",
    ],
)
async def test_absurd_request_is_400_and_hurts_nobody(request_head: bytes) -> None:
    async with serving(hello) as app:
        try:
            answer = await raw_answer(app, request_head)
        except ConnectionResetError:
            answer = b""  # closed while the rest of it was still on its way
        assert answer == b"" or answer.split(b"\r\n")[0].split()[1] in (b"400", b"404", b"414"), (
            answer
        )
        assert b"Traceback" not in answer
        assert await app.status("/healthz") == 200


async def test_name_as_long_as_a_line_may_be_is_just_unknown() -> None:
    async with serving(hello) as app:
        answer = await app.get("/nd/sd/" + "n" * 60_000 + "/info/", user="admin")
        assert answer.status == 404
        assert len(await answer.text()) < 70_000


async def test_strange_bytes_in_a_path_are_just_unknown() -> None:
    async with serving(hello) as app:
        for path in ("/%00", "/%ff%fe", "/sd/%0a%0d/info/", "/sd/x%00/info/", "/a%2f..%2f..%2fetc"):
            assert await app.status(path) == 404, path
        head = b"GET /caf\xc3\xa9\xff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await raw_answer(app, head)).split()[1] in (b"400", b"404")


async def test_body_that_is_cut_off_is_the_clients_mistake(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(request: web.Request, match: Match) -> web.StreamResponse:
        await request.read()
        raise AssertionError

    head = b"POST /x/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    async with serving(handler) as app:
        answer = await raw_answer(app, head)
        assert answer.split()[1] == b"400"
    ours = [record for record in caplog.records if record.name.startswith("ndcass")]
    assert [record for record in ours if record.levelno > logging.INFO] == []


# -- the log and the numbers


async def test_one_line_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(hello) as app:
        await app.request("POST", "/nd/x/?a=b", data=b"12345", headers={"X-Request-Id": "r1"})
    (line,) = capsys.readouterr().err.splitlines()
    assert " r1 POST /nd/x/?a=b 200 " in line
    assert " in=5 " in line
    assert line.endswith(" cuboids=0 store=0.0ms")


async def test_voxels_are_counted(app: Running) -> None:
    await app.make_volume("v")
    await app.post_ones("v")
    await app.get("/nd/sd/v/img/raw/0/0,4/0,3/0,2/")
    text = await (await app.get("/metrics")).text()
    assert "\nndcass_cuboids_read_total 1\n" in text
    assert "\nndcass_cuboids_written_total 1\n" in text
    assert 'ndcass_requests_total{route="/sd/{token}/[{channels}/]' in text


async def test_no_route_blocks_the_event_loop() -> None:
    paths = [
        "/",
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/resource/dataset/",
        "/resource/dataset/v/project/v/channel/img/",
        "/sd/public_tokens/",
        "/sd/v/info/",
        "/sd/v/projinfo/",
        "/sd/v/volume.vikingxml",
        "/sd/v/lab/reserve/2/",
        "/sd/v/img/xy/0/0,100/0,100/3/",
        *(f"/sd/v/img/{f}/0/0,300/0,200/0,20/" for f in ("npz", "raw", "zip", "blosc", "hdf5")),
    ]
    async with running(MemoryStores()) as app:
        with blockbuster_ctx("ndcass"):
            await app.make_volume("v")
            assert (await app.post_ones("v")).status == 200
            for path in paths:
                assert await app.status(path, user="admin") == 200, path
            path = "/resource/dataset/v/"
            assert await app.status(path, user="admin", method="DELETE") == 204
