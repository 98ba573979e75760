"""The gateway and the commands as processes of their own: as users start them, and to be killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

# Lets no file of the process grow beyond so many bytes, as a full disk would.
_LIMITED = textwrap.dedent(
    """
    import resource, signal, sys
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = int(sys.argv.pop(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    from ndcass.cli.main import main
    sys.exit(main())
    """
)

KEY = "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 100.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    url: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    output: Path | None = None

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with the admin's key."""
        headers = {"Authorization": f"Token {KEY}", **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def create(self, path: str, **body: Any) -> None:
        """Make what the resource API has at a path; `Any` is what JSON can hold."""
        answer = self.request("POST", f"/nd/resource/{path}", json=body)
        assert answer.status_code == 201, answer.text

    def create_channel(self, *, size_zyx: Sequence[int], **fields: Any) -> None:
        """Dataset ``d``, project ``p``, token ``t`` and a channel ``c``."""
        sizes = {f"{a}imagesize": n for a, n in zip("zyx", size_zyx, strict=True)}
        channel = {"channel_type": "timeseries", "channel_datatype": "uint8", **fields}
        bodies: dict[str, dict[str, Any]] = {
            "dataset/d/": {"dataset_name": "d", "zvoxelres": 10.0, **sizes},
            "dataset/d/project/p/": {"project_name": "p"},
            "dataset/d/project/p/channel/c/": {"channel_name": "c", **channel},
            "dataset/d/project/p/token/t/": {"token_name": "t"},
        }
        for path, body in bodies.items():
            self.create(path, **body)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def said(self) -> str:
        """What it printed and logged so far."""
        assert self.output is not None, "started without an output"
        return self.output.read_text()

    def stop(self) -> int:
        """Ask it to end, as a service manager does; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(30)
        return self.process.returncode

    def kill_all(self) -> None:
        """Kill the gateway and its workers as a loss of power would: none of them can react."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


StartGateway = Callable[..., Gateway]
"""Starts a gateway as `gateway` does, and leaves its end to somebody else."""


@contextmanager
def gateway(
    folder: Path,
    *options: str,
    workers: int = 1,
    file_limit_bytes: int | None = None,
    port: int | None = None,
    output: Path | None = None,
    admin_key: str | None = KEY,
) -> Iterator[Gateway]:
    """Start ``ndcass serve`` on a folder, by default on a free port, and end it.

    What it prints goes to the file `output`; a pipe would be full one day and stop it.
    """
    port = port or free_port()
    launcher = ["-m", "ndcass.cli.main"]
    if file_limit_bytes is not None:
        launcher = ["-c", _LIMITED, str(file_limit_bytes)]
    command = [sys.executable, *launcher, "serve", "--data", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *options]
    secrets = {"NDCASS_ADMIN_TOKEN": admin_key} if admin_key is not None else {}
    with open(output or os.devnull, "wb") as file:
        process = subprocess.Popen(
            command,
            env=environment(**secrets),
            stdout=file,
            stderr=file if output is not None else None,
            start_new_session=True,
        )
    running = Gateway(f"http://127.0.0.1:{port}", process, folder, output)
    try:
        _wait_until_ready(running.url, process)
        yield running
    finally:
        running.stop()


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the gateway ended with {process.returncode}"
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"the gateway was not ready within {START_TIMEOUT_S} s")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    """What a process of a test sees: of ndcass's variables only those that the test gives."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("NDCASS_")}
    return {**ours, "no_proxy": "*", "NO_PROXY": "*", **variables}


@dataclass(frozen=True, slots=True)
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
    """Run ``ndcass`` with these arguments."""
    finished = subprocess.run(
        [sys.executable, "-m", "ndcass.cli.main", *map(str, line)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    return Outcome(finished.returncode, finished.stdout, finished.stderr)
