"""Gateways that are killed, that write side by side, and whose clocks differ."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import requests

from ndcass.cli.main import FAILED, main
from ndcass.store.base import CuboidAddress
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.rows import WRITE, unpack_header
from tests.processes import Gateway, environment, shift_clock
from tests.serial import SHAPE_ZYX, Written, inconsistencies, noise
from tests.system import System

pytestmark = pytest.mark.cassandra

Voxels = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[3]
# Cuboids of 2 MiB, so that their rows have several parts.
LARGE_ZYX = (16, 512, 512)
LARGE_CUBOID = (16, 128, 128)
WRITERS = 16
WRITES_EACH = 12
SMALL_ZYX = (8, 64, 64)
SKEW_MS = 100
NOTICED_WITHIN_S = 20.0


def path_of(token: str, shape_zyx: tuple[int, int, int]) -> str:
    z, y, x = shape_zyx
    return f"/nd/sd/{token}/c/raw/0/0,{x}/0,{y}/0,{z}/0,1/"


def post(running: Gateway, path: str, voxels: Voxels) -> requests.Response:
    """Write a box, zeros too."""
    return running.request(
        "POST",
        f"{path}?write=replace",
        data=voxels.tobytes(),
        headers={"X-Volume-Dtype": voxels.dtype.str},
    )


def read(running: Gateway, path: str, like: Voxels) -> Voxels:
    answer = running.request("GET", path)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, dtype=like.dtype).reshape(like.shape)


# -- a gateway that is killed


def large_voxels(seed: int) -> Voxels:
    shape = LARGE_ZYX
    return np.random.default_rng(seed).integers(1, 1 << 63, shape, dtype="<u8")


def test_gateway_killed_during_a_post_leaves_whole_rows_and_the_retry_is_fine(
    system: System,
) -> None:
    path = path_of("killedpost", LARGE_ZYX)
    acknowledged = large_voxels(0)
    with system.gateway() as running:
        running.create_channel(size_zyx=LARGE_ZYX, token="killedpost", channel_datatype="uint64")
        began_s = time.monotonic()
        assert post(running, path, acknowledged).status_code == 200
        takes_s = time.monotonic() - began_s
    cut_short = 0
    for attempt, part in enumerate((0.2, 0.4, 0.6), start=1):
        unknown = large_voxels(attempt)
        with system.gateway() as running:
            if _killed_while_posting(running, path, unknown, after_s=part * takes_s):
                acknowledged = unknown
            else:
                cut_short += 1
        assert headers_without_all_parts(system) == []
        with system.gateway(workers=1) as running:
            found = read(running, path, acknowledged)
            new = [_cuboid_is(found, unknown, at) for at in _cuboids()]
            old = [_cuboid_is(found, acknowledged, at) for at in _cuboids()]
            assert all(a or b for a, b in zip(new, old, strict=True)), "a cuboid is torn"
            assert post(running, path, unknown).status_code == 200
            assert np.array_equal(read(running, path, unknown), unknown)
            acknowledged = unknown
    assert cut_short, "every write was acknowledged before the gateway was killed"


def _killed_while_posting(running: Gateway, path: str, voxels: Voxels, *, after_s: float) -> bool:
    """Kill the gateway while it is sent voxels; whether it acknowledged them before."""
    statuses: list[int] = []

    def send() -> None:
        try:
            statuses.append(post(running, path, voxels).status_code)
        except requests.RequestException:
            return

    sender = threading.Thread(target=send)
    sender.start()
    time.sleep(after_s)
    running.kill_all()
    sender.join(60)
    return statuses == [200]


def _cuboids() -> list[tuple[slice, ...]]:
    (_, height, width), (_, h, w) = LARGE_ZYX, LARGE_CUBOID
    return [np.s_[:, y : y + h, x : x + w] for y in range(0, height, h) for x in range(0, width, w)]


def _cuboid_is(found: Voxels, voxels: Voxels, at: tuple[slice, ...]) -> bool:
    return bool(np.array_equal(found[at], voxels[at]))


def headers_without_all_parts(system: System) -> list[str]:
    """Rows that a reader would find and could not read, of all cuboids at any node."""
    cql = (
        "SELECT channel, pyramid, level, t, bucket, morton, kind, write_id, part, header "
        f"FROM {system.keyspace}.cuboids"
    )

    async def rows(driver: Driver) -> list[tuple[Any, ...]]:
        every = [node.client_address for node in system.nodes.nodes]
        return [row for address in every for row in await driver.run(cql, address=address)]

    parts: dict[tuple[Any, ...], set[int]] = {}
    headers: dict[tuple[Any, ...], bytes] = {}
    for row in system.run(rows):
        key, part, header = row[:-2], row[-2], row[-1]
        parts.setdefault(key, set()).add(part)
        if header is not None:
            headers[key] = header
    torn = []
    for key, header in headers.items():
        channel_id, pyramid, level, t, _, morton, kind, write_id = key
        if kind == WRITE:
            address = CuboidAddress(channel_id, pyramid, level, t, morton)
            head = unpack_header(header, kind=kind, write_id=write_id, address=address)
            if parts[key] != set(range(head.parts)):
                torn.append(f"{address}: {sorted(parts[key])} of {head.parts} parts")
    return torn


# -- gateways side by side


def test_sixteen_processes_through_two_gateways_lose_no_voxel(
    system: System, tmp_path: Path
) -> None:
    with system.gateway() as one, system.gateway() as other:
        one.create_channel(size_zyx=SHAPE_ZYX, token="sixteen", channel_datatype="uint32")
        written = _write_side_by_side((one, other), "sixteen", tmp_path)
        assert len(written) == WRITERS * WRITES_EACH
        path = path_of("sixteen", SHAPE_ZYX)
        found = read(one, path, noise())
        assert np.array_equal(read(other, path, noise()), found)
    assert inconsistencies(found, written) == []


def _write_side_by_side(
    gateways: tuple[Gateway, Gateway], token: str, folder: Path
) -> list[Written]:
    """Let sixteen processes write, half of them through each gateway; what they were told."""
    logs = [folder / f"{number}.jsonl" for number in range(WRITERS)]
    writers: list[subprocess.Popen[bytes]] = []
    try:
        for number, log in enumerate(logs):
            url = f"{gateways[number % 2].url}/nd/sd/{token}/c/raw/0"
            arguments = [url, str(number), str(WRITES_EACH), str(log)]
            command = [sys.executable, "-m", "tests.serial", *arguments]
            writers.append(subprocess.Popen(command, cwd=ROOT, env=environment()))
        assert [writer.wait(200) for writer in writers] == [0] * WRITERS
    finally:
        for writer in writers:
            if writer.poll() is None:
                writer.kill()
                writer.wait(30)
    return [Written.from_json(line) for log in logs for line in log.read_text().splitlines()]


# -- gateways whose clocks differ


@pytest.fixture
def skewed_conf(system: System) -> Iterator[Path]:
    """Settings of gateways whose clocks may differ; those of other tests may not."""
    conf = system.conf(max_clock_skew_ms=SKEW_MS)
    system.change_windows(conf)
    yield conf
    system.change_windows(system.conf())


def test_who_has_other_windows_than_the_gateways_is_refused_by_name(
    system: System, capfd: pytest.CaptureFixture[str]
) -> None:
    with system.gateway() as running:
        running.create_channel(size_zyx=SMALL_ZYX, token="windows")
        conf = system.conf(read_window_s=7.5)
        assert main(["fold", "windows/c", "--conf", str(conf)]) == FAILED

    assert "cassandra.read_window_s is 7.5 here and 60 there" in capfd.readouterr().err


def test_clocks_that_differ_within_the_setting_keep_acknowledged_writes_in_order(
    system: System, skewed_conf: Path, tmp_path: Path
) -> None:
    path = path_of("skewed", SMALL_ZYX)
    shifts = [tmp_path / "ahead", tmp_path / "behind"]
    for shift, sign in zip(shifts, (1, -1), strict=True):
        # The nodes have the right time: each gateway may be as far from it as the setting says.
        shift_clock(shift, sign * SKEW_MS * 8 // 10)
    with (
        system.gateway(conf=skewed_conf, workers=1, clock_shift=shifts[0]) as ahead,
        system.gateway(conf=skewed_conf, workers=1, clock_shift=shifts[1]) as behind,
    ):
        ahead.create_channel(size_zyx=SMALL_ZYX, token="skewed")
        for turn in range(1, 9):
            voxels = np.full(SMALL_ZYX, turn, dtype=np.uint8)
            writer, reader = (ahead, behind) if turn % 2 else (behind, ahead)
            answer = post(writer, path, voxels)
            assert answer.status_code == 200, answer.text
            assert np.array_equal(read(reader, path, voxels), voxels)
            assert np.array_equal(read(writer, path, voxels), voxels)


@pytest.mark.parametrize("shift_ms", [5000, -5000])
def test_gateway_whose_clock_is_off_refuses_to_write_and_says_so(
    system: System, skewed_conf: Path, tmp_path: Path, shift_ms: int
) -> None:
    token = f"off{'ahead' if shift_ms > 0 else 'behind'}"
    path = path_of(token, SMALL_ZYX)
    before, after = (np.full(SMALL_ZYX, value, dtype=np.uint8) for value in (1, 2))
    shift = tmp_path / "shift"
    shift_clock(shift, 0)
    with system.gateway(conf=skewed_conf, workers=1, clock_shift=shift) as running:
        running.create_channel(size_zyx=SMALL_ZYX, token=token)
        assert post(running, path, before).status_code == 200
        shift_clock(shift, shift_ms)
        reason = await_readiness(running, 503)
        assert "clock" in reason, reason
        answer = post(running, path, after)
        assert answer.status_code == 503, answer.text
        assert "clock" in answer.text, answer.text
        assert np.array_equal(read(running, path, before), before)
        shift_clock(shift, 0)
        await_readiness(running, 200)
        assert post(running, path, after).status_code == 200
        assert np.array_equal(read(running, path, after), after)


def await_readiness(running: Gateway, status: int) -> str:
    """Wait until a gateway says that it is ready, or that it is not; the reason that it gives."""
    deadline = time.monotonic() + NOTICED_WITHIN_S
    while True:
        answer = running.request("GET", "/readyz")
        if answer.status_code == status:
            return str(answer.json()["reason"])
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)
