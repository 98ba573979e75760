"""What the embedded label index promises beyond the contract: any label, long deletes."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndcass.errors import InvalidRequest
from ndcass.store.embedded import sqlite
from ndcass.store.embedded.labels import EmbeddedLabels
from ndcass.store.embedded.sqlite import Database

LARGEST_LABEL = (1 << 64) - 1
LARGEST_MORTON = (1 << 63) - 1


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database.open(tmp_path / "catalog.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def labels(database: Database) -> EmbeddedLabels:
    return EmbeddedLabels(database)


async def test_labels_of_64_bits_do_not_mix(labels: EmbeddedLabels) -> None:
    asked = (0, 1, (1 << 63) - 1, 1 << 63, LARGEST_LABEL)
    await labels.append(1, 0, 0, {label: [n, LARGEST_MORTON] for n, label in enumerate(asked)})
    for n, label in enumerate(asked):
        assert list(await labels.mortons(1, 0, label)) == [(0, n), (0, LARGEST_MORTON)]
    await labels.discard(1, 0, LARGEST_LABEL, [(0, LARGEST_MORTON)])
    assert list(await labels.mortons(1, 0, LARGEST_LABEL)) == [(0, 4)]
    assert list(await labels.mortons(1, 0, 1 << 63)) == [(0, 3), (0, LARGEST_MORTON)]


async def test_labels_and_codes_may_come_from_arrays(labels: EmbeddedLabels) -> None:
    found = np.array([5, 1 << 63], dtype=np.uint64)
    codes = np.array([2, 1], dtype=np.uint64)
    await labels.append(1, 0, 0, dict.fromkeys(found, codes))  # type: ignore[arg-type] # on purpose
    assert list(await labels.mortons(1, 0, 1 << 63)) == [(0, 1), (0, 2)]
    assert list(await labels.mortons(1, 0, int(found[0]))) == [(0, 1), (0, 2)]


async def test_an_append_with_one_bad_label_changes_nothing(labels: EmbeddedLabels) -> None:
    with pytest.raises(InvalidRequest):
        await labels.append(1, 0, 0, {1: [1], 1 << 64: [1]})
    assert list(await labels.mortons(1, 0, 1)) == []


async def test_a_lookup_is_one_walk_of_the_key(database: Database) -> None:
    def plan(db: sqlite3.Connection) -> list[str]:
        return [
            row[3]
            for row in db.execute(
                "EXPLAIN QUERY PLAN SELECT t, morton FROM labels"
                " WHERE channel_id = 1 AND level = 0 AND label = 1 ORDER BY t, morton"
            )
        ]

    [step] = await database.read(plan)
    assert "PRIMARY KEY (channel_id=? AND level=? AND label=?)" in step


@pytest.mark.parametrize("entries", [0, 9, 10, 11, 35])
async def test_a_large_channel_is_deleted_in_steps(
    labels: EmbeddedLabels, database: Database, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "DELETE_AT_ONCE", 10)
    for n in range(entries):
        await labels.append(1, n % 2, n % 3, {n % 4 << 62: [n]})
    await labels.append(2, 0, 0, {5: [1, 2]})
    steps = []
    write = database.write

    async def counted(func: Any) -> Any:  # as Database.write
        steps.append(await write(func))
        return steps[-1]

    monkeypatch.setattr(database, "write", counted)
    assert await labels.delete_channel(1) == entries
    assert max(steps) <= 10
    assert list(await labels.mortons(2, 0, 5)) == [(0, 1), (0, 2)]
    assert await labels.delete_channel(1) == 0
