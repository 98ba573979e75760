"""The gateway and the commands as processes of their own: as users start them, and to be killed."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
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
# Shifts the wall clock of the process by what stands in a file at the moment. Its workers would
# have the right one.
_SHIFTED = textwrap.dedent(
    """
    import mmap, struct, sys, time
    with open(sys.argv.pop(1), "rb") as file:
        shift = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    right_ns = time.time_ns
    time.time_ns = lambda: right_ns() + struct.unpack("<q", shift[:8])[0]
    time.time = lambda: time.time_ns() / 1e9
    from ndcass.cli.main import main
    sys.exit(main())
    """
)
# Dies at one of our own functions, as a loss of power would have it: before the call, or behind it.
_DOOMED = textwrap.dedent(
    """
    import functools, importlib, os, signal, sys
    module, name, when, calls = sys.argv.pop(1).split(":")
    owner = importlib.import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    func, left = getattr(owner, name), int(calls)

    @functools.wraps(func)
    async def doomed(*args, **kwargs):
        global left
        left -= 1
        if left == 0 and when == "behind":
            await func(*args, **kwargs)
        if left == 0:
            os.killpg(0, signal.SIGKILL)
        return await func(*args, **kwargs)

    setattr(owner, name, doomed)
    from ndcass.cli.main import main
    sys.exit(main())
    """
)

# Kills a group of processes when its input ends without a word: who would have said it is dead.
_GUARD = "import os, signal, sys; sys.stdin.read() or os.killpg(int(sys.argv[1]), signal.SIGKILL)"

KEY = "0123456789abcdef0123456789abcdef01234567"
START_TIMEOUT_S = 60.0
GUARD_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 100.0
# Below those that the system gives to outgoing connections: who starts again wants its port back.
PORTS = (15_000, 32_000)


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
        timeout_s = options.pop("timeout", 60)
        return requests.request(
            method, self.url + path, headers=headers, timeout=timeout_s, **options
        )

    def create(self, path: str, **body: Any) -> None:
        """Make what the resource API has at a path; `Any` is what JSON can hold."""
        answer = self.request("POST", f"/nd/resource/{path}", json=body)
        assert answer.status_code == 201, answer.text

    def create_channel(self, *, size_zyx: Sequence[int], token: str = "t", **fields: Any) -> None:
        """A token that leads to a channel ``c``, with a dataset and a project of its own."""
        sizes = {f"{a}imagesize": n for a, n in zip("zyx", size_zyx, strict=True)}
        channel = {"channel_type": "timeseries", "channel_datatype": "uint8", **fields}
        bodies: dict[str, dict[str, Any]] = {
            "": {"dataset_name": f"{token}d", "zvoxelres": 10.0, **sizes},
            f"project/{token}p/": {"project_name": f"{token}p"},
            f"project/{token}p/channel/c/": {"channel_name": "c", **channel},
            f"project/{token}p/token/{token}/": {"token_name": token},
        }
        for path, body in bodies.items():
            self.create(f"dataset/{token}d/{path}", **body)

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


@contextlib.contextmanager
def gateway(
    folder: Path,
    *options: str,
    conf: Path | None = None,
    workers: int = 1,
    file_limit_bytes: int | None = None,
    clock_shift: Path | None = None,
    dies_at: str | None = None,
    port: int | None = None,
    output: Path | None = None,
    admin_key: str | None = KEY,
) -> Iterator[Gateway]:
    """Start ``ndcass serve`` on a folder, by default on a free port, and end it.

    It does not outlive this process, however that ends. What it prints goes to the file `output`; a
    pipe would be full one day and stop it. A gateway of one worker whose clock is wrong has a file
    `clock_shift`, see `shift_clock`; one that `dies_at` ``module:function:before:3`` is killed at
    the third call of a coroutine function, or ``behind``.
    """
    port = port or free_port()
    launcher = ["-m", "ndcass.cli.main"]
    if file_limit_bytes is not None:
        launcher = ["-c", _LIMITED, str(file_limit_bytes)]
    if clock_shift is not None:
        launcher = ["-c", _SHIFTED, str(clock_shift)]
    if dies_at is not None:
        launcher = ["-c", _DOOMED, dies_at]
    command = [sys.executable, *launcher, "serve", "--data", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers), *options]
    if conf is not None:
        command += ["--conf", str(conf)]
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
    with guarded_group(process):
        try:
            _wait_until_ready(running.url, process)
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def guarded_group(leader: "subprocess.Popen[bytes]") -> Iterator[None]:
    """When this process dies within the block, another and all of its group are killed.

    Nothing else would tell them: a signal to end takes this process away as it stands.
    """
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _GUARD, str(leader.pid)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the group may have ended before
        start_new_session=True,  # an interrupt from the keyboard is not for it
    )
    try:
        yield
    finally:
        guard.communicate(b"ended", timeout=GUARD_TIMEOUT_S)


def shift_clock(file: Path, shift_ms: int) -> None:
    """Make the clock of the gateway that has this file so much ahead of (or behind) the right one.

    Takes effect at once; the file has to be there before the gateway starts.
    """
    with open(file, "r+b" if file.exists() else "wb", buffering=0) as shift:
        shift.write((shift_ms * 1_000_000).to_bytes(8, "little", signed=True))


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the gateway ended with {process.returncode}"
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except (requests.ConnectionError, requests.Timeout):
            time.sleep(0.1)
    raise AssertionError(f"the gateway was not ready within {START_TIMEOUT_S} s")


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection may happen to take."""
    numbers = random.SystemRandom()  # the ordinary one is the same in each process, once seeded
    while True:
        port = numbers.randrange(*PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


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
