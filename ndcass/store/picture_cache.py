"""Pictures that were drawn before, in files that the processes of a machine share.

A picture is kept under a key, which says all that was asked for, with the versions of the cuboids
that it was made of. Whoever asks says which versions are stored now; a picture of other ones is not
given out, so nothing has to be told when voxels change, and nothing old is ever seen.

Files and no database: a picture is written aside and renamed, so that a process that is killed
leaves no half of one, and what else may be wrong with a file (a full disk, a fault of it, somebody
else's) is found by its checksum and is a picture that is not there. Nothing in here fails a
request. There are several folders, so that none becomes very large; each has its share of the
space, and its oldest files go when that is used up.
"""

import contextlib
import fcntl
import itertools
import logging
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, Self

from crc32c import crc32c

from ndcass.shared_calls import Aside
from ndcass.store.base import VERSIONS_BYTES

log = logging.getLogger(__name__)

KEY_BYTES = 16
FOLDERS = 16
# A folder is looked through when this share of its space was added to it by one process, and is
# emptied down to `KEPT` of it: with up to 16 processes the limit holds.
LOOK_SHARE = 1 / 64
KEPT = 3 / 4
# The largest picture, as a share of a folder's space and in bytes: a few must not push out all
# others, and who asks has not set memory aside for it.
LARGEST_SHARE = 1 / 8
LARGEST_BYTES = 8 << 20
# Pictures that wait to be written; a disk that is slower than they are drawn keeps fewer.
WAITING_BYTES = 32 << 20
# The store needs room more than the cache does: with less free space than this nothing is kept.
KEEP_FREE_BYTES = 1 << 30
# Who writes a file takes milliseconds; an older one was left behind.
LEFT_OVER_S = 60.0
# How often it is said that the cache cannot be written.
LOG_INTERVAL_S = 60.0

_MAGIC = b"ndcpic1\n"
# Key, versions, checksum over both and the picture.
_HEADER = struct.Struct(f"<8s{KEY_BYTES}s{VERSIONS_BYTES}sI")
_PICTURE = re.compile(r"[0-9a-f]{32}")
_UNFINISHED = re.compile(r"[0-9a-f]{32}\.[0-9]+-[0-9]+\.new")


class _File(NamedTuple):
    """A file of the cache: oldest first in their order."""

    written_s: float
    name: str
    size_bytes: int
    is_unfinished: bool


def key_of(asked: object) -> bytes:
    """A key from whatever says, by its `repr`, all that was asked for."""
    return blake2b(repr(asked).encode(), digest_size=KEY_BYTES).digest()


