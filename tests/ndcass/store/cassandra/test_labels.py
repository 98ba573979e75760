import numpy as np

from ndcass.store.cassandra import labels as labels_module
from ndcass.store.cassandra.labels import CassandraLabels
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables

LARGEST = (1 << 64) - 1


class Clock:
    """Microseconds that a test sets."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us


def opened(tables: Tables, now_us: int = 0, skew_ms: int = 0) -> CassandraLabels:
    if not now_us:
        return CassandraLabels(tables, Stamps(max_clock_skew_ms=skew_ms))
    return CassandraLabels(tables, Stamps(max_clock_skew_ms=skew_ms, now_us=Clock(now_us)))


async def test_an_entry_that_was_appended_again_since_it_was_read_survives(tables: Tables) -> None:
    labels = opened(tables)
    await labels.append(1, 0, 0, {5: [1, 2]})
    read = await labels.mortons(1, 0, 5)
    await labels.append(1, 0, 0, {5: [2, 3]})

    await labels.discard(1, 0, 5, read)

    assert list(await labels.mortons(1, 0, 5)) == [(0, 2), (0, 3)]


async def test_an_entry_that_another_clock_may_not_have_reached_stays(tables: Tables) -> None:
    now_us = 1_700_000_000_000_000
    await opened(tables, now_us).append(1, 0, 0, {5: [1]})

    careful = opened(tables, now_us + 5_000, skew_ms=10)
    await careful.discard(1, 0, 5, await careful.mortons(1, 0, 5))
    assert list(await careful.mortons(1, 0, 5)) == [(0, 1)]

    later = opened(tables, now_us + 20_000, skew_ms=10)
    await later.discard(1, 0, 5, await later.mortons(1, 0, 5))
    assert list(await later.mortons(1, 0, 5)) == []

    await opened(tables, now_us + 10_000).append(1, 0, 0, {5: [1]})
    assert list(await later.mortons(1, 0, 5)) == [(0, 1)]


async def test_numbers_may_be_numpys_and_labels_have_64_bits(tables: Tables) -> None:
    labels = opened(tables)
    mortons = np.array([3, 1], dtype=np.uint64)

    await labels.append(1, 2, 0, {np.uint64(LARGEST): mortons})  # type: ignore[dict-item]  # as is

    assert list(await labels.mortons(1, 2, LARGEST)) == [(0, 1), (0, 3)]
    assert await labels.delete_channel(1) == 2


async def test_many_entries_are_read_and_discarded_in_pages(
    tables: Tables,
) -> None:
    labels = opened(tables)
    mortons = list(range(0, 3 * labels_module.ENTRIES_AT_ONCE, 2))
    await labels.append(1, 0, 0, {5: mortons})

    await labels.discard(1, 0, 5, [(0, m) for m in range(3 * labels_module.ENTRIES_AT_ONCE - 1)])

    left = [(0, m) for m in mortons if m >= 3 * labels_module.ENTRIES_AT_ONCE - 1]
    assert list(await labels.mortons(1, 0, 5)) == left


async def test_a_label_without_cuboids_is_not_noted(tables: Tables) -> None:
    labels = opened(tables)
    await labels.append(1, 0, 0, {5: []})
    assert list(await tables.rows("SELECT label FROM channel_labels")) == []


async def test_labels_that_another_process_appended_go_with_the_channel(tables: Tables) -> None:
    await opened(tables).append(1, 0, 0, {n: [n] for n in range(1, 40)})
    labels = opened(tables)
    await labels.append(1, 1, 3, {5: [1, 2]})

    assert await labels.delete_channel(1) == 41

    for name in ("labels", "channel_labels"):
        assert list(await tables.rows(f"SELECT label FROM {name}")) == []
