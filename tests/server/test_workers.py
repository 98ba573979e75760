"""The supervisor, alone with processes that do nothing, and with whole gateways."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from ndcass.server import workers
from ndcass.server.workers import Supervisor, WorkersFailed
from tests.processes import guarded_group

KEY = "0123456789abcdef0123456789abcdef01234567"
SPAWN = multiprocessing.get_context("spawn")


def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


class Gateway:
    """A running gateway."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request with the admin's key; `Any` is whatever requests takes."""
        headers = {"Authorization": f"Token {KEY}", **options.pop("headers", {})}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **options)

    def is_ready(self) -> bool:
        assert self.process.poll() is None, f"the gateway ended with {self.process.returncode}"
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except (requests.ConnectionError, requests.Timeout):  # the workers are still starting
            return False


def command(folder: Path, port: int, *, workers: int = 1) -> list[str]:
    """The command line of a gateway."""
    line = [sys.executable, "-m", "ndcass.cli.main", "serve", "--data", str(folder)]
    return [*line, "--port", str(port), "--workers", str(workers)]


@contextmanager
def gateway(folder: Path, *, workers: int, conf: Path | None = None) -> Iterator[Gateway]:
    """Start ``ndcass serve`` and end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [*command(folder, port, workers=workers), *(["--conf", str(conf)] if conf else [])],
        env={**os.environ, "NDCASS_ADMIN_TOKEN": KEY},
        start_new_session=True,
    )
    running = Gateway(process, port)
    with guarded_group(process):
        try:
            until(running.is_ready, within_s=60)
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(30)


def worker_pids(running: Gateway) -> set[int]:
    """Processes of the gateway that answer requests."""
    found = set()
    for child in psutil.Process(running.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # which a zombie counts as
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


# -- the supervisor alone


def end_at_once() -> None:
    sys.exit(3)


def end_when_told(ready: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Path(ready, str(os.getpid())).touch()
    time.sleep(60)


def never_end(ready: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_when_told(ready)


def starting(target: Callable[..., None], *args: str) -> Callable[[int], BaseProcess]:
    def start(worker: int) -> BaseProcess:
        process = SPAWN.Process(target=target, args=args)
        process.start()
        return process

    return start


def test_supervisor_gives_up_when_workers_keep_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(workers, "MOST_YOUNG_DEATHS", 3)
    supervisor = Supervisor(starting(end_at_once), count=1, grace_s=5)
    told = []
    with pytest.raises(WorkersFailed, match="3 workers died"):
        supervisor.run(on_stop=lambda: told.append(True))
    assert told == [True]


def signal_when_ready(folder: Path, count: int, *signals: int) -> threading.Thread:
    """Send this process signals once so many workers are ready."""

    def send() -> None:
        until(lambda: len(list(folder.iterdir())) >= count)
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_passes_a_signal_on_and_waits(tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    thread = signal_when_ready(tmp_path, 2, number)
    Supervisor(starting(end_when_told, str(tmp_path)), count=2, grace_s=5).run(on_stop=lambda: None)
    thread.join()
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())
    assert signal.getsignal(number) is before


def test_second_signal_does_not_wait(tmp_path: Path) -> None:
    thread = signal_when_ready(tmp_path, 1, signal.SIGTERM, signal.SIGTERM)
    began = time.monotonic()
    Supervisor(starting(never_end, str(tmp_path)), count=1, grace_s=50).run(on_stop=lambda: None)
    thread.join()
    assert time.monotonic() - began < 30


def test_worker_that_does_not_end_is_killed_after_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "KILL_AFTER_S", 0.1)
    thread = signal_when_ready(tmp_path, 1, signal.SIGTERM)
    Supervisor(starting(never_end, str(tmp_path)), count=1, grace_s=0.2).run(on_stop=lambda: None)
    thread.join()
    assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())


# -- whole gateways


def metric(running: Gateway, name: str) -> int:
    text = requests.get(f"{running.url}/metrics", timeout=10).text
    return sum(int(n) for n in re.findall(rf"^{name}(?:{{[^}}]*}})? (\d+)$", text, re.MULTILINE))


def test_worker_that_dies_is_replaced_and_nobody_forgets_what_it_counted(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", workers=2) as running:
        before = worker_pids(running)
        assert len(before) == 2
        for _ in range(20):
            assert requests.get(f"{running.url}/healthz", timeout=10).status_code == 200
        counted = 'ndcass_requests_total{route="/healthz",method="GET",status="200",format=""}'
        until(lambda: metric(running, re.escape(counted)) >= 20)
        time.sleep(2.5)  # every worker has left its numbers
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(worker_pids(running)) == 2 and not worker_pids(running) & before)
        assert running.request("GET", "/readyz").status_code == 200
        assert metric(running, re.escape(counted)) >= 20


def test_both_workers_answer(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", workers=2) as running:
        seen: set[str] = set()
        for _ in range(200):
            text = requests.get(f"{running.url}/metrics", timeout=10).text
            # The worker that answers counts the request for the metrics itself.
            seen |= set(re.findall(r'in_flight_requests\{worker="(\d)"\} 1', text))
            if len(seen) == 2:
                break
        assert seen == {"0", "1"}


def make_channel(running: Gateway, side: int = 128) -> None:
    """Token `t` with a channel `c` of `side` x `side` x 16 voxels."""
    sizes = {"ximagesize": side, "yimagesize": side, "zimagesize": 16}
    channel = {"channel_name": "c", "channel_type": "image", "channel_datatype": "uint8"}
    for path, body in (
        ("dataset/d/", {"dataset_name": "d", **sizes}),
        ("dataset/d/project/p/", {"project_name": "p"}),
        ("dataset/d/project/p/channel/c/", channel),
        ("dataset/d/project/p/token/t/", {"token_name": "t"}),
    ):
        assert running.request("POST", f"/nd/resource/{path}", json=body).status_code == 201


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_lets_a_request_end(tmp_path: Path, count: int, number: int) -> None:
    with gateway(tmp_path / "data", workers=count) as running:
        make_channel(running)
        going_on, told = threading.Event(), threading.Event()
        answers = []

        def body() -> Iterator[bytes]:
            yield bytes(128 * 128 * 8)
            going_on.set()
            assert told.wait(20)
            yield bytes([1]) * (128 * 128 * 8)

        def post() -> None:
            path = "/nd/sd/t/c/raw/0/0,128/0,128/0,16/"
            headers = {"X-Volume-Dtype": "|u1"}
            answers.append(running.request("POST", path, data=body(), headers=headers))

        thread = threading.Thread(target=post)
        thread.start()
        assert going_on.wait(20)
        # Two: this one and the one that asks. What no worker has let in yet goes with the socket.
        until(lambda: metric(running, "ndcass_in_flight_requests") > 1)
        running.process.send_signal(number)
        time.sleep(0.5)
        told.set()
        thread.join(30)
        assert [answer.text for answer in answers] == ["Success"]
        assert running.process.wait(30) == 0


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size_bytes", [128 * 128 * 16, 1024 * 1024 * 16], ids=["small", "large"])
def test_a_client_that_sends_no_more_does_not_hold_up_the_end(
    tmp_path: Path, count: int, size_bytes: int
) -> None:
    """A worker that is killed would not have let go of its segments."""
    conf = tmp_path / "gateway.yaml"
    conf.write_text("server: {shutdown_grace_s: 0.5}")
    side = {128 * 128 * 16: 128, 1024 * 1024 * 16: 1024}[size_bytes]
    with gateway(tmp_path / "data", workers=count, conf=conf) as running:
        make_channel(running, side)
        with socket.create_connection(("127.0.0.1", running.port)) as client:
            head = (
                f"POST /nd/sd/t/c/raw/0/0,{side}/0,{side}/0,16/ HTTP/1.1\r\nHost: x\r\n"
                f"Authorization: Token {KEY}\r\nX-Volume-Dtype: |u1\r\n"
                f"Content-Length: {size_bytes}\r\n\r\n"
            )
            client.sendall(head.encode() + bytes(size_bytes // 2))
            until(lambda: metric(running, "ndcass_in_flight_requests") > 1)
            began_s = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(30) == 0
            assert time.monotonic() - began_s < workers.KILL_AFTER_S


def test_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    with gateway(tmp_path / "data", workers=2) as running:
        pids = worker_pids(running)
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait(10)
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_port_that_is_taken_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            command(tmp_path / "data", port),
            env={**os.environ, "NDCASS_ADMIN_TOKEN": KEY},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert ended.returncode == 1
    assert f"port {port}: Address already in use" in ended.stderr
    assert "Traceback" not in ended.stderr
