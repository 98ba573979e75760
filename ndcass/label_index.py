"""The label index as writers feed it: which labels are in the cuboids of a write.

Entries are appended before the voxels, so that the index is a superset whatever dies in between.
Only plain cuboids of annotation channels are indexed; the near-isotropic levels are not.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ndcass.concurrency import run_cpu, run_shares
from ndcass.errors import TooLarge
from ndcass.label_values import Labels, unique_labels
from ndcass.merge import WriteOp
from ndcass.store.base import PLAIN, CuboidAddress, CuboidWrite, LabelIndex

# Ops that put no label anywhere.
_TAKING_AWAY = frozenset({WriteOp.REDUCE, WriteOp.ERASE})
# Labels times cuboids of one write. What has more is noise and no labels.
MOST_ENTRIES = 4 << 20
# Entries that are appended in one go: a transaction of a tenth of a second.
APPENDED_AT_ONCE = 50_000
# Voxels that are worth a thread of their own.
SHARE_BYTES = 2 << 20
# Less than this is looked through on the event loop.
INLINE_BYTES = 64 << 10
INLINE_ENTRIES = 2000
# Entries are appended again if their write took longer than this share of the window.
LATE_SHARE = 0.5


class Noted(NamedTuple):
    """The labels that a write brings into one cuboid."""

    address: CuboidAddress
    labels: Labels


class IndexEntries:
    """What one write adds to the index."""

    def __init__(self, index: LabelIndex) -> None:
        self._index = index
        self._noted: list[Noted] = []
        self._entries = 0
        self._appended_s = 0.0

    async def note(self, writes: Sequence[CuboidWrite]) -> list[CuboidWrite]:
        """Take the labels of some writes to an annotation channel.

        Returns
        -------
        list of CuboidWrite
            The same for the store, with contiguous voxels: both go over them several times.

        Raises
        ------
        TooLarge
            If the write has too many labels.
        """
        size = sum(write.voxels.nbytes for write in writes)
        if size <= INLINE_BYTES:
            shares = [_noted(writes)]
        else:
            shares = await run_shares(_noted, writes, size_bytes=size, share_bytes=SHARE_BYTES)
        for _, noted in shares:
            self._take(noted)
        return [write for share, _ in shares for write in share]

    def _take(self, noted: Sequence[Noted]) -> None:
        self._entries += sum(len(one.labels) for one in noted)
        if self._entries > MOST_ENTRIES:
            raise TooLarge(
                "labels in cuboids", asked=self._entries, limit=MOST_ENTRIES, unit="labels"
            )
        self._noted += noted

    async def append(self) -> None:
        """Make all of it durable; right before the voxels are."""
        self._appended_s = time.monotonic()
        for place, noted in _by_level(self._noted).items():
            if sum(len(one.labels) for one in noted) <= INLINE_ENTRIES:
                groups = entries_of(noted)
            else:
                groups = await run_cpu(entries_of, noted)
            for mortons_of in groups:
                await self._index.append(*place, mortons_of)

    async def append_late(self) -> None:
        """Append again, behind the voxels, what a check may have taken for dead meanwhile."""
        late_s = LATE_SHARE * self._index.window_s
        if self._noted and time.monotonic() - self._appended_s > late_s:
            await self.append()


def _noted(writes: Sequence[CuboidWrite]) -> tuple[list[CuboidWrite], list[Noted]]:
    """The writes with contiguous voxels, and their labels."""
    contiguous: list[CuboidWrite] = []
    noted: list[Noted] = []
    for write in writes:
        if write.address.pyramid == PLAIN and write.op not in _TAKING_AWAY:
            write = write.in_one_piece()
            labels = unique_labels(write.voxels)
            if len(labels):
                noted.append(Noted(write.address, labels))
        contiguous.append(write)
    return contiguous, noted


def _by_level(noted: Sequence[Noted]) -> dict[tuple[int, int, int], list[Noted]]:
    """By channel, level and timestep."""
    found: dict[tuple[int, int, int], list[Noted]] = {}
    for one in noted:
        address = one.address
        found.setdefault((address.channel_id, address.level, address.t), []).append(one)
    return found


def entries_of(noted: Sequence[Noted]) -> list[dict[int, list[int]]]:
    """The cuboids of each label, in groups of about `APPENDED_AT_ONCE` entries.

    All of one level and timestep, and at least one.
    """
    labels = np.concatenate([one.labels for one in noted])
    counts = [len(one.labels) for one in noted]
    mortons = np.repeat(np.array([one.address.morton for one in noted], dtype=np.uint64), counts)
    order = np.lexsort((mortons, labels))
    labels, mortons = labels[order], mortons[order]
    return [
        _mortons_of(labels[first : first + APPENDED_AT_ONCE], mortons[first:][:APPENDED_AT_ONCE])
        for first in range(0, len(labels), APPENDED_AT_ONCE)
    ]


def _mortons_of(labels: Labels, mortons: npt.NDArray[np.uint64]) -> dict[int, list[int]]:
    ends = [*(np.flatnonzero(labels[1:] != labels[:-1]) + 1).tolist(), len(labels)]
    found: dict[int, list[int]] = {}
    first = 0
    for end in ends:
        found[int(labels[first])] = _without_repeats(mortons[first:end].tolist())
        first = end
    return found


def _without_repeats(ordered: list[int]) -> list[int]:
    """Cuboids that several writes of one batch share come once."""
    return list(dict.fromkeys(ordered))
