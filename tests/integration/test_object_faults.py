"""Objects of a gateway that is killed: whole or not there, and the commands that check prove it."""

import contextlib
import itertools
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import requests

from tests.annotated import block, contents, object_file
from tests.processes import Gateway, environment, gateway, run_command

SIZE_ZYX = (20, 200, 300)
BOX = "0,300/0,200/0,20"
# Of an object: no two share a voxel, many share a cuboid, and some lie in four of them.
SHAPE_ZYX = (9, 7, 7)
PLACES = list(itertools.product(range(2), range(25), range(37)))
SYNAPSE = 2

WHOLE, GONE = "whole", "gone"
# Where the gateway dies while it makes objects, and what is left of those that it makes.
MOMENTS = {
    "ids claimed, nothing noted": ("ndcass.object_writes:make_note:before", GONE),
    "noted, no voxels": ("ndcass.object_writes:annotation.write_object_voxels:before", GONE),
    "index, no voxels": ("ndcass.writer:IndexEntries.append:behind", GONE),
    "voxels, no fields": ("ndcass.object_writes:_put:before", GONE),
    "fields, still noted": ("ndcass.object_writes:drop_note:before", WHOLE),
    "fields, not answered": ("ndcass.object_writes:drop_note:behind", WHOLE),
}

engines = pytest.mark.parametrize(
    "engine", ["embedded", pytest.param("cassandra", marks=pytest.mark.cassandra)]
)


class Channel:
    """An annotation channel, and the gateways and commands that work on it."""

    def __init__(self, folder: Path, conf: Path | None) -> None:
        self._folder = folder
        self._conf = conf

    def gateway(self, **options: str) -> contextlib.AbstractContextManager[Gateway]:
        return gateway(self._folder / "data", conf=self._conf, **options)  # type: ignore[arg-type] # `dies_at` only

    def check(self, *words: str) -> tuple[int, dict[str, object]]:
        """How a command that checks ended, and what it printed."""
        store: list[str | Path] = ["--data", self._folder / "data"]
        if self._conf is not None:
            store = ["--conf", self._conf]
        line = [words[0], "check", "t/c", *words[1:], "--json", *store]
        done = run_command(line, cwd=self._folder, env=environment())
        assert done.out, done.err
        return done.code, json.loads(done.out)


def corner_zyx(object_id: int) -> tuple[int, int, int]:
    z, y, x = PLACES[object_id]
    return z * 10 + 1, y * 8, x * 8


def file_of(ids: Iterable[int]) -> bytes:
    return object_file(
        *(
            (
                str(i),
                {
                    "ANNOTATION_TYPE": [SYNAPSE],
                    "METADATA/STATUS": [i % 7],
                    "METADATA/WEIGHT": [i / 8],
                    **block(corner_zyx(i)[::-1], SHAPE_ZYX),
                },
            )
            for i in ids
        )
    )


def post(running: Gateway, ids: Sequence[int]) -> bool:
    """Make objects; whether that was acknowledged."""
    try:
        answer = running.request("POST", "/nd/sd/t/c/", data=file_of(ids))
    except requests.RequestException:
        return False
    assert answer.status_code == 200, answer.text
    # In the order of the groups, which HDF5 sorts as texts.
    assert answer.text == ",".join(sorted(map(str, ids)))
    return True


def delete(running: Gateway, ids: Sequence[int]) -> bool:
    """Delete objects; whether that was acknowledged."""
    try:
        answer = running.request("DELETE", f"/nd/sd/t/c/{','.join(map(str, ids))}/")
    except requests.RequestException:
        return False
    assert answer.status_code == 200, answer.text
    return True


def assert_whole(running: Gateway, ids: Iterable[int], *, read: Iterable[int] = ()) -> None:
    """These objects are there, and nothing else: ids, and voxels as they lie.

    Those of `read` are read one by one, too: their fields, and their voxels by the index.
    """
    expected: npt.NDArray[np.uint32] = np.zeros(SIZE_ZYX, dtype="<u4")
    there = sorted(ids)
    for i in there:
        z, y, x = corner_zyx(i)
        expected[z : z + 9, y : y + 7, x : x + 7] = i
    answer = running.request("GET", "/nd/sd/t/c/query/")
    assert contents(answer.content).get("ANNOIDS", []) == there
    cutout = running.request("GET", f"/nd/sd/t/c/raw/0/{BOX}/")
    found = np.frombuffer(cutout.content, "<u4").reshape(SIZE_ZYX)
    assert np.array_equal(found, expected), sorted(set(np.unique(found).tolist()) ^ {0, *there})
    shown = sorted(read)
    if not shown:
        return
    answer = running.request("GET", f"/nd/sd/t/c/{','.join(map(str, shown))}/voxels/0/")
    assert answer.status_code == 200, answer.text
    members = contents(answer.content)
    for i in shown:
        assert members[f"{i}/METADATA/STATUS"] == [i % 7]
        assert members[f"{i}/METADATA/WEIGHT"] == [i / 8]
        z, y, x = corner_zyx(i)
        voxels = itertools.product(range(x, x + 7), range(y, y + 7), range(z, z + 9))
        assert sorted(map(tuple, members[f"{i}/VOXELS"])) == list(voxels)


