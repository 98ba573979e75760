"""A large plain body goes past aiohttp, and what comes behind it does not."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from aiohttp import web

from ndcass.config import ServerSettings, Settings
from ndcass.errors import StoreFull
from ndcass.server import intake
from ndcass.store.memory import MemoryStores
from tests.server.running import Running, running
from tests.server.test_protocol import Connection, connected, post

SHAPE = (20, 400, 500)
SIZE = SHAPE[0] * SHAPE[1] * SHAPE[2]
BOX = "/nd/sd/v/img/raw/0/0,500/0,400/0,20/"
WHOLE = "v/img/raw/0/0,500/0,400/0,20/"
WAIT_S = 0.5


pytestmark = pytest.mark.both_loops  # each has protocols of its own


@pytest.fixture
def voxels() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each body had that went past aiohttp."""
    received: list[int] = []

    def noted(request: web.Request, left: int, *others: Any, **options: Any) -> Any:
        received.append(left)
        return intake.past_aiohttp(request, left, *others, **options)

    monkeypatch.setattr("ndcass.server.streaming.past_aiohttp", noted)
    return received


@asynccontextmanager
async def volume(**server: float) -> AsyncIterator[Running]:
    settings = Settings(server=ServerSettings(**server))  # type: ignore[arg-type]
    async with running(MemoryStores(), settings) as app:
        await app.make_volume("v", ximagesize=500, yimagesize=400)
        yield app


async def start(connection: Connection, length: int = SIZE) -> None:
    """Announce a body, and wait until the server asks for it."""
    await connection.send(post(BOX, length, X_Volume_Dtype="|u1"))
    assert (await connection.head())[0] == "HTTP/1.1 100 Continue"


async def test_the_body_arrives_as_it_was_sent(
    voxels: npt.NDArray[np.uint8], taken: list[int]
) -> None:
    async with volume() as app:
        assert await app.write(WHOLE, voxels) == 200
        assert (await app.read(WHOLE) == voxels).all()
    assert sum(taken) > SIZE // 2


@pytest.mark.parametrize("step", [1000, 65_537, SIZE])
async def test_however_it_is_cut_and_whatever_comes_behind_it(
    voxels: npt.NDArray[np.uint8], taken: list[int], step: int
) -> None:
    """Two bodies and a question, all sent before the first answer."""
    body = voxels.tobytes()
    async with volume() as app, connected(app) as connection:
        await start(connection)
        behind = post(BOX, SIZE, X_Volume_Dtype="|u1").replace(b"Expect: 100-continue\r\n", b"")
        sent = body + behind + body[::-1] + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        for at in range(0, len(sent), step):
            await connection.send(sent[at : at + step])
        for _ in range(3):
            status, headers = await connection.head()
            assert status == "HTTP/1.1 200 OK"
            await connection.body(headers)
        found = await app.read(WHOLE)
    assert len(taken) == 2
    second = voxels.reshape(-1)[::-1].reshape(SHAPE)
    assert (found == np.where(second, second, voxels)).all()


async def test_what_went_past_is_counted(voxels: npt.NDArray[np.uint8]) -> None:
    async with volume() as app:
        before = await received_bytes(app)
        await app.write(WHOLE, voxels)
        assert await received_bytes(app) - before >= SIZE


async def received_bytes(app: Running) -> float:
    text = await (await app.get("/metrics")).text()
    lines = [line for line in text.splitlines() if line.startswith("ndcass_received_bytes_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@pytest.mark.parametrize("half_closed", [False, True], ids=["closed", "half-closed"])
async def test_a_client_that_leaves_has_written_nothing_and_what_it_sent_is_counted(
    voxels: npt.NDArray[np.uint8], half_closed: bool
) -> None:
    async with volume() as app:
        before = await received_bytes(app)
        async with connected(app) as connection:
            await start(connection)
            await connection.send(voxels.tobytes()[: SIZE * 3 // 4])
            await asyncio.sleep(0.05)
            if half_closed:
                connection.end()
                assert await connection.rest() == b""
        assert not (await app.read(WHOLE)).any()
        async with asyncio.timeout(10):
            while await received_bytes(app) - before < SIZE * 3 // 4:
                await asyncio.sleep(0.05)


async def test_a_client_that_sends_no_more_is_told_so(voxels: npt.NDArray[np.uint8]) -> None:
    async with volume(receive_timeout_s=WAIT_S) as app, connected(app) as connection:
        await start(connection)
        await connection.send(voxels.tobytes()[: SIZE // 2])
        began = time.monotonic()
        status, headers = await connection.head()
        assert time.monotonic() - began >= WAIT_S / 2
        assert status == "HTTP/1.1 504 Gateway Timeout"
        assert "nothing of the body came for 0.5 s" in await connection.body(headers)
        assert not (await app.read(WHOLE)).any()


async def test_a_client_that_sends_slowly_is_waited_for(voxels: npt.NDArray[np.uint8]) -> None:
    body = voxels.tobytes()
    async with volume(receive_timeout_s=WAIT_S) as app, connected(app) as connection:
        await start(connection)
        for at in range(0, SIZE, SIZE // 6):
            await asyncio.sleep(WAIT_S / 2)
            await connection.send(body[at : at + SIZE // 6])
        assert (await connection.head())[0] == "HTTP/1.1 200 OK"
        assert (await app.read(WHOLE)).tobytes() == body


async def test_a_write_that_fails_half_way_leaves_the_connection_usable(
    voxels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told, may send the rest in vain, and asks something else."""

    async def full(self: object, count: int) -> None:
        raise StoreFull("no space is left")

    monkeypatch.setattr("ndcass.writer.BodyWriter.filled", full)
    async with volume() as app, connected(app) as connection:
        await start(connection)
        body = voxels.tobytes()
        for at in range(0, SIZE, 50_000):
            await connection.send(body[at : at + 50_000])
        status, headers = await connection.head()
        assert headers.get("Connection") != "close"
        assert "no space is left" in await connection.body(headers)
        assert status.split()[1] == "507"
        await connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await connection.head())[0] == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("length", [SIZE - 1, SIZE + 1])
async def test_a_body_of_another_length_is_refused(
    voxels: npt.NDArray[np.uint8], taken: list[int], length: int
) -> None:
    async with volume() as app, connected(app) as connection:
        await start(connection, length)
        await connection.send(bytes(length))
        assert (await connection.head())[0].split()[1] == "404"
    assert not taken
