"""The application, wired; and the processes that run it.

`make_app` for who has opened the stores already (tests), `serve` for the command line.
"""

import asyncio
import contextlib
import gc
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ndcass.concurrency import ByteLimiter, keep_heap, run_cpu
from ndcass.config import ServerSettings, Settings
from ndcass.errors import ConfigError
from ndcass.server.accounts import Accounts
from ndcass.server.app_keys import (
    ACCOUNTS,
    DEADLINES,
    MEMORY,
    METRICS,
    PICTURES,
    ROUTER,
    SETTINGS,
    STOPPING,
    STORES,
    TRAFFIC,
)
from ndcass.server.background import background
from ndcass.server.entrance import Counts, Entrance
from ndcass.server.headers import add_headers
from ndcass.server.metrics import Metrics, metrics_file
from ndcass.server.middleware import answer
from ndcass.server.progress import Deadlines
from ndcass.server.protocol import Everything, Runner, expect
from ndcass.server.routes import ROUTES
from ndcass.server.routing import Route, Router
from ndcass.server.traffic import Traffic
from ndcass.server.workers import Supervisor
from ndcass.store.base import Stores
from ndcass.store.engine import open_pictures, open_stores
from ndcass.store.picture_cache import PictureCache

log = logging.getLogger("ndcass.server")

# More processes than this wait for the disk and for each other's locks.
MOST_DEFAULT_WORKERS = 8
BACKLOG = 1024
# How long a thread may keep the event loop from the interpreter; Python's own 5 ms are more than
# most answers take (`python -m bench.pyramid --only reading`).
SWITCH_S = 0.0005
# Python's own 700 is reached by a few requests, none of which leaves anything to collect.
GC_ALLOCATIONS = 20_000
# Body bytes that aiohttp gathers before it stops reading from the socket; more saves wake-ups.
READ_BUFFER_BYTES = 512 << 10
# What a cancelled request may take to clean up; before it is cancelled it has its grace.
CANCEL_TIMEOUT_S = 5.0
END_CHECK_S = 0.05
# How many connections each worker has, in the folder that the workers share.
CONNECTIONS = "connections"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(process)d %(message)s"


def make_app(
    settings: Settings,
    stores: Stores,
    *,
    metrics: Metrics | None = None,
    routes: Sequence[Route] = ROUTES,
    pictures: PictureCache | None = None,
) -> web.Application:
    """The application over stores that the caller opened and will close."""
    app = web.Application()
    app[SETTINGS] = settings
    app[STORES] = stores
    app[MEMORY] = ByteLimiter(settings.server.memory_bytes)
    app[PICTURES] = pictures
    app[METRICS] = metrics if metrics is not None else Metrics()
    app[ACCOUNTS] = Accounts(app[METRICS], log_lines=settings.log.access)
    limits = settings.server
    app[DEADLINES] = Deadlines(
        timeout_s=limits.request_timeout_s,
        transfer_s=limits.transfer_timeout_s,
        shortest_s=min(limits.send_timeout_s, limits.receive_timeout_s),
    )
    app[TRAFFIC] = Traffic.in_folder(app[METRICS].folder, app[METRICS].worker)
    app[ROUTER] = Router(routes)
    app[STOPPING] = asyncio.Event()
    everything = Everything("/")
    app.router.register_resource(everything)
    everything.add_route("*", answer, expect_handler=expect)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(background)
    return app


def server_options(settings: ServerSettings) -> dict[str, Any]:
    """How aiohttp is to treat connections; whatever its runner takes."""
    return {
        # A client that leaves cancels what is done for it.
        "handler_cancellation": True,
        # Bodies are decompressed by us, with limits.
        "auto_decompress": False,
        "max_line_size": settings.max_url_bytes,
        "max_field_size": settings.max_header_bytes,
        "keepalive_timeout": settings.keepalive_timeout_s,
        "lingering_time": settings.receive_timeout_s,
        "read_bufsize": READ_BUFFER_BYTES,
        "access_log": None,  # ours is written in middleware.py
        "shutdown_timeout": CANCEL_TIMEOUT_S,
    }


def serve(settings: Settings) -> None:
    """Run the gateway until SIGTERM or SIGINT, then let running requests end.

    Raises
    ------
    ConfigError
        If the address cannot be listened on.
    WorkersFailed
        If workers keep dying.
    """
    set_up_logging(settings)
    count = settings.server.workers or min(os.cpu_count() or 1, MOST_DEFAULT_WORKERS)
    with contextlib.closing(_listen(settings.server)) as sock:
        host, port = sock.getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        log.info("listening on http://%s/ with %d worker%s", where, count, "s" if count > 1 else "")
        if count == 1:
            _run_loop(settings, sock, Metrics(), Counts.alone())
        else:
            _run_workers(settings, sock, count)
    log.info("stopped")


