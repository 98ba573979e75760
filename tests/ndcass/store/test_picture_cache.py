"""The cache of pictures: never wrong, never in the way, whatever happens to its files."""

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndcass.store.picture_cache import (
    FOLDERS,
    KEY_BYTES,
    WAITING_BYTES,
    PictureCache,
    key_of,
)
from tests.full_disk import file_size_limit

LIMIT = 64 << 20
OLD = b"o" * 16
NEW = b"n" * 16


@pytest.fixture
def cache(tmp_path: Path) -> PictureCache:
    return opened(tmp_path / "pictures")


def opened(folder: Path, limit: int = LIMIT, *, keep_free: int = 0) -> PictureCache:
    found = PictureCache.open(folder, limit_bytes=limit, keep_free_bytes=keep_free)
    assert found is not None
    return found


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def path_of(folder: Path, key: bytes) -> Path:
    return folder / key.hex()[0] / key.hex()


def picture(number: int, size: int = 5000) -> bytes:
    return random.Random(number).randbytes(size)


def test_a_picture_comes_back_for_its_versions_only(cache: PictureCache) -> None:
    key = key_of("a")
    assert cache.get(key, OLD) is None
    cache.put(key, OLD, picture(1))
    assert cache.get(key, OLD) == picture(1)
    assert cache.get(key, NEW) is None
    assert cache.get(key_of("b"), OLD) is None
    cache.put(key, NEW, picture(2))
    assert cache.get(key, NEW) == picture(2)
    assert cache.get(key, OLD) is None


def test_it_counts_what_it_does(cache: PictureCache) -> None:
    cache.get(key_of("a"), OLD)
    cache.put(key_of("a"), OLD, picture(1))
    cache.get(key_of("a"), OLD)
    expected = {"pictures_missed": 1, "pictures_kept": 1, "pictures_hit": 1}
    assert cache.counts == expected


def test_keys_tell_apart_what_was_asked_for() -> None:
    asked = [("a", 1), ("a", "1"), ("a1",), ("a", 1, None), ("a", 1.0), ["a", 1]]
    assert len({key_of(what) for what in asked}) == len(asked)
    assert all(len(key_of(what)) == KEY_BYTES for what in asked)


def test_a_key_is_the_same_in_every_process() -> None:
    """A name that outlives the process must not depend on how Python hashes texts."""
    code = "from ndcass.store.picture_cache import key_of; print(key_of(('a', 1, None)).hex())"
    for seed in ("1", "2"):
        environ = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == key_of(("a", 1, None)).hex()


def test_another_process_finds_what_was_kept(tmp_path: Path) -> None:
    opened(tmp_path).put(key_of("a"), OLD, picture(1))
    assert opened(tmp_path).get(key_of("a"), OLD) == picture(1)


def test_pictures_are_for_their_owner_only(cache: PictureCache, tmp_path: Path) -> None:
    cache.put(key_of("a"), OLD, picture(1))
    (path,) = files(tmp_path)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def wait_for(blocked: threading.Event) -> None:
    """As long as a test wants, but not for ever."""
    blocked.wait(30)


def test_who_keeps_a_picture_does_not_wait_for_the_disk(cache: PictureCache) -> None:
    blocked = threading.Event()
    cache._aside.offer(0, partial(wait_for, blocked))
    cache.keep(key_of("a"), OLD, picture(1))
    assert cache.get(key_of("a"), OLD) is None
    blocked.set()
    cache.settle()
    assert cache.get(key_of("a"), OLD) == picture(1)
    cache.close()


def test_a_disk_that_is_too_slow_keeps_fewer_pictures(cache: PictureCache) -> None:
    blocked = threading.Event()
    cache._aside.offer(0, partial(wait_for, blocked))
    most = WAITING_BYTES // 400_000
    for number in range(most + 5):
        cache.keep(key_of(number), OLD, picture(number, 400_000))
    blocked.set()
    cache.settle()
    assert cache.counts["pictures_kept"] == most
    assert cache.counts["pictures_not_written"] == 5
    cache.close()


