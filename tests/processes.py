"""The gateway and the commands in processes of their own, as users start them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def start(data: Path, *options: str, output: Path, port: int, **variables: str) -> Running:
    """Start ``ndcass serve`` on a folder and wait until it is ready; the caller stops it."""
    line = ["serve", "--data", str(data), "--port", str(port), "--workers", "2", *options]
    # A file: nobody would empty a pipe, and the server would wait for that when it is full.
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ndcass.cli.main", *line],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(**variables),
        )
    server = Running(process, port, data, output)
    try:
        server.wait_until_ready()
    except BaseException:
        server.stop()
        raise
    return server


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