class PictureCache:
    """Pictures by key and versions. All methods but `keep` block on files, from whichever thread.

    Attributes
    ----------
    counts : Counter
        Hits, misses, pictures kept and dropped, damaged files, writes that failed.
    """

    def __init__(
        self, folder: Path, *, limit_bytes: int, keep_free_bytes: int = KEEP_FREE_BYTES
    ) -> None:
        self._folder = folder
        self._share_bytes = limit_bytes // FOLDERS
        self._largest_bytes = min(int(self._share_bytes * LARGEST_SHARE), LARGEST_BYTES)
        self._keep_free_bytes = keep_free_bytes
        self._added: dict[str, int] = {}  # by folder, since this process looked through it
        self._numbers = itertools.count()
        self._silent_until_s = 0.0
        self._aside = Aside(WAITING_BYTES)
        self.counts: Counter[str] = Counter()

    @classmethod
    def open(
        cls, folder: Path, *, limit_bytes: int, keep_free_bytes: int = KEEP_FREE_BYTES
    ) -> Self | None:
        """The cache in a folder, made if absent; None, and a line in the log, if that cannot be."""
        try:
            for name in _folder_names():
                (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            log.warning("no tile cache: its folder cannot be made: %s", error.strerror)
            return None
        return cls(folder, limit_bytes=limit_bytes, keep_free_bytes=keep_free_bytes)

    def get(self, key: bytes, versions: bytes) -> bytes | None:
        """The picture, if it is there and was made of what is stored now."""
        path = self._path(key)
        try:
            content = self._content(path)
        except OSError:
            self.counts["pictures_missed"] += 1
            return None
        kept_versions, picture = _unpacked(content, key)
        if picture is None:
            self.counts["pictures_damaged"] += 1
            with contextlib.suppress(OSError):
                path.unlink()
        elif kept_versions == versions:
            self.counts["pictures_hit"] += 1
            return picture
        self.counts["pictures_missed"] += 1
        return None

    def keep(self, key: bytes, versions: bytes, picture: bytes) -> None:
        """Have a picture put in a moment, without waiting for the disk; or not, if that is slow."""
        if not self._aside.offer(len(picture), partial(self.put, key, versions, picture)):
            self.counts["pictures_not_written"] += 1

    def settle(self) -> None:
        """Wait until all that was kept is on disk."""
        self._aside.settle()

    def close(self) -> None:
        """Let go of the thread that writes."""
        self._aside.close()

    def put(self, key: bytes, versions: bytes, picture: bytes) -> None:
        """Keep a picture, as far as there is room; any failure is only counted and logged."""
        path = self._path(key)
        size = _HEADER.size + len(picture)
        if size > self._largest_bytes:
            return
        try:
            if not self._has_room(path.parent, size):
                return
            self._write(path, _packed(key, versions, picture))
        except OSError as error:
            self.counts["pictures_not_written"] += 1
            self._complain(error)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self._folder / name[0] / name

    def _content(self, path: Path) -> bytes:
        """All of a file; nothing if it is larger than any that was put."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size > self._largest_bytes:
                return b""
            return os.read(fd, size + 1)
        finally:
            os.close(fd)

    def _write(self, path: Path, content: bytes) -> None:
        new = path.with_name(f"{path.name}.{os.getpid()}-{next(self._numbers)}.new")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(content)
                while view:
                    view = view[os.write(fd, view) :]
            finally:
                os.close(fd)
            new.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
        self.counts["pictures_kept"] += 1

    # -- room

    def _has_room(self, folder: Path, size: int) -> bool:
        """Whether a file may be added, perhaps after old ones went."""
        is_low = _free_bytes(folder) < self._keep_free_bytes + size
        added = self._added.get(folder.name)
        if is_low or added is None or added + size > self._share_bytes * LOOK_SHARE:
            self._added[folder.name] = added = 0
            self._drop_old(folder, 0 if is_low else int(self._share_bytes * KEPT) - size)
        self._added[folder.name] = added + size
        return not is_low

    def _drop_old(self, folder: Path, most_bytes: int) -> None:
        """Delete the oldest files beyond so many bytes; leave it to another who does so already."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                files = sorted(_files(folder))
                excess = sum(file.size_bytes for file in files) - max(0, most_bytes)
                left_over_s = time.time() - LEFT_OVER_S
                for file in files:
                    old = file.is_unfinished and file.written_s < left_over_s
                    if not old and (excess <= 0 or file.is_unfinished):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        (folder / file.name).unlink()
                    excess -= file.size_bytes
                    self.counts["pictures_dropped"] += 1
        finally:
            os.close(fd)

    def _complain(self, error: OSError) -> None:
        """Say so, but not with every request."""
        now_s = time.monotonic()
        if now_s < self._silent_until_s:
            return
        self._silent_until_s = now_s + LOG_INTERVAL_S
        log.warning("the tile cache cannot be written: %s", error.strerror)
        with contextlib.suppress(OSError):  # somebody may have removed the folders
            for name in _folder_names():
                (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)


def _folder_names() -> list[str]:
    return [f"{number:x}" for number in range(FOLDERS)]


def _files(folder: Path) -> Iterator[_File]:
    """The files that are ours; what else may be in the folder is left alone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            is_unfinished = _UNFINISHED.fullmatch(entry.name) is not None
            if not is_unfinished and not _PICTURE.fullmatch(entry.name):
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = entry.stat(follow_symlinks=False)
                # What it takes of the disk, in blocks.
                yield _File(stat.st_mtime, entry.name, stat.st_blocks * 512, is_unfinished)


def _free_bytes(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _packed(key: bytes, versions: bytes, picture: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, key, versions, _checksum(key, versions, picture)) + picture


def _unpacked(content: bytes, key: bytes) -> tuple[bytes, bytes | None]:
    """Versions and picture of a file; no picture if it is damaged, or another one's."""
    if len(content) < _HEADER.size:
        return b"", None
    magic, kept_key, versions, checksum = _HEADER.unpack_from(content)
    picture = content[_HEADER.size :]
    if magic != _MAGIC or kept_key != key or _checksum(key, versions, picture) != checksum:
        return b"", None
    return versions, picture


def _checksum(key: bytes, versions: bytes, picture: bytes) -> int:
    return int(crc32c(picture, crc32c(versions, crc32c(key))))
