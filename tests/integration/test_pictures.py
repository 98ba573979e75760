"""Pictures of running gateways: workers that share a cache, writers, and kills."""

import io
import os
import signal
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import requests
from PIL import Image

from tests.processes import KEY, Gateway, gateway

SIZE = (4, 512, 512)
TILE = "/nd/catmaid/t/c/xy/2/0_0_0.png"
BOX = "/nd/sd/t/c/raw/0/100,300/100,300/2,3/0,1/?write=replace"
READERS = 4
LAST = 40


def write(running: Gateway, value: int) -> None:
    """Fill the box with a value; it is acknowledged when this returns."""
    answer = running.request(
        "POST", BOX, data=bytes([value]) * 40_000, headers={"X-Volume-Dtype": "|u1"}
    )
    assert answer.status_code == 200, answer.text


def shown(answer: requests.Response) -> int:
    """The one value that the box has in a tile."""
    with Image.open(io.BytesIO(answer.content)) as image:
        pixels: npt.NDArray[np.uint8] = np.asarray(image)
    values = np.unique(pixels[100:300, 100:300])
    assert len(values) == 1, "half of a write"
    assert not pixels[:100].any()
    return int(values[0])


class Reader(threading.Thread):
    """Looks at the tile again and again; a new connection each time, so that any worker answers."""

    def __init__(self, running: Gateway, acknowledged: list[int], done: threading.Event) -> None:
        super().__init__()
        self._running = running
        self._acknowledged = acknowledged
        self._done = done
        self._known: dict[str, int] = {}  # what was seen under an ETag
        self.looks = 0
        self.not_modified = 0
        self.wrong = ""

    def run(self) -> None:
        try:
            while not self._done.is_set():
                self._look()
        except AssertionError as error:
            self.wrong = str(error) or "an assertion"

    def _look(self) -> None:
        least = self._acknowledged[-1]
        known = {"If-None-Match": ", ".join(self._known)} if self._known else {}
        try:
            answer = self._running.request("GET", TILE, headers=known)
        except requests.RequestException:
            return  # its worker was killed
        etag = answer.headers["ETag"]
        if answer.status_code == 304:
            self.not_modified += 1
            value = self._known[etag]
        else:
            assert answer.status_code == 200, answer.text
            value = shown(answer)
            assert self._known.setdefault(etag, value) >= value
        self.looks += 1
        assert value >= least, f"{value} was shown after {least} was acknowledged"


def test_no_worker_ever_shows_less_than_was_acknowledged(tmp_path: Path) -> None:
    """Three workers share a cache; one is killed now and then."""
    with gateway(tmp_path / "data", workers=3) as running:
        running.create_channel(size_zyx=SIZE)
        acknowledged = [0]
        done = threading.Event()
        readers = [Reader(running, acknowledged, done) for _ in range(READERS)]
        write(running, 1)
        acknowledged.append(1)
        for reader in readers:
            reader.start()
        try:
            for value in range(2, LAST):
                if value % 15 == 0:
                    workers = psutil.Process(running.process.pid).children()
                    named = [w for w in workers if "spawn_main" in " ".join(w.cmdline())]
                    os.kill(named[0].pid, signal.SIGKILL)
                while True:
                    try:
                        write(running, value)
                        break
                    except requests.RequestException:
                        continue  # indeterminate; the same again
                acknowledged.append(value)
        finally:
            done.set()
            for reader in readers:
                reader.join(60)
        assert [reader.wrong for reader in readers if reader.wrong] == []
        assert sum(reader.looks for reader in readers) > LAST
        assert shown(running.request("GET", TILE)) == LAST - 1


def test_a_killed_gateway_shows_what_was_acknowledged(tmp_path: Path) -> None:
    for value in (1, 2, 3):
        with gateway(tmp_path / "data", workers=2) as running:
            if value == 1:
                running.create_channel(size_zyx=SIZE)
            else:
                assert shown(running.request("GET", TILE)) == value - 1
            write(running, value)
            assert shown(running.request("GET", TILE)) == value
            running.kill_all()
    assert len([path for path in (tmp_path / "data" / "pictures").rglob("*") if path.is_file()]) > 0


def test_a_cache_full_of_garbage_is_no_matter_to_a_gateway(tmp_path: Path) -> None:
    pictures = tmp_path / "data" / "pictures"
    with gateway(tmp_path / "data") as running:
        running.create_channel(size_zyx=SIZE)
        write(running, 7)
        assert shown(running.request("GET", TILE)) == 7
    for path in pictures.rglob("*"):
        if path.is_file():
            path.write_bytes(os.urandom(5000))
    with gateway(tmp_path / "data") as running:
        assert shown(running.request("GET", TILE)) == 7
        assert shown(running.request("GET", TILE)) == 7


def test_a_gateway_without_a_place_for_its_cache_answers_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    conf = tmp_path / "conf.yaml"
    conf.write_text(f"tile_cache: {{folder: {tmp_path / 'file' / 'pictures'}}}\n")
    with gateway(tmp_path / "data", conf=conf) as running:
        running.create_channel(size_zyx=SIZE)
        write(running, 7)
        for _ in range(2):
            answer = requests.get(
                running.url + TILE, headers={"Authorization": f"Token {KEY}"}, timeout=60
            )
            assert shown(answer) == 7
