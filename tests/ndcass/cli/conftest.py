"""A real gateway in processes of its own, as users start it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

ADMIN_KEY = "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(**variables: str) -> dict[str, str]:
    """What a command sees: nothing of ndcass but what the test says."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NDCASS_")}
    return {**ours, "no_proxy": "*", "NO_PROXY": "*", **variables}


@dataclass
class Running:
    """A server that was started; the test stops it or the fixture does."""

    process: subprocess.Popen[bytes]
    port: int
    data: Path
    output: Path
    session: requests.Session = field(default_factory=requests.Session)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        """What it printed and logged so far."""
        return self.output.read_text()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended: " + self.said
            try:
                if self.session.get(f"{self.url}/readyz", timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("the server did not become ready")

    def post(self, path: str, **body: Any) -> None:
        headers = {"Authorization": f"Token {ADMIN_KEY}"}
        answer = self.session.post(self.url + path, json=body, headers=headers, timeout=30)
        assert answer.status_code == 201, answer.text

    def stop(self) -> int:
        """Ask it to end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.session.close()


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts ``ndcass serve`` on a folder."""
    running: list[Running] = []

    def start(data: Path, *options: str, port: int | None = None, **variables: str) -> Running:
        chosen = port or free_port()
        line = ["serve", "--data", str(data), "--port", str(chosen), "--workers", "2", *options]
        # A file: nobody would empty a pipe, and the server would wait for that when it is full.
        output = tmp_path_factory.mktemp("output") / "server.log"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "ndcass.cli.main", *line],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(**variables),
            )
        server = Running(process, chosen, data, output)
        running.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def server(start_server: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A server with dataset and project ``D`` and token ``T``, private to the admin."""
    running = start_server(tmp_path_factory.mktemp("served") / "data", NDCASS_ADMIN_TOKEN=ADMIN_KEY)
    running.post(
        "/nd/resource/dataset/D/",
        dataset_name="D",
        ximagesize=300,
        yimagesize=200,
        zimagesize=40,
        xoffset=5,
        zoffset=1,
        zvoxelres=10.0,
    )
    running.post("/nd/resource/dataset/D/project/P/", project_name="P")
    running.post("/nd/resource/dataset/D/project/P/token/T/", token_name="T")
    return running


_channels = iter(range(10_000))


@pytest.fixture
def new_channel(server: Running) -> Callable[..., str]:
    """Makes a channel of its own for a test; its target, ``T/NAME``."""

    def make(datatype: str = "uint8", kind: str = "image", **fields: Any) -> str:
        name = f"c{next(_channels)}"
        server.post(
            f"/nd/resource/dataset/D/project/P/channel/{name}/",
            channel_name=name,
            channel_type=kind,
            channel_datatype=datatype,
            **fields,
        )
        return f"T/{name}"

    return make


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """What it printed with ``--json``, after it succeeded."""
        assert self.code == 0, self.err
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def ndcass(server: Running, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs ``ndcass`` as a user does, in a folder of the test, with the admin's key."""

    def run(*line: str | Path, **variables: str) -> Outcome:
        settings = {"NDCASS_URL": server.url, "NDCASS_API_KEY": ADMIN_KEY, **variables}
        return run_command(line, cwd=tmp_path, env=environment(**settings))

    return run


def run_command(line: Sequence[str | Path], *, cwd: Path, env: dict[str, str]) -> Outcome:
    finished = subprocess.run(
        [sys.executable, "-m", "ndcass.cli.main", *map(str, line)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Outcome(finished.returncode, finished.stdout, finished.stderr)