def set_up_logging(settings: Settings) -> None:
    """Everything to standard error, one line each."""
    logging.basicConfig(level=settings.log.level.upper(), format=LOG_FORMAT, force=True)
    logging.getLogger("aiohttp.server").addFilter(_is_our_mistake)


def _is_our_mistake(record: logging.LogRecord) -> bool:
    """Drop the traceback that aiohttp logs of every malformed request."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError)


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise ConfigError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}"
        ) from error
    sock.setblocking(False)
    return sock


def _run_workers(settings: Settings, sock: socket.socket, count: int) -> None:
    # Spawned, not forked: LMDB and threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="ndcass-"))
    Counts.create(folder / CONNECTIONS, count)
    Traffic.create(folder, count)

    def start(worker: int) -> multiprocessing.process.BaseProcess:
        process = context.Process(
            target=run_worker, args=(settings, sock, worker, folder), name=f"ndcass-{worker}"
        )
        process.start()
        return process

    supervisor = Supervisor(start, count=count, grace_s=settings.server.shutdown_grace_s)
    try:
        # Closed at once, so that nobody connects to a socket that nobody listens on.
        supervisor.run(on_stop=sock.close)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_worker(settings: Settings, sock: socket.socket, worker: int, folder: Path) -> None:
    """What a worker process does."""
    set_up_logging(settings)
    metrics = Metrics(worker, folder)
    with contextlib.suppress(FileNotFoundError):
        metrics.take_over(json.loads(metrics_file(folder, worker).read_text()))
    _run_loop(settings, sock, metrics, Counts.open(folder / CONNECTIONS, worker))


def _run_loop(settings: Settings, sock: socket.socket, metrics: Metrics, counts: Counts) -> None:
    keep_heap()
    _allow_files()
    # What the imports made stays; requests make few cycles, so their collection may wait.
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 50)
    sys.setswitchinterval(SWITCH_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_until_stopped(settings, sock, metrics, counts))


def _allow_files() -> None:
    """As many open files as the system lets us have: each connection and each segment is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve_until_stopped(
    settings: Settings, sock: socket.socket, metrics: Metrics, counts: Counts
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    parent = multiprocessing.parent_process()
    if parent is not None:  # without its supervisor a worker would never be stopped
        loop.add_reader(parent.sentinel, stop.set)
    async with _open_stores(settings) as stores, _open_pictures(settings) as pictures:
        app = make_app(settings, stores, metrics=metrics, pictures=pictures)
        runner = Runner(app, **server_options(settings.server))
        await runner.setup()
        try:
            assert runner.server is not None  # setup() made it
            entrance = Entrance(sock, runner.server, counts)
            entrance.open()
            await stop.wait()
            entrance.close()
            await _let_requests_end(app)
        finally:
            await runner.cleanup()
    if parent is not None:
        loop.remove_reader(parent.sentinel)


async def _let_requests_end(app: web.Application) -> None:
    """Wait for what is under way: aiohttp's own wait would drop the rest of a body being sent.

    What takes longer is cancelled: it may wait for a client that neither sends nor takes anything.
    """
    app[STOPPING].set()
    grace_s = app[SETTINGS].server.shutdown_grace_s
    try:
        async with asyncio.timeout(grace_s):
            # A request of a client that was let in last may not have begun yet.
            await asyncio.sleep(END_CHECK_S)
            while app[METRICS].in_flight_requests:  # noqa: ASYNC110 - once, at the end of the process
                await asyncio.sleep(END_CHECK_S)
    except TimeoutError:
        log.warning("requests that did not end within %g s are cancelled", grace_s)
        app[DEADLINES].cancel()


@contextlib.asynccontextmanager
async def _open_stores(settings: Settings) -> AsyncIterator[Stores]:
    stores = await open_stores(settings)
    try:
        yield stores
    finally:
        await stores.close()


@contextlib.asynccontextmanager
async def _open_pictures(settings: Settings) -> AsyncIterator[PictureCache | None]:
    pictures = await run_cpu(open_pictures, settings)
    try:
        yield pictures
    finally:
        if pictures is not None:
            await run_cpu(pictures.close)
