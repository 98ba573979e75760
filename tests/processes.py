"""A gateway as its own process: to be killed, starved, or have recordings played against it."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway."""

    url: str
    process: "subprocess.Popen[bytes]"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with the admin's key."""
        headers = {"Authorization": f"Token {KEY}", **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

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
            answer = self.request("POST", f"/nd/resource/{path}", json=body)
            assert answer.status_code == 201, answer.text

    def kill_all(self) -> None:
        """Kill the gateway and its workers as a loss of power would: none of them can react."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def gateway(
    folder: Path, *, workers: int = 1, file_limit_bytes: int | None = None
) -> Iterator[Gateway]:
    """Start ``ndcass serve`` on a folder and a free port, and end it."""
    port = free_port()
    launcher = ["-m", "ndcass.cli.main"]
    if file_limit_bytes is not None:
        launcher = ["-c", _LIMITED, str(file_limit_bytes)]
    command = [sys.executable, *launcher, "serve", "--data", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "NDCASS_ADMIN_TOKEN": KEY},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process)
        yield Gateway(url, process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)


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
