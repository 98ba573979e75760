"""Opening a folder as an embedded store, its health and its housekeeping."""

import asyncio
import contextlib
import json
import multiprocessing
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from ndcass.errors import IncompatibleStore, StoreError, StoreFull, StoreTimeout
from ndcass.store import embedded
from ndcass.store.base import Stores
from ndcass.store.embedded import DATABASE_NAME, MARKER_NAME, open_embedded
from ndcass.store.embedded.sqlite import Database


async def open_and_close(folder: Path) -> None:
    stores: Stores = await open_embedded(folder)
    await stores.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -- which folders it takes


async def test_a_new_folder_becomes_a_store(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "below"
    await open_and_close(folder)
    marker = json.loads((folder / MARKER_NAME).read_text())
    assert marker == {"format": "ndcass embedded", "version": 1}


@pytest.mark.parametrize("found", ["lost+found", f"{MARKER_NAME}.new"])
async def test_a_folder_with_nothing_of_worth_becomes_a_store(tmp_path: Path, found: str) -> None:
    (tmp_path / found).write_text('{"form')  # as an opener leaves it that was interrupted
    await open_and_close(tmp_path)
    await open_and_close(tmp_path)


async def test_a_folder_with_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(
        IncompatibleStore, match=f"neither empty nor an ndcass store.*{MARKER_NAME}"
    ):
        await open_embedded(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"important"}


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ('{"format": "ndcass embedded", "version": 2}', "version 2, this ndcass knows 1"),
        ('{"format": "zarr", "version": 1}', "format 'zarr', not 'ndcass embedded'"),
        ('{"version": 1}', "does not say what"),
        ('["ndcass embedded", 1]', "does not say what"),
        ("\xff\xfe", "does not say what"),
        ("", "does not say what"),
    ],
)
async def test_another_or_newer_format_is_refused_by_name_and_kept(
    tmp_path: Path, marker: str, message: str
) -> None:
    (tmp_path / MARKER_NAME).write_bytes(marker.encode("latin-1"))
    before = contents(tmp_path)
    with pytest.raises(IncompatibleStore, match=message):
        await open_embedded(tmp_path)
    assert contents(tmp_path) == before


async def test_a_newer_catalogue_is_refused(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(IncompatibleStore, match="schema version 99"):
        await open_embedded(tmp_path)


async def test_a_file_instead_of_a_folder_is_an_error_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as raised:
        await open_embedded(tmp_path / "file")
    assert str(tmp_path) not in str(raised.value)


# -- several openers


def _open_and_close(folder: str) -> None:
    asyncio.run(open_and_close(Path(folder)))


async def test_processes_may_open_a_new_folder_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    folder = str(tmp_path / "store")
    openers = [
        context.Process(target=_open_and_close, args=(folder,), daemon=True) for _ in range(4)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        await asyncio.to_thread(opener.join, 60)
        assert opener.exitcode == 0


async def test_an_opener_that_hangs_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "OPEN_TIMEOUT_S", 0.1)
    with embedded._locked(tmp_path), pytest.raises(StoreTimeout, match="opening"):
        await open_embedded(tmp_path)
    await open_and_close(tmp_path)


async def test_a_store_that_cannot_open_its_cuboids_lets_go_of_its_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Watched(Database):
        def close(self) -> None:
            super().close()
            closed.append(self)

    monkeypatch.setattr(embedded, "Database", Watched)
    (tmp_path / "s").mkdir()
    await open_and_close(tmp_path / "s")
    (tmp_path / "s" / "index.lmdb").write_bytes(b"no index")
    closed.clear()
    with pytest.raises(StoreError):
        await open_embedded(tmp_path / "s")
    assert len(closed) == 1


# -- health


async def test_a_store_says_what_is_free(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    health = await stores.health()
    assert health.ready
    assert health.details["free_bytes"] > embedded.FREE_FLOOR_BYTES
    await stores.close()


async def test_a_store_with_little_room_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "FREE_FLOOR_BYTES", 1 << 60)
    stores = await open_embedded(tmp_path)
    health = await stores.health()
    assert not health.ready
    assert "MiB of disk" in health.reason
    await stores.close()


async def test_a_store_that_a_newer_version_changed_is_not_ready(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")
    health = await stores.health()
    assert not health.ready
    assert "schema version 99" in health.reason
    await stores.close()


async def test_a_closed_store_is_not_ready(tmp_path: Path) -> None:
    stores = await open_embedded(tmp_path)
    await stores.close()
    health = await stores.health()
    assert not health.ready
    assert "closed" in health.reason


async def test_the_catalogue_is_closed_even_if_the_cuboids_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: Any = await open_embedded(tmp_path)
    close_cuboids = stores.cuboids.close

    async def fail() -> None:
        await close_cuboids()
        raise StoreError("no")

    monkeypatch.setattr(stores.cuboids, "close", fail)
    with pytest.raises(StoreError, match="no"):
        await stores.close()
    assert not (await stores.health()).ready


# -- housekeeping


async def test_what_is_left_over_is_seen_to_though_the_cuboids_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: Any = await open_embedded(tmp_path)
    seen = []

    async def fail() -> None:
        raise StoreFull("no")

    async def channel_ids() -> list[int]:
        seen.append("ids")
        return []

    monkeypatch.setattr(stores.cuboids, "maintain", fail)
    monkeypatch.setattr(stores.cuboids, "channel_ids", channel_ids)
    with pytest.raises(StoreFull):
        await stores.maintain()
    assert seen == ["ids"]
    await stores.close()
