"""Connections are shared out among the workers that listen on one socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web

from ndcass.server.entrance import Counts, Entrance


async def nothing(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as sock:
        sock.setblocking(False)
        yield sock


class Clients:
    """Connections to one address."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._open = ExitStack()

    async def connect(self, count: int) -> None:
        for _ in range(count):
            sock = await asyncio.to_thread(socket.create_connection, self._address, 5)
            self._open.enter_context(sock)

    def leave(self) -> None:
        self._open.close()


@pytest.fixture
async def clients(listening: socket.socket) -> AsyncIterator[Clients]:
    found = Clients(listening.getsockname())
    try:
        yield found
    finally:
        found.leave()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Counts.create(tmp_path / "connections", 2)
    return tmp_path / "connections"


async def reached(servers: list[web.Server], count: int) -> list[int]:
    """How many connections each server has once there are so many."""
    async with asyncio.timeout(10):
        while sum(len(server.connections) for server in servers) != count:
            await asyncio.sleep(0.01)
    return [len(server.connections) for server in servers]


async def test_two_workers_get_as_many_connections(
    listening: socket.socket, clients: Clients, path: Path
) -> None:
    servers = [web.Server(nothing) for _ in range(2)]
    entrances = [
        Entrance(listening.dup(), server, Counts.open(path, worker))
        for worker, server in enumerate(servers)
    ]
    for entrance in entrances:
        entrance.open()
    await clients.connect(20)
    shares = await reached(servers, 20)
    assert max(shares) - min(shares) <= 2
    for entrance, server in zip(entrances, servers, strict=True):
        entrance.close()
        await server.shutdown(1)


async def test_a_worker_takes_all_when_the_other_does_not_come(
    listening: socket.socket, clients: Clients, path: Path
) -> None:
    """As when it is busy with something long, or was killed."""
    server = web.Server(nothing)
    Counts.open(path, 1)
    entrance = Entrance(listening.dup(), server, Counts.open(path, 0))
    entrance.open()
    await clients.connect(5)
    assert await reached([server], 5) == [5]
    entrance.close()
    await server.shutdown(1)


async def test_connections_that_ended_do_not_count(
    listening: socket.socket, clients: Clients, path: Path
) -> None:
    server = web.Server(nothing)
    other = Counts.open(path, 1)
    entrance = Entrance(listening.dup(), server, Counts.open(path, 0))
    entrance.open()
    await clients.connect(5)
    await reached([server], 5)
    other.note(1)
    assert not other.another_has_fewer()
    clients.leave()
    await reached([server], 0)
    await clients.connect(1)
    await reached([server], 1)
    other.note(2)
    assert other.another_has_fewer()
    entrance.close()
    await server.shutdown(1)


async def test_nobody_is_let_in_after_it_was_closed(
    listening: socket.socket, clients: Clients
) -> None:
    server = web.Server(nothing)
    entrance = Entrance(listening.dup(), server, Counts.alone())
    entrance.open()
    entrance.close()
    await clients.connect(1)  # the kernel's queue takes it, for another worker listens
    await asyncio.sleep(0.05)
    assert server.connections == []


async def test_without_a_free_file_it_is_tried_again(
    listening: socket.socket, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndcass.server.entrance.RETRY_S", 0.05)

    class Full(socket.socket):
        """No file descriptor is free, the first time."""

        refusals = 0

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            if not self.refusals:
                self.refusals += 1
                raise OSError(24, "Too many open files")
            return super().accept()

    server = web.Server(nothing)
    sock = Full(fileno=listening.dup().detach())
    sock.setblocking(False)
    entrance = Entrance(sock, server, Counts.alone())
    entrance.open()
    await clients.connect(1)
    assert await reached([server], 1) == [1]
    entrance.close()
    await server.shutdown(1)
