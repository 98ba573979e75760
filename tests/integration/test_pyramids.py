"""Pyramids while workers are killed and voxels are written: never silently old."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import requests
from PIL import Image

from ndcass.downsample import Rule
from ndcass.geometry import Box, text_xyz
from ndcass.model import Channel, Dataset
from ndcass.pyramid import stages
from tests.processes import Gateway, gateway
from tests.pyramids import recomputed

Voxels = npt.NDArray[Any]

DATASET = Dataset(
    "d", ximagesize=1024, yimagesize=1024, zimagesize=128, user=1, scalinglevels=3, zvoxelres=0.4
)
CHANNEL = Channel(1, "p", "c", "image", "uint8")
WHOLE = Box((0, 0, 0), (128, 1024, 1024))
# Its worker was killed: another takes the job over when the lease has run out.
BUILD_TIMEOUT_S = 120
# A writer has a row of these to itself: as large as a voxel of the coarsest level, and more.
BLOCK = 64
WRITERS = 3
STRESS_S = 8.0


def path_of(level: int, box: Box, options: str = "") -> str:
    return f"/nd/sd/t/c/raw/{level}/{text_xyz(box)}/{options}"


def write(running: Gateway, box: Box, voxels: Voxels) -> int:
    headers = {"X-Volume-Dtype": "|u1"}
    path = path_of(0, box) + "?write=replace"
    return running.request("POST", path, data=voxels.tobytes(), headers=headers).status_code


def read(running: Gateway, level: int, box: Box, options: str = "") -> tuple[Voxels, str | None]:
    """Voxels of a level, and whether they are fresh."""
    answer = running.request("GET", path_of(level, box, options))
    assert answer.status_code == 200, answer.text
    voxels = np.frombuffer(answer.content, dtype=np.uint8).reshape(box.shape_zyx)
    return voxels, answer.headers.get("X-Volume-Fresh")


def fields_of(dataset: Dataset) -> dict[str, Any]:
    """What a client posts."""
    fields = dataset.to_json()
    del fields["user"]
    return fields


def make_volume(running: Gateway) -> None:
    running.create("dataset/d/", **fields_of(DATASET))
    running.create("dataset/d/project/p/", project_name="p")
    channel = {"channel_type": "image", "channel_datatype": "uint8"}
    running.create("dataset/d/project/p/channel/c/", channel_name="c", **channel)
    running.create("dataset/d/project/p/token/t/", token_name="t")


def state(running: Gateway) -> str:
    return running.request("GET", "/nd/sd/t/c/getPropagate/").text


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BUILD_TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def stale_cuboids(running: Gateway) -> int:
    levels = running.request("GET", "/nd/sd/t/c/freshness/").json()["levels"]
    return sum(level["stale_cuboids"] for level in levels)


def check_every_level(running: Gateway) -> None:
    """Each is what all of the base makes of it."""
    base, _ = read(running, 0, WHOLE)
    expected = recomputed(base, DATASET.geometry, CHANNEL, Rule.NEAREST)
    assert [s.neariso for s in stages(DATASET.geometry, 0)].count(True) == 3
    for stage, voxels in expected.items():
        z, y, x = stage.size_zyx
        options = "neariso/" if stage.neariso else ""
        found, fresh = read(running, stage.level.level, Box((0, 0, 0), (z, y, x)), options)
        assert fresh == "true"
        assert np.array_equal(found, voxels), f"level {stage.level.level} {options}"


def kill_workers(running: Gateway) -> None:
    """Those that serve; the supervisor starts others."""
    killed = 0
    for child in psutil.Process(running.process.pid).children(recursive=True):
        if any("spawn_main" in word for word in child.cmdline()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
                killed += 1
    assert killed == 2


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Gateway]:
    with gateway(tmp_path / "data", workers=2) as started:
        make_volume(started)
        rng = np.random.default_rng(1)
        voxels = rng.integers(0, 256, WHOLE.shape_zyx, dtype=np.uint8)
        assert write(started, WHOLE, voxels) == 200
        yield started


@pytest.mark.timeout(300)
def test_a_build_whose_worker_is_killed_ends_whole(running: Gateway) -> None:
    assert running.request("GET", "/nd/sd/t/c/setPropagate/1/").status_code == 200
    time.sleep(0.15)
    kill_workers(running)

    def is_built() -> bool:
        with contextlib.suppress(requests.ConnectionError):  # workers that are killed just now
            if state(running) == "2":
                return True
            corner = Box((0, 0, 0), (1, 1, 1))
            assert read(running, 3, corner)[1] == "false" or state(running) == "2"
            refused = write(running, corner, np.ones((1, 1, 1), np.uint8)) == 404
            assert refused or state(running) == "2"  # it may have been built just now
        return False

    wait_until(is_built)
    wait_until(lambda: not stale_cuboids(running))
    check_every_level(running)


def uniform_rows(running: Gateway, writer: int, until_s: float, wrong: list[str]) -> None:
    """Write blocks of one value, and look at once what the levels above make of them."""
    rng = np.random.default_rng(writer)
    y = BLOCK * writer
    while time.monotonic() < until_s:
        x, z = (BLOCK * int(rng.integers(0, n)) for n in (1024 // BLOCK, 128 // BLOCK))
        value = int(rng.integers(1, 256))
        block = Box((z, y, x), (z + BLOCK, y + BLOCK, x + BLOCK))
        try:
            if write(running, block, np.full(block.shape_zyx, value, np.uint8)) != 200:
                continue
            for level in (1, 3):
                factor = 1 << level
                box = Box(
                    (z, y // factor, x // factor),
                    (z + 1, (y + BLOCK) // factor, (x + BLOCK) // factor),
                )
                voxels, fresh = read(running, level, box)
                if fresh == "true" and not (voxels == value).all():
                    wrong.append(f"{box} of level {level} is said to be fresh")
        except requests.RequestException:  # a worker that was killed
            continue


@pytest.mark.timeout(300)
def test_edits_are_seen_or_said_to_be_missing_whoever_dies(running: Gateway) -> None:
    assert running.request("GET", "/nd/sd/t/c/setPropagate/1/").status_code == 200
    wait_until(lambda: state(running) == "2")
    wrong: list[str] = []
    until_s = time.monotonic() + STRESS_S
    writers = [
        threading.Thread(target=uniform_rows, args=(running, writer, until_s, wrong))
        for writer in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for _ in range(2):
        time.sleep(STRESS_S / 3)
        kill_workers(running)
    for writer in writers:
        writer.join()
    assert wrong == []
    wait_until(lambda: _quietly(stale_cuboids, running) == 0)
    check_every_level(running)


def _quietly(ask: Callable[[Gateway], int], running: Gateway) -> int:
    """What a gateway answers, or -1 while its workers start."""
    with contextlib.suppress(requests.RequestException):
        return ask(running)
    return -1


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("kind", "channel_type", "datatype", "rule"),
    [("raw", "image", "uint8", Rule.NEAREST), ("labels", "annotation", "uint32", Rule.LABEL)],
)
def test_the_levels_of_a_real_stack_are_right_and_show_edits(
    shared: Path, tmp_path: Path, kind: str, channel_type: str, datatype: str, rule: Rule
) -> None:
    pages = sorted((shared / "data" / "drosophila-vnc" / kind).iterdir())
    voxels = np.stack([np.asarray(Image.open(page)) for page in pages]).astype(datatype)
    z, y, x = voxels.shape
    whole, levels = Box((0, 0, 0), (z, y, x)), 4
    dataset = Dataset("td", x, y, z, user=1, scalinglevels=levels, zvoxelres=10.0)
    channel = Channel(1, "tp", "c", channel_type, datatype)

    def post(box: Box, voxels: Voxels) -> None:
        answer = server.request(
            "POST",
            path_of(0, box) + "?write=replace",
            data=voxels.tobytes(),
            headers={"X-Volume-Dtype": channel.dtype.str},
        )
        assert answer.status_code == 200, answer.text

    def check() -> None:
        """What is read of each level, fresh, is what all of the base makes of it."""
        for stage, expected in recomputed(voxels, dataset.geometry, channel, rule).items():
            box = Box((0, 0, 0), stage.size_zyx)
            options = "neariso/" if stage.neariso else ""
            answer = server.request("GET", path_of(stage.level.level, box, options))
            assert answer.headers["X-Volume-Fresh"] == "true"
            found = np.frombuffer(answer.content, dtype=channel.dtype).reshape(box.shape_zyx)
            assert np.array_equal(found, expected), stage.level.level

    with gateway(tmp_path / "data", workers=2) as server:
        server.create("dataset/td/", **fields_of(dataset))
        server.create("dataset/td/project/tp/", project_name="tp")
        fields = {"channel_type": channel_type, "channel_datatype": datatype}
        server.create("dataset/td/project/tp/channel/c/", channel_name="c", **fields)
        server.create("dataset/td/project/tp/token/t/", token_name="t")
        post(whole, voxels)
        assert server.request("GET", "/nd/sd/t/c/setPropagate/1/").status_code == 200
        wait_until(lambda: state(server) == "2")
        check()
        edit = Box((6, 300, 400), (9, 420, 555))
        voxels[edit.slices()] = 77
        post(edit, voxels[edit.slices()])
        wait_until(lambda: stale_cuboids(server) == 0)
        check()
