import uuid

import pytest

from ndcass.store.cassandra.records import CassandraRecords
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables

PARTS = bytes(600 << 10)
ROWS = "SELECT part FROM side_records"
NOTES = "SELECT key FROM side_record_keys"


@pytest.fixture
def key() -> str:
    """One that no test has deleted: a tombstone would outlast rows of such early times."""
    return uuid.uuid4().hex


def at(tables: Tables, now_us: int) -> CassandraRecords:
    """The records through a gateway whose clock stands still."""

    def clock() -> int:
        return now_us

    # It never waits for its clock to go on.
    return CassandraRecords(tables, Stamps(max_clock_skew_ms=-1000, now_us=clock))


async def test_a_put_that_is_carried_out_late_does_not_undo_a_later_one(
    tables: Tables, key: str
) -> None:
    await at(tables, 20).put(1, "hist", key, b"later")
    await at(tables, 10).put(1, "hist", key, PARTS)
    assert await at(tables, 30).get(1, "hist", key) == b"later"


@pytest.mark.parametrize("put_us", [10, 20])
async def test_of_a_put_and_a_delete_the_later_one_wins_in_both_tables(
    tables: Tables, key: str, put_us: int
) -> None:
    await at(tables, 15).delete(1, "hist", key)
    await at(tables, put_us).put(1, "hist", key, PARTS)
    stays = put_us == 20
    records = at(tables, 30)
    assert await records.get(1, "hist", key) == (PARTS if stays else None)
    assert list(await records.keys(1, "hist")) == ([key] if stays else [])


async def test_a_large_record_is_cut_into_cells_that_go_with_it(tables: Tables, key: str) -> None:
    records = CassandraRecords(tables, Stamps())
    await records.put(1, "hist", key, PARTS)
    assert len(await tables.rows(ROWS)) == 3
    assert await records.delete_channel(1) == 1
    assert list(await tables.rows(ROWS)) == []
    assert list(await tables.rows(NOTES)) == []
