"""What a whole gateway survives: kills, full disks, two of them, slow and vanished clients."""

import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from tests.processes import KEY, Gateway, gateway

Voxels = npt.NDArray[Any]

SIZE = (256, 512, 512)


def raw_path(box: str, t: int = 0) -> str:
    return f"/nd/sd/t/c/raw/0/{box}/{t},{t + 1}/"


WHOLE = "0,512/0,512/0,256"


def random_voxels(seed: int, shape: tuple[int, ...] = SIZE) -> Voxels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def post(running: Gateway, path: str, voxels: Voxels, *, write: str = "merge") -> tuple[int, str]:
    answer = running.request(
        "POST",
        f"{path}?write={write}",
        data=voxels.tobytes(),
        headers={"X-Volume-Dtype": "|u1"},
    )
    return answer.status_code, answer.text


def read(running: Gateway, path: str, shape: tuple[int, ...]) -> Voxels:
    answer = running.request("GET", path)
    assert answer.status_code == 200, answer.text
    return np.frombuffer(answer.content, dtype=np.uint8).reshape(shape)


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.06])
def test_kill_9_during_a_post_keeps_what_was_acknowledged_and_tears_nothing(
    tmp_path: Path, delay_s: float
) -> None:
    first, second = random_voxels(1), random_voxels(2)
    with gateway(tmp_path / "data", workers=2) as running:
        running.create_channel(size_zyx=SIZE)
        assert post(running, raw_path(WHOLE), first, write="replace") == (200, "Success")
        assert post(running, raw_path(WHOLE, t=1), first, write="replace") == (200, "Success")
        acknowledged: list[int] = []

        def overwrite() -> None:
            try:
                status, _ = post(running, raw_path(WHOLE), second, write="replace")
            except OSError:  # requests' errors are some of them
                return
            acknowledged.append(status)

        writer = threading.Thread(target=overwrite)
        writer.start()
        time.sleep(delay_s)
        running.kill_all()
        writer.join(60)
    with gateway(tmp_path / "data", workers=2) as running:
        found = read(running, raw_path(WHOLE), SIZE)
        for z in range(0, 256, 16):
            for y in range(0, 512, 128):
                for x in range(0, 512, 128):
                    cuboid = np.s_[z : z + 16, y : y + 128, x : x + 128]
                    old = np.array_equal(found[cuboid], first[cuboid])
                    new = np.array_equal(found[cuboid], second[cuboid])
                    assert old or new, f"the cuboid at {z},{y},{x} is torn"
                    assert new or not acknowledged, "an acknowledged cuboid is gone"
        assert np.array_equal(read(running, raw_path(WHOLE, t=1), SIZE), first)


def test_a_full_disk_is_an_error_and_the_old_voxels_stay(tmp_path: Path) -> None:
    # A segment grows by 64 MiB: with this limit the first body fits, the second does not.
    data = tmp_path / "data"
    small = (64, 512, 512)
    before = random_voxels(1, small)
    with gateway(data, file_limit_bytes=70 << 20) as running:
        running.create_channel(size_zyx=SIZE)
        assert post(running, raw_path("0,512/0,512/0,64"), before)[0] == 200
        status, text = post(running, raw_path(WHOLE), random_voxels(2), write="replace")
        assert status == 507
        assert "space" in text
        assert np.array_equal(read(running, raw_path("0,512/0,512/0,64"), small), before)
        assert not read(running, raw_path("0,512/0,512/64,256"), (192, 512, 512)).any()
        assert running.request("GET", "/healthz").status_code == 200
    with gateway(data) as running:
        assert np.array_equal(read(running, raw_path("0,512/0,512/0,64"), small), before)
        assert post(running, raw_path(WHOLE), random_voxels(2), write="replace")[0] == 200


