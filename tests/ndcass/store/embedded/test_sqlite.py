"""The database file under faults, with real files and real processes."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ndcass.errors import (
    Conflict,
    IncompatibleStore,
    InvalidRequest,
    StoreError,
    StoreFull,
    StoreTimeout,
    StoreUnavailable,
)
from ndcass.store.embedded import sqlite as engine
from ndcass.store.embedded.sqlite import SCHEMA_VERSION, Database, signed, unsigned
from tests.full_disk import file_size_limit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    opened = Database.open(path)
    yield opened
    opened.close()


def add_user(name: str) -> Callable[[sqlite3.Connection], None]:
    def add(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO users (name, is_superuser) VALUES (?, 0)", (name,))

    return add


def names(db: sqlite3.Connection) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM users ORDER BY name")]


# -- opening


def test_only_the_owner_may_read_the_file(path: Path, database: Database) -> None:
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name


def test_commits_are_synced_and_foreign_keys_kept(path: Path) -> None:
    Database.open(path).close()
    with contextlib.closing(engine._connect(path)) as connection:
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_newer_schema_is_refused_by_both_versions(path: Path) -> None:
    Database.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(IncompatibleStore, match=f"version 7, .* up to {SCHEMA_VERSION}"):
        Database.open(path)


def test_an_older_file_gets_what_it_lacks_and_keeps_what_it_has(path: Path) -> None:
    engine._make_private(path)
    with contextlib.closing(engine._connect(path)) as connection:
        for statement in engine._FIRST_SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        add_user("anna")(connection)
    Database.open(path).close()
    with contextlib.closing(engine._connect(path)) as connection:
        assert names(connection) == ["anna"]
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        older = sorted(connection.execute("SELECT name, sql FROM sqlite_master"))
    path.unlink()
    Database.open(path).close()
    with contextlib.closing(engine._connect(path)) as connection:
        assert sorted(connection.execute("SELECT name, sql FROM sqlite_master")) == older


def test_a_database_of_another_program_is_refused_and_kept(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(IncompatibleStore, match="another program"):
        Database.open(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("bookmarks",)]


def test_a_file_that_is_no_database_is_refused_and_kept(path: Path) -> None:
    path.write_bytes(b"something else " * 100)
    with pytest.raises(StoreError, match="damaged"):
        Database.open(path)
    assert path.read_bytes() == b"something else " * 100


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "OLDEST_SQLITE", (99, 0, 0))
    with pytest.raises(StoreError, match=r"needs 99\.0\.0"):
        Database.open(path)


def _open_and_add(path: str, name: str) -> None:
    async def add() -> None:
        database = Database.open(Path(path))
        await database.write(add_user(name))
        database.close()

    asyncio.run(add())


async def test_processes_that_open_a_new_file_at_once_all_succeed(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    openers = [
        context.Process(target=_open_and_add, args=(str(path), f"u{n}"), daemon=True)
        for n in range(4)
    ]
    for opener in openers:
        opener.start()
    for opener in openers:
        await asyncio.to_thread(opener.join, 60)
        assert opener.exitcode == 0
    database = Database.open(path)
    assert await database.read(names) == ["u0", "u1", "u2", "u3"]
    database.close()


# -- transactions


async def test_what_a_transaction_wrote_is_there_for_others(path: Path, database: Database) -> None:
    await database.write(add_user("anna"))
    other = Database.open(path)
    assert await other.read(names) == ["anna"]
    other.close()


async def test_a_transaction_that_raises_changed_nothing(database: Database) -> None:
    def add_and_fail(db: sqlite3.Connection) -> None:
        add_user("anna")(db)
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await database.write(add_and_fail)
    assert await database.read(names) == []
    await database.write(add_user("ben"))
    assert await database.read(names) == ["ben"]


async def test_a_read_sees_one_moment(path: Path, database: Database) -> None:
    await database.write(add_user("anna"))

    def read_twice(db: sqlite3.Connection) -> tuple[list[str], list[str]]:
        first = names(db)
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            add_user("ben")(other)
        return first, names(db)

    assert await database.read(read_twice) == (["anna"], ["anna"])
    assert await database.read(names) == ["anna", "ben"]


async def test_writers_of_one_process_take_turns(database: Database) -> None:
    await asyncio.gather(*(database.write(add_user(f"u{n:02}")) for n in range(40)))
    assert await database.read(names) == [f"u{n:02}" for n in range(40)]


async def test_a_cancelled_writer_leaves_all_or_nothing(database: Database) -> None:
    writes = [asyncio.create_task(database.write(add_user(f"u{n}"))) for n in range(10)]
    await asyncio.sleep(0.002)
    for write in writes:
        write.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    acknowledged = {f"u{n}" for n, outcome in enumerate(outcomes) if outcome is None}
    assert acknowledged <= set(await database.read(names))
    await database.write(add_user("after"))
    assert "after" in await database.read(names)


def _write_until_killed(path: str) -> None:
    def add_and_die(db: sqlite3.Connection) -> None:
        for n in range(5000):
            add_user(f"torn{n}")(db)
        os.kill(os.getpid(), signal.SIGKILL)

    async def work() -> None:
        database = Database.open(Path(path))
        await database.write(add_user("acknowledged"))
        await database.write(add_and_die)

    asyncio.run(work())


async def test_a_writer_killed_between_statements_leaves_the_file_whole(
    path: Path, database: Database
) -> None:
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_write_until_killed, args=(str(path),), daemon=True)
    writer.start()
    await asyncio.to_thread(writer.join, 60)
    assert writer.exitcode == -signal.SIGKILL
    assert await database.read(names) == ["acknowledged"]  # by one who had it open
    await database.write(add_user("after"))
    reopened = Database.open(path)
    assert await reopened.read(names) == ["acknowledged", "after"]
    check = await reopened.read(lambda db: db.execute("PRAGMA integrity_check").fetchone()[0])
    assert check == "ok"
    reopened.close()


# -- errors


async def test_a_lock_held_too_long_is_a_timeout_and_the_loop_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._connect, "__kwdefaults__", {"busy_timeout_s": 0.2})
    database = Database.open(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(database.write(add_user("anna")))
        steps = 0
        while not write.done():
            await asyncio.sleep(0.01)
            steps += 1
        assert steps > 5
        with pytest.raises(StoreTimeout):
            await write
        assert await database.read(names) == []  # readers do not wait for writers
        other.execute("ROLLBACK")
    await database.write(add_user("anna"))
    database.close()


async def test_a_full_disk_is_said_and_leaves_the_old_data(database: Database, path: Path) -> None:
    await database.write(add_user("anna"))
    log_bytes = path.with_name(f"{path.name}-wal").stat().st_size
    with file_size_limit(log_bytes + 8192), pytest.raises(StoreFull):
        await database.write(add_user("x" * 100_000))
    assert await database.read(names) == ["anna"]
    await database.write(add_user("ben"))
    assert await database.read(names) == ["anna", "ben"]


async def test_no_room_for_pages_is_full_too(database: Database) -> None:
    def add_beyond_the_limit(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA max_page_count = 1")
        add_user("x" * 100_000)(db)

    with pytest.raises(StoreFull):
        await database.write(add_beyond_the_limit)


async def test_a_damaged_file_is_an_error(path: Path) -> None:
    database = Database.open(path)
    for n in range(200):
        await database.write(add_user(f"{n:03}" + "x" * 500))
    database.close()
    whole = path.read_bytes()
    half = len(whole) // 2  # what the names are behind; the schema is at the beginning
    path.write_bytes(whole[:half] + b"\xff" * (len(whole) - half))
    database = Database.open(path)
    with pytest.raises(StoreError, match="damaged"):
        await database.read(names)
    database.close()


async def test_a_closed_store_is_unavailable(path: Path) -> None:
    database = Database.open(path)
    database.close()
    with pytest.raises(StoreUnavailable):
        await database.read(names)
    with pytest.raises(StoreUnavailable):
        await database.write(add_user("anna"))
    assert database.peek("SELECT 1") is None


async def test_closing_lets_a_running_transaction_end(path: Path) -> None:
    database = Database.open(path)

    def add_and_close(db: sqlite3.Connection) -> None:
        database.close()
        add_user("anna")(db)

    await database.write(add_and_close)
    reopened = Database.open(path)
    assert await reopened.read(names) == ["anna"]
    reopened.close()


@pytest.mark.parametrize("name", ["\ud800", 1 << 70])
async def test_what_sqlite_cannot_hold_is_refused(database: Database, name: object) -> None:
    with pytest.raises(InvalidRequest):
        await database.read(lambda db: db.execute("SELECT ?", (name,)).fetchone())


@pytest.mark.parametrize("number", [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_numbers_of_64_bits_survive_a_sign(number: int) -> None:
    assert -(1 << 63) <= signed(number) < 1 << 63
    assert unsigned(signed(number)) == number


@pytest.mark.parametrize("number", [-1, 1 << 64])
def test_numbers_beyond_64_bits_are_refused(number: int) -> None:
    with pytest.raises(InvalidRequest):
        signed(number)
