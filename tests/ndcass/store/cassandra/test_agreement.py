import asyncio

import pytest

from ndcass.errors import IncompatibleStore
from ndcass.store.cassandra.agreement import agree_on_windows, agreed_windows, change_windows
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Windows
from tests.flaky_tables import APPLIED, LATE, LOST, FlakyTables

OURS = Windows(max_clock_skew_ms=5, write_window_s=12.5, read_window_s=40.0)
OTHERS = Windows(max_clock_skew_ms=5, write_window_s=30.0, read_window_s=60.0)


async def test_who_comes_first_says_what_all_keep_to(tables: Tables) -> None:
    assert await agreed_windows(tables) is None
    await agree_on_windows(tables, OURS)
    await agree_on_windows(tables, OURS)
    assert await agreed_windows(tables) == OURS


async def test_who_has_other_windows_is_told_which(tables: Tables) -> None:
    await agree_on_windows(tables, OTHERS)

    with pytest.raises(IncompatibleStore) as refused:
        await agree_on_windows(tables, OURS)

    said = str(refused.value)
    assert "cassandra.write_window_s is 12.5 here and 30 there" in said
    assert "cassandra.read_window_s is 40 here and 60 there" in said
    assert "skew" not in said
    assert await agreed_windows(tables) == OTHERS


async def test_of_many_who_come_at_once_all_keep_to_the_windows_of_one(tables: Tables) -> None:
    wanted = [Windows(write_window_s=10.0 + i % 2) for i in range(8)]

    outcomes = await asyncio.gather(
        *(agree_on_windows(tables, windows) for windows in wanted), return_exceptions=True
    )

    agreed = await agreed_windows(tables)
    assert agreed in wanted
    for windows, outcome in zip(wanted, outcomes, strict=True):
        assert (outcome is None) if windows == agreed else isinstance(outcome, IncompatibleStore)


@pytest.mark.parametrize("faults", [(APPLIED,), (LOST,), (LATE,), (LOST, APPLIED)])
async def test_windows_are_agreed_on_though_answers_get_lost(
    tables: Tables, faults: tuple[str, ...]
) -> None:
    flaky = FlakyTables(tables, *faults)
    await agree_on_windows(flaky, OURS)
    await flaky.settled()
    assert await agreed_windows(tables) == OURS


@pytest.mark.parametrize("faults", [(), (APPLIED,), (LOST,), (LATE,)])
@pytest.mark.parametrize("before", [None, OTHERS])
async def test_windows_can_be_changed(
    tables: Tables, before: Windows | None, faults: tuple[str, ...]
) -> None:
    if before is not None:
        await agree_on_windows(tables, before)

    flaky = FlakyTables(tables, *faults)
    await change_windows(flaky, OURS)
    await flaky.settled()

    await agree_on_windows(tables, OURS)
    with pytest.raises(IncompatibleStore):
        await agree_on_windows(tables, OTHERS)