def assert_proven(channel: Channel) -> None:
    """The commands find nothing that is not whole."""
    code, found = channel.check("objects", "--voxels")
    assert (code, found["under_way"], found["left_behind"], found["strays"]) == (0, 0, 0, 0)
    code, found = channel.check("index")
    assert (code, found["missing"]) == (0, 0)


@engines
@pytest.mark.parametrize("moment", MOMENTS)
def test_objects_are_whole_or_not_there_after_a_kill_at_any_moment_of_their_making(
    tmp_path: Path, conf_of: Callable[[str], Path | None], engine: str, moment: str
) -> None:
    place, outcome = MOMENTS[moment]
    channel = Channel(tmp_path, conf_of(engine))
    with channel.gateway(dies_at=f"{place}:3") as running:
        running.create_channel(
            size_zyx=SIZE_ZYX, channel_type="annotation", channel_datatype="uint32"
        )
        assert post(running, [1, 2, 15])
        assert post(running, [40])
        assert not post(running, [3, 16, 700])
        assert running.process.wait(30) == -signal.SIGKILL
    dead = {3, 16, 700} if outcome == WHOLE else set[int]()
    noted = moment not in ("ids claimed, nothing noted", "fields, not answered")
    with channel.gateway() as running:
        # Before anybody settles it, readers of objects meet none of the half ones.
        answer = running.request("GET", "/nd/sd/t/c/query/")
        assert contents(answer.content)["ANNOIDS"] == sorted({1, 2, 15, 40} | dead)
        code, found = channel.check("objects", "--older-than", "0")
        assert (code, found["ids"]) == ((1, [3, 16, 700]) if noted else (0, []))
        code, found = channel.check("objects", "--older-than", "0", "--settle")
        assert (code, found["settled"]) == (0, int(noted))
        assert_proven(channel)
        assert_whole(running, {1, 2, 15, 40} | dead, read={1, 2, 15, 40} | dead)
        if noted:  # the ids of the others are free again when their claims end
            assert delete(running, [3, 16, 700])
            assert post(running, [3, 16, 700])
            assert_whole(running, {1, 2, 15, 40, 3, 16, 700}, read=[3, 16, 700])


class Clients:
    """Some threads that make objects, and delete old ones, until nobody answers.

    Each has ids of its own, and none that was tried before: a claim of a dead gateway lasts.
    """

    def __init__(self, running: Gateway, shares: Sequence[list[int]], old: list[int]) -> None:
        self.made: set[int] = set()
        self.deleted: set[int] = set()
        self.tried: set[int] = set()
        self._running = running
        self._threads = [
            threading.Thread(target=self._work, args=(share, old[number :: len(shares)]))
            for number, share in enumerate(shares)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, share: list[int], old: list[int]) -> None:
        for first in range(0, len(share), 3):
            batch = share[first : first + 3]
            self.tried.update(batch)
            if not post(self._running, batch):
                return
            self.made.update(batch)
            if old:
                victim = old.pop()
                self.tried.add(victim)
                if not delete(self._running, [victim]):
                    return
                self.deleted.add(victim)

    def await_answer(self) -> None:
        """Wait until something was acknowledged."""
        deadline_s = time.monotonic() + 60
        while not self.made and any(thread.is_alive() for thread in self._threads):
            assert time.monotonic() < deadline_s, "nothing was acknowledged"
            time.sleep(0.01)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(100)
            assert not thread.is_alive()


@pytest.mark.timeout(300)
@engines
def test_what_clients_made_and_deleted_is_whole_after_kills_at_random(
    tmp_path: Path, conf_of: Callable[[str], Path | None], engine: str
) -> None:
    chance = random.Random(6)
    channel = Channel(tmp_path, conf_of(engine))
    ids = [list(range(first, 900, 4)) for first in range(1, 5)]
    there: set[int] = set()
    for turn in range(2):
        with channel.gateway() as running:
            if turn == 0:
                running.create_channel(
                    size_zyx=SIZE_ZYX, channel_type="annotation", channel_datatype="uint32"
                )
            shares = [of_client[60 * turn :][:60] for of_client in ids]
            clients = Clients(running, shares, sorted(there))
            clients.await_answer()
            time.sleep(chance.uniform(0.0, 1.3))
            running.kill_all()
            clients.join()
        with channel.gateway() as running:
            code, found = channel.check("objects", "--older-than", "0", "--settle")
            assert code == 0, found
            answer = running.request("GET", "/nd/sd/t/c/query/")
            found_ids = set(contents(answer.content).get("ANNOIDS", []))
            # What was acknowledged holds; what was under way is there or not.
            assert clients.made <= found_ids
            assert not clients.deleted & found_ids
            assert found_ids - clients.tried == there - clients.tried
            assert_whole(running, found_ids, read=clients.tried & found_ids)
            there = found_ids
            assert_proven(channel)
        assert clients.made, "the gateway was killed before anything happened"