# -- damage


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_a_picture_that_is_not_there(tmp_path: Path, data: st.DataObject) -> None:
    cache = opened(tmp_path)
    key = key_of("a")
    cache.put(key, OLD, picture(1, 60))
    path = path_of(tmp_path, key)
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["flip", "cut", "longer", "noise"]))
    if kind == "flip":
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
    elif kind == "cut":
        damaged = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "longer":
        damaged = bytearray(whole + data.draw(st.binary(min_size=1, max_size=9)))
    else:
        damaged = bytearray(data.draw(st.binary(max_size=200)))
    path.write_bytes(damaged)
    assert cache.get(key, OLD) is None
    assert not path.exists()
    cache.put(key, OLD, picture(2, 60))
    assert cache.get(key, OLD) == picture(2, 60)


def test_a_file_of_another_picture_is_not_given_out(cache: PictureCache, tmp_path: Path) -> None:
    cache.put(key_of("a"), OLD, picture(1))
    path_of(tmp_path / "pictures", key_of("a")).rename(path_of(tmp_path / "pictures", key_of("b")))
    assert cache.get(key_of("b"), OLD) is None


def test_a_file_larger_than_any_picture_is_not_read(cache: PictureCache, tmp_path: Path) -> None:
    path = path_of(tmp_path / "pictures", key_of("a"))
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert cache.get(key_of("a"), OLD) is None
    assert not path.exists()