_WRITER = textwrap.dedent(
    """
    import json, sys
    import numpy as np, requests
    url, key, number, log = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    rng = np.random.default_rng(number)
    done = []
    with requests.Session() as session:
        for turn in range(30):
            z, y, x = (int(rng.integers(0, n)) for n in (25, 150, 150))
            d, h, w = (int(rng.integers(1, n)) for n in (20, 110, 110))
            # Each writer owns the voxels whose coordinates add up to its parity.
            zz, yy, xx = np.ogrid[z : z + d, y : y + h, x : x + w]
            voxels = np.where((zz + yy + xx) % 2 == number % 2, number * 40 + turn + 1, 0)
            path = f"/nd/sd/t/c/raw/0/{x},{x + w}/{y},{y + h}/{z},{z + d}/0,1/"
            answer = session.post(
                url + path,
                data=voxels.astype(np.uint8).tobytes(),
                headers={"Authorization": f"Token {key}", "X-Volume-Dtype": "|u1"},
                timeout=60,
            )
            assert answer.status_code == 200, answer.text
            done.append([z, y, x, d, h, w, number * 40 + turn + 1])
    with open(log, "w") as file:
        json.dump(done, file)
    """
)


def test_two_gateways_with_overlapping_unaligned_writes_lose_no_voxel(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shape = (45, 260, 260)
    with gateway(data, workers=1) as one, gateway(data, workers=2) as other:
        one.create_channel(size_zyx=shape)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, url, KEY, str(n), str(tmp_path / f"{n}.json")]
            )
            for n, url in enumerate((one.url, other.url))
        ]
        assert [writer.wait(100) for writer in writers] == [0, 0]
        found = read(one, raw_path("0,260/0,260/0,45"), shape)
    model = np.zeros(shape, dtype=np.uint8)
    for number in range(2):
        for z, y, x, d, h, w, value in json.loads((tmp_path / f"{number}.json").read_text()):
            zz, yy, xx = np.ogrid[z : z + d, y : y + h, x : x + w]
            box = model[z : z + d, y : y + h, x : x + w]
            box[(zz + yy + xx) % 2 == number % 2] = value
    assert np.array_equal(found, model)


def test_a_client_that_vanishes_gives_its_memory_back(tmp_path: Path) -> None:
    with gateway(tmp_path / "data") as running:
        running.create_channel(size_zyx=(1024, 1024, 1024))
        port = int(running.url.rsplit(":", 1)[1])

        def vanish() -> None:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                path = raw_path("0,1024/0,1024/0,1024")
                head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {KEY}\r\n\r\n"
                connection.sendall(head.encode())
                connection.recv(1 << 16)

        vanish()
        time.sleep(0.5)
        before = psutil.Process(running.process.pid).memory_info().rss
        for _ in range(20):
            vanish()
        deadline = time.monotonic() + 20
        while (
            'ndcass_in_flight_bytes{worker="0"} 0\n' not in running.request("GET", "/metrics").text
        ):
            assert time.monotonic() < deadline, running.request("GET", "/metrics").text
            time.sleep(0.2)
        grown = psutil.Process(running.process.pid).memory_info().rss - before
        assert grown < 64 << 20


def test_a_slow_client_gets_every_voxel_while_others_are_answered(tmp_path: Path) -> None:
    # The gateway's buffers take turns: one that was refilled before it was sent would show here.
    voxels = random_voxels(3)
    with gateway(tmp_path / "data") as running:
        running.create_channel(size_zyx=SIZE)
        assert post(running, raw_path(WHOLE), voxels, write="replace")[0] == 200
        port = int(running.url.rsplit(":", 1)[1])
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", port))
            head = f"GET {raw_path(WHOLE)} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {KEY}\r\n"
            connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
            received = bytearray()
            while chunk := connection.recv(1 << 16):
                received += chunk
                if len(received) % 37 == 0:
                    time.sleep(0.002)
                    assert running.request("GET", "/healthz").status_code == 200
        _, _, body = bytes(received).partition(b"\r\n\r\n")
        assert body == voxels.tobytes()
