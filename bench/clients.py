"""The servers that are compared, as processes, and the one client that measures them all.

The client is a plain socket with a fixed buffer, so that what it costs is the same for every server
and little.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

KEY = "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A process that listens."""

    port: int
    pid: int

    def worker_pids(self) -> list[int]:
        """Processes that answer: the children, if there are any, else the process itself."""
        children = [
            child.pid
            for child in psutil.Process(self.pid).children(recursive=True)
            if "resource_tracker" not in " ".join(child.cmdline())
        ]
        return children or [self.pid]


class Client:
    """A connection to a server that speaks enough HTTP for cutouts."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get(self, path: str, into: bytearray) -> int:
        """GET a body of exactly the buffer's size into it."""
        self._send("GET", path, {})
        return self._receive(memoryview(into))

    def drain(self, path: str) -> int:
        """GET a body of any size and forget it."""
        self._send("GET", path, {})
        return self._receive(None)

    def post(self, path: str, body: memoryview) -> None:
        """POST raw voxels of type uint8."""
        self.post_repeated(path, body.cast("B"), 1)

    def post_repeated(self, path: str, chunk: memoryview, times: int) -> None:
        """POST the same bytes so many times in one body."""
        length = len(chunk) * times
        self._send("POST", path, {"X-Volume-Dtype": "|u1", "Content-Length": str(length)})
        for _ in range(times):
            self._socket.sendall(chunk)
        self._receive(None)

    def post_body(self, path: str, body: bytes) -> None:
        """POST whatever the path takes."""
        self._send("POST", path, {"Content-Length": str(len(body))})
        self._socket.sendall(body)
        self._receive(None)

    def create(self, path: str, fields: dict[str, Any]) -> None:
        """POST a resource; `Any` is what JSON holds."""
        self.post_body(path, json.dumps(fields).encode())

    def _send(self, method: str, path: str, headers: dict[str, str]) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: bench", f"Authorization: Token {KEY}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())

    def _receive(self, into: memoryview | None) -> int:
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += self._some(65536)
        status = int(head[9:12])
        lines = head[:end].decode("latin-1").lower().split("\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
        early = head[end + 4 :]
        if not 200 <= status < 300:
            while len(early) < length:
                early += self._some(65536)
            raise RuntimeError(f"status {status}: {bytes(early[:300])!r}")
        if into is None:
            return self._forget(len(early), length)
        if len(into) != length:
            raise RuntimeError(f"{length} bytes came, {len(into)} were expected")
        into[: len(early)] = early
        got = len(early)
        while got < length:
            got += self._socket.recv_into(into[got:]) or self._ended()
        return got

    def _forget(self, got: int, length: int) -> int:
        scratch = memoryview(bytearray(1 << 20))
        while got < length:
            got += self._socket.recv_into(scratch) or self._ended()
        return got

    def _some(self, size: int) -> bytes:
        return self._socket.recv(size) or bytes(self._ended())

    def _ended(self) -> int:
        raise RuntimeError("the server closed the connection")


@contextmanager
def serve_ndcass(*, workers: int, folder: Path | None = None) -> Iterator[Server]:
    """The gateway on the embedded engine, in a temporary folder unless there is one."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ndcass-bench-") as own:
        command = [sys.executable, "-m", "ndcass.cli.main", "serve", "--data", str(folder or own)]
        command += ["--port", str(port), "--workers", str(workers), "--host", "127.0.0.1"]
        with running(command, port, {"NDCASS_ADMIN_TOKEN": KEY}) as server:
            yield server


@contextmanager
def raw_sender(size: int) -> Iterator[Server]:
    """A process that answers each request with bytes from RAM by one call to the socket."""
    port = free_port()
    with running([sys.executable, "-m", "bench.raw_sender", str(port), str(size)], port) as server:
        yield server


@contextmanager
def http_server(size: int, *, quiet: bool = False) -> Iterator[Server]:
    """An aiohttp handler that sends bytes from RAM; `quiet`: without an access log."""
    port = free_port()
    command = [sys.executable, "-m", "bench.http_server", str(port), str(size)]
    with running([*command, *["quiet"] * quiet], port) as server:
        yield server


@contextmanager
def running(
    command: list[str], port: int, environ: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server of ours: started, waited for, ended."""
    # A file for all of them: what a log line costs is not to depend on who reads it.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - the commands above
            command, env={**os.environ, **(environ or {})}, stdout=log, stderr=log
        )
        try:
            _wait_for(port, process)
            yield Server(port, process.pid)
        except BaseException:
            log.seek(0)
            sys.stderr.write(log.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"a server ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"a server did not listen within {START_TIMEOUT_S} s")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