@pytest.mark.parametrize("kind", ["folder", "link", "fifo", "unreadable"])
def test_what_is_no_file_is_in_nobodys_way(cache: PictureCache, tmp_path: Path, kind: str) -> None:
    path = path_of(tmp_path / "pictures", key_of("a"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    if kind == "folder":
        path.mkdir()
        (path / "x").touch()
    elif kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.touch(mode=0)
    assert cache.get(key_of("a"), OLD) is None
    cache.put(key_of("a"), OLD, picture(1))
    assert cache.get(key_of("a"), OLD) == (None if kind == "folder" else picture(1))
    assert elsewhere.read_text() == "mine"


def test_a_folder_that_is_gone_is_made_again(
    cache: PictureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in sorted((tmp_path / "pictures").rglob("*"), reverse=True):
        path.rmdir()
    cache.put(key_of("a"), OLD, picture(1))
    assert cache.counts["pictures_not_written"] == 1
    assert "cannot be written" in caplog.text
    cache.put(key_of("a"), OLD, picture(1))
    assert cache.get(key_of("a"), OLD) == picture(1)


def test_without_a_folder_there_is_no_cache_and_a_line_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert PictureCache.open(tmp_path / "file" / "pictures", limit_bytes=LIMIT) is None
    assert "no tile cache" in caplog.text


# -- room


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in files(folder))


def test_the_oldest_pictures_go_when_the_room_is_used_up(
    tmp_path: Path,
) -> None:
    limit = FOLDERS << 18
    cache = opened(tmp_path, limit)
    keys = [b"\0" + number.to_bytes(KEY_BYTES - 1, "big") for number in range(200)]  # one folder
    for number, key in enumerate(keys):
        cache.put(key, OLD, picture(number))
        os.utime(path_of(tmp_path, key), (number, number))
        assert on_disk(tmp_path) <= limit / FOLDERS
    left = [number for number, key in enumerate(keys) if cache.get(key, OLD) is not None]
    assert 20 < len(left) < 60
    assert left == list(range(200 - len(left), 200))
    assert cache.counts["pictures_dropped"] == 200 - len(left)


def test_several_processes_together_keep_the_limit(tmp_path: Path) -> None:
    limit = FOLDERS << 18
    caches = [opened(tmp_path, limit) for _ in range(8)]
    for number in range(400):
        caches[number % 8].put(b"\0" + number.to_bytes(15, "big"), OLD, picture(number))
    assert on_disk(tmp_path) <= limit / FOLDERS


def test_a_very_large_picture_does_not_push_out_the_others(tmp_path: Path) -> None:
    cache = opened(tmp_path, FOLDERS << 18)
    cache.put(key_of("a"), OLD, picture(1))
    cache.put(key_of("b"), OLD, picture(2, 1 << 16))
    assert cache.get(key_of("b"), OLD) is None
    assert cache.get(key_of("a"), OLD) == picture(1)


def test_only_its_own_files_are_ever_deleted(tmp_path: Path) -> None:
    cache = opened(tmp_path, FOLDERS << 18)
    theirs = [tmp_path / "0" / name for name in ("notes.txt", "ABC", "0" * 31, "0" * 33, ".x.new")]
    for path in theirs:
        path.write_bytes(bytes(200_000))
        os.utime(path, (1, 1))
    for number in range(100):
        cache.put(b"\0" + number.to_bytes(15, "big"), OLD, picture(number))
    assert cache.counts["pictures_dropped"] > 0
    assert all(path.exists() for path in theirs)


def test_what_a_killed_writer_left_behind_goes(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    left = tmp_path / "0" / f"{'0' * 32}.1-1.new"
    fresh = tmp_path / "0" / f"{'0' * 32}.1-2.new"
    for path in (left, fresh):
        path.write_bytes(bytes(1000))
    os.utime(left, (time.time() - 3600,) * 2)
    cache.put(b"\0" * KEY_BYTES, OLD, picture(1))
    assert not left.exists()
    assert fresh.exists()


def test_a_disk_with_little_room_is_left_to_the_store(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for number in range(20):
        cache.put(b"\0" + number.to_bytes(15, "big"), OLD, picture(number))
    assert len(files(tmp_path)) == 20
    poor = opened(tmp_path, keep_free=1 << 60)
    poor.put(b"\0" + b"x" * 15, OLD, picture(99))
    assert files(tmp_path) == []


def test_a_full_disk_fails_nothing_and_leaves_nothing(
    cache: PictureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(key_of("a"), OLD, picture(1))
    with file_size_limit(3000), caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.put(key_of("a"), NEW, picture(2))
            cache.put(key_of("b"), NEW, picture(3))
        assert cache.get(key_of("a"), OLD) == picture(1)
    assert cache.counts["pictures_not_written"] == 6
    assert caplog.text.count("cannot be written") == 1
    assert len(files(tmp_path)) == 1
    cache.put(key_of("b"), NEW, picture(3))
    assert cache.get(key_of("b"), NEW) == picture(3)


# -- processes

_WRITER = """
import random, sys
from pathlib import Path
from ndcass.store.picture_cache import PictureCache, key_of
cache = PictureCache.open(Path(sys.argv[1]), limit_bytes=int(sys.argv[2]), keep_free_bytes=0)
rng = random.Random(int(sys.argv[3]))
print("ready", flush=True)
for _ in range(int(sys.argv[4])):
    number, turn = rng.randrange(20), rng.randrange(3)
    found = cache.get(key_of(number), bytes([turn]) * 16)
    expected = random.Random(number * 3 + turn).randbytes(20000)
    assert found is None or found == expected, "a wrong picture"
    cache.put(key_of(number), bytes([turn]) * 16, expected)
"""


def writer(folder: Path, seed: int, *, turns: int, limit: int = LIMIT) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(folder), str(limit), str(seed), str(turns)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wrong_pictures(cache: PictureCache) -> list[int]:
    """Those of the writers' pictures that are there and not what they should be."""
    return [
        number
        for number in range(20)
        for turn in range(3)
        if cache.get(key_of(number), bytes([turn]) * 16)
        not in (None, picture(number * 3 + turn, 20000))
    ]


def test_processes_that_write_the_same_pictures_never_see_half_of_one(tmp_path: Path) -> None:
    running = [writer(tmp_path, seed, turns=400, limit=16 << 20) for seed in range(3)]
    for process in running:
        process.communicate(timeout=60)
    assert [process.returncode for process in running] == [0, 0, 0]
    assert wrong_pictures(opened(tmp_path)) == []
    assert not [path for path in files(tmp_path) if path.name.endswith(".new")]


def test_a_process_that_is_killed_leaves_no_half_of_a_picture(tmp_path: Path) -> None:
    for seed in range(4):
        process = writer(tmp_path, seed, turns=10**9)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * (seed + 1))
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        cache = opened(tmp_path)
        assert wrong_pictures(cache) == []
        assert cache.counts["pictures_hit"] > 0
        assert cache.counts["pictures_damaged"] == 0
