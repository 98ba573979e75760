"""Whatever comes over a connection is answered by us: odd paths, `Expect`, what is no HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ndcass.config import ServerSettings, Settings
from ndcass.store.memory import MemoryStores
from tests.server.running import KEYS, Running, running


class Connection:
    """A connection of its own, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    def end(self) -> None:
        """Send no more, but still listen."""
        self._writer.write_eof()

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        async with asyncio.timeout(10):
            return await self._reader.read()

    async def head(self) -> tuple[str, dict[str, str]]:
        """The status line and the headers of the next answer."""
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return first, {name: value for name, _, value in pairs}

    async def body(self, headers: dict[str, str]) -> str:
        async with asyncio.timeout(10):
            return (await self._reader.readexactly(int(headers["Content-Length"]))).decode()


@asynccontextmanager
async def connected(app: Running) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(app.client.host, app.client.port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def post(path: str, length: int, *, user: str = "admin", **headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Authorization: Token {KEYS[user]}",
        f"Content-Length: {length}",
        "Expect: 100-continue",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"GET /sd/a%0ab/info/ HTTP/1.1",
        b"GET /%0a HTTP/1.1",
        b"GET /a%0d%0aServer:%20other HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"GET http://x HTTP/1.1",
    ],
)
async def test_any_path_is_answered_by_us(app: Running, line: bytes) -> None:
    async with connected(app) as connection:
        await connection.send(line + b"\r\nHost: x\r\nX-Request-Id: my-id\r\n\r\n")
        status, headers = await connection.head()
    assert headers["Server"] == "ndcass"
    assert headers["X-Request-Id"] == "my-id"
    assert int(status.split()[1]) < 500


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"GET\r\n\r\n", "no HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "no HTTP"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", "no HTTP"),
        (b"GET /" + b"n" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", "too long"),
    ],
    ids=["short", "tls", "length", "long"],
)
async def test_what_is_no_http_is_answered_by_us(app: Running, sent: bytes, text: str) -> None:
    async with connected(app) as connection:
        await connection.send(sent)
        status, headers = await connection.head()
        body = await connection.body(headers)
    assert status == "HTTP/1.0 400 Bad Request" or status == "HTTP/1.1 400 Bad Request"
    assert headers["Server"] == "ndcass"
    assert headers["X-Request-Id"] in body
    assert text in body
    assert "aiohttp" not in body


async def test_unknown_expectation_is_417_by_us(app: Running) -> None:
    answer = await app.get("/healthz", headers={"Expect": "coffee", "X-Request-Id": "my-id"})
    assert answer.status == 417
    assert answer.headers["Server"] == "ndcass"
    assert "my-id" in await answer.text()


# -- Expect: 100-continue

RAW = "/nd/sd/v/img/raw/0/0,4/0,3/0,2/"


async def test_body_is_asked_for_once_all_else_is_in_order(app: Running) -> None:
    await app.make_volume("v")
    async with connected(app) as connection:
        await connection.send(post(RAW, 24, X_Volume_Dtype="|u1"))
        assert (await connection.head())[0] == "HTTP/1.1 100 Continue"
        await connection.send(b"\1" * 24)
        status, headers = await connection.head()
        assert status == "HTTP/1.1 200 OK"
        assert await connection.body(headers) == "Success"
        assert headers.get("Connection") != "close"


async def test_json_body_is_asked_for(app: Running) -> None:
    body = b'{"dataset_name": "d", "ximagesize": 9, "yimagesize": 9, "zimagesize": 9}'
    async with connected(app) as connection:
        await connection.send(post("/nd/resource/dataset/d/", len(body)))
        assert (await connection.head())[0] == "HTTP/1.1 100 Continue"
        await connection.send(body)
        assert (await connection.head())[0] == "HTTP/1.1 201 Created"


@pytest.mark.parametrize(
    ("path", "length", "user", "status"),
    [
        (RAW, 24, "nobody", 403),
        ("/nd/sd/v/img/raw/0/0,4/0,3/0,2000/", 24, "admin", 404),
        ("/nd/sd/v/none/raw/0/0,4/0,3/0,2/", 24, "admin", 404),
        ("/nd/sd/v/img/nothing/0/0,4/0,3/0,2/", 24, "admin", 404),
        (RAW, 5 << 30, "admin", 413),
        (RAW, 5 << 20, "admin", 404),
        ("/nd/resource/dataset/d/", 24, "nobody", 403),
        ("/nd/resource/dataset/d/", 5 << 20, "admin", 413),
    ],
)
async def test_body_is_not_asked_for_in_vain(
    app: Running, path: str, length: int, user: str, status: int
) -> None:
    await app.make_volume("v")
    sent = post(path, length, X_Volume_Dtype="|u1")
    if user == "nobody":
        sent = sent.replace(KEYS["admin"].encode(), b"unknown")
    async with connected(app) as connection:
        await connection.send(sent)
        line, headers = await connection.head()
    assert line.split()[1] == str(status)
    assert headers["Connection"] == "close"


async def test_announced_length_above_the_limit_is_413_with_both_numbers() -> None:
    settings = Settings(server=ServerSettings(max_body_bytes=1000))
    async with running(MemoryStores(), settings) as app:
        await app.make_volume("v")
        async with connected(app) as connection:
            await connection.send(post(RAW, 12345, X_Volume_Dtype="|u1"))
            line, headers = await connection.head()
            body = await connection.body(headers)
    assert line.split()[1] == "413"
    assert "12345" in body
    assert "1000" in body
