import asyncio
import importlib.resources
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest

from ndcass.errors import ConfigError, IncompatibleStore, StoreTimeout
from ndcass.store.cassandra import schema
from ndcass.store.cassandra.driver import ConnectSettings, Driver
from ndcass.store.cassandra.schema import (
    Keyspace,
    Keyspaces,
    SchemaFile,
    apply_schema,
    check_schema,
    parse_files,
    read_files,
    schema_status,
)
from ndcass.store.cassandra.tables import Tables
from tests.cassandra_nodes import CassandraNodes

ONE = "-- keyspace: meta\n-- why\nCREATE TABLE IF NOT EXISTS one (id int PRIMARY KEY);\n"
TWO = (
    "-- keyspace: ingest archive\n"
    "CREATE TABLE IF NOT EXISTS two (id int PRIMARY KEY, a text) WITH comment = 'x; -- y';\n"
    "CREATE INDEX IF NOT EXISTS two_by_a ON two (a) USING 'sai';\n"
)
THREE = "-- keyspace: meta\nALTER TABLE IF EXISTS one ADD IF NOT EXISTS text text;\n"


# -- files


def test_files_are_read_in_the_order_of_their_numbers() -> None:
    files = parse_files({"010_b.cql": TWO, "002_a.cql": ONE})
    assert [(file.version, file.name) for file in files] == [(2, "002_a"), (10, "010_b")]
    assert files[1].roles == ("ingest", "archive")


def test_statements_end_at_semicolons_that_are_neither_quoted_nor_commented() -> None:
    text = TWO.replace("id int", "/* a; b */ id\n  int -- c; d\n")
    [file] = parse_files({"001_a.cql": text})
    assert list(file.statements) == [
        "CREATE TABLE IF NOT EXISTS two ( id int PRIMARY KEY, a text) WITH comment = 'x; -- y'",
        "CREATE INDEX IF NOT EXISTS two_by_a ON two (a) USING 'sai'",
    ]


def test_comments_and_line_breaks_do_not_change_a_checksum() -> None:
    [one] = parse_files({"001_a.cql": ONE})
    [other] = parse_files({"001_a.cql": ONE.replace("-- why", "-- because").replace(" (", "\n(")})
    [changed] = parse_files({"001_a.cql": ONE.replace("int", "text")})
    assert one.checksum == other.checksum != changed.checksum


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"1_a.cql": ONE}, "NNN"),
        ({"001_a.cql": ONE, "001_b.cql": TWO}, "one number"),
        ({"001_a.cql": ONE.replace("-- keyspace: meta\n", "")}, "must begin"),
        ({"001_a.cql": ONE.replace("meta", "moon")}, "must begin"),
        ({"001_a.cql": ONE.replace("IF NOT EXISTS ", "")}, "must not do"),
        ({"001_a.cql": ONE + "TRUNCATE one;"}, "must not do"),
        ({"001_a.cql": ONE + "INSERT INTO one (id) VALUES (1);"}, "must not do"),
    ],
)
def test_a_file_that_is_not_as_it_must_be_is_refused(files: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_files(files)


def test_every_shipped_file_says_why_its_keys_are_what_they_are() -> None:
    folder = importlib.resources.files("ndcass.schema")
    for file in read_files():
        lines = (folder / f"{file.name}.cql").read_text().splitlines()
        comment = [line for line in lines[1:] if line.startswith("--")]
        assert len(comment) >= 3, file.name
        assert any("artition" in line for line in comment), file.name


@pytest.mark.parametrize("name", ["", "Big", "a b", "1a", "a" * 49, 'x"; DROP'])
def test_a_name_that_is_no_keyspaces_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Keyspace(name, "local", 3)


# -- applying


@pytest.fixture
async def fresh(cassandra_cluster: CassandraNodes, driver: Driver) -> AsyncIterator[Keyspaces]:
    """Two tiers whose keyspaces nobody has made yet, in one data centre."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    archive = Keyspace(name, cassandra_cluster.data_centre, 3)
    ingest = Keyspace(f"{name}_in", cassandra_cluster.data_centre, 1)
    yield Keyspaces(ingest=ingest, archive=archive, meta=archive)
    for keyspace in (archive, ingest):
        await driver.run(f"DROP KEYSPACE IF EXISTS {keyspace.name}", timeout_s=60)


@pytest.fixture(autouse=True)
def shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in the place of those that are shipped."""
    ship(monkeypatch, {"001_one.cql": ONE, "002_two.cql": TWO})


def ship(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> None:
    def read() -> list[SchemaFile]:
        return parse_files(texts)

    monkeypatch.setattr(schema, "read_files", read)


async def tables_in(driver: Driver, keyspace: Keyspace) -> list[str]:
    cql = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s"
    return sorted(name for (name,) in await driver.run(cql, (keyspace.name,)))


def said(steps: Sequence[schema.Step], keyspaces: Keyspaces) -> list[str]:
    names = {keyspaces.archive.name: "archive", keyspaces.ingest.name: "ingest"}
    return [f"{names[step.keyspace]} {step.name} {step.state}" for step in steps]


async def test_files_go_into_the_keyspaces_of_their_roles_once(
    driver: Driver, fresh: Keyspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ["archive 001_one", "ingest 002_two", "archive 002_two"]
    assert said(await schema_status(driver, fresh), fresh) == [f"{s} pending" for s in steps]
    with pytest.raises(IncompatibleStore, match="schema apply"):
        await check_schema(driver, fresh)

    done = await apply_schema(driver, fresh)

    assert said(done, fresh) == [f"{s} applied" for s in steps]
    assert await tables_in(driver, fresh.archive) == ["one", "schema_versions", "two"]
    assert await tables_in(driver, fresh.ingest) == ["two"]
    await check_schema(driver, fresh)
    assert await apply_schema(driver, fresh) == []

    # A new file comes, and only that one is applied.
    ship(monkeypatch, {"001_one.cql": ONE, "002_two.cql": TWO, "003_more.cql": THREE})
    assert said(await apply_schema(driver, fresh), fresh) == ["archive 003_more applied"]

    # An older ndcass meets it.
    ship(monkeypatch, {"001_one.cql": ONE, "002_two.cql": TWO})
    assert said(await schema_status(driver, fresh), fresh)[-1] == "archive 003_more unknown"
    for call in (check_schema(driver, fresh), apply_schema(driver, fresh)):
        with pytest.raises(IncompatibleStore, match=r"newer.*003_more"):
            await call

    # Somebody changes a file that was applied.
    changed = ONE.replace("int", "text")
    ship(monkeypatch, {"001_one.cql": changed, "002_two.cql": TWO, "003_more.cql": THREE})
    assert said(await schema_status(driver, fresh), fresh)[0] == "archive 001_one changed"
    for call in (check_schema(driver, fresh), apply_schema(driver, fresh)):
        with pytest.raises(IncompatibleStore, match="001_one"):
            await call


APPLY = """
import asyncio, sys
from ndcass.store.cassandra import schema
from ndcass.store.cassandra.driver import ConnectSettings, Driver
points, port, name, centre, one, two = sys.argv[1:]
schema.read_files = lambda: schema.parse_files({"001_one.cql": one, "002_two.cql": two})
keyspace = schema.Keyspace(name, centre, 3)

async def main():
    driver = await Driver.connect(ConnectSettings(tuple(points.split(",")), port=int(port)))
    sys.stdin.read()
    done = await schema.apply_schema(driver, schema.Keyspaces(keyspace, keyspace, keyspace))
    print(len(done))
    await driver.close()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_processes_that_apply_at_once_take_turns(
    driver: Driver, fresh: Keyspaces, cassandra_settings: ConnectSettings
) -> None:
    points, port = ",".join(cassandra_settings.contact_points), str(cassandra_settings.port)
    place = (fresh.meta.name, fresh.meta.data_centre)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", APPLY, points, port, *place, ONE, TWO],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    await asyncio.sleep(2)  # all are connected, and begin when their input ends
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    outcomes = [await asyncio.to_thread(process.communicate, timeout=300) for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(int(out) for out, _ in outcomes) == [0, 0, 2]
    assert await tables_in(driver, fresh.meta) == ["one", "schema_versions", "two"]
    versions = {
        (await driver.run("SELECT schema_version FROM system.local", address=host.address))[0]
        for host in driver.hosts()
    }
    assert len(versions) == 1, "the nodes disagree about the schema"


async def test_the_lock_of_one_that_died_goes_by_itself_and_not_sooner(
    driver: Driver, fresh: Keyspaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, {"001_one.cql": ONE})
    await apply_schema(driver, fresh)
    tables = Tables(driver, keyspace=fresh.meta.name, data_centre=fresh.meta.data_centre)
    monkeypatch.setattr(schema, "LOCK_S", 4)
    dead = schema._Lock(tables)
    await dead.take(lambda line: None)
    monkeypatch.setattr(schema, "LOCK_S", 120)
    began = time.monotonic()
    told: list[str] = []

    await schema._Lock(tables).take(told.append)

    assert 2.5 < time.monotonic() - began < 30
    assert len(told) == 1
    assert "waiting" in told[0]
    [file] = parse_files({"009_late.cql": THREE})
    for late in (dead.keep(), dead.note(fresh.meta.name, file)):
        with pytest.raises(StoreTimeout, match="somebody else"):
            await late
    await dead.leave()
    owners = await tables.rows("SELECT DISTINCT scope, lock_owner FROM schema_versions")
    assert owners[0][1] is not None, "one that lost its lock must not take another's away"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"data_centre": "moon"}, "no data centre moon"), ({"replicas": 50}, "50 replicas")],
)
async def test_a_keyspace_that_cannot_be_is_not_made(
    driver: Driver, fresh: Keyspaces, changes: dict[str, object], reason: str
) -> None:
    place = {"name": fresh.meta.name, "data_centre": fresh.meta.data_centre, "replicas": 3}
    wrong = Keyspace(**{**place, **changes})  # type: ignore[arg-type]  # each as it is named
    with pytest.raises(ConfigError, match=reason):
        await apply_schema(driver, Keyspaces(wrong, wrong, wrong))
    assert await tables_in(driver, wrong) == []


async def test_a_keyspace_somewhere_else_is_refused(driver: Driver, fresh: Keyspaces) -> None:
    await driver.run(
        f"CREATE KEYSPACE {fresh.meta.name} WITH replication ="
        " {'class': 'SimpleStrategy', 'replication_factor': 1}",
        timeout_s=60,
    )
    with pytest.raises(IncompatibleStore, match="alone"):
        await apply_schema(driver, fresh)


async def test_a_keyspace_with_another_number_of_copies_is_refused_with_what_to_do(
    driver: Driver, fresh: Keyspaces
) -> None:
    name, centre = fresh.meta.name, fresh.meta.data_centre
    alter = f"{name} WITH replication = {{'class': 'NetworkTopologyStrategy', '{centre}':"
    await driver.run(f"CREATE KEYSPACE {alter} 1}}", timeout_s=60)
    said = rf"{name} has 1 copies in {centre}, where the settings say 3.*ALTER KEYSPACE.*repair"
    with pytest.raises(IncompatibleStore, match=said):
        await apply_schema(driver, fresh)
    assert await tables_in(driver, fresh.meta) == []

    await driver.run(f"ALTER KEYSPACE {alter} 3}}", timeout_s=60)
    await apply_schema(driver, fresh)
    await check_schema(driver, fresh)
    await driver.run(f"ALTER KEYSPACE {alter} 2}}", timeout_s=60)
    with pytest.raises(IncompatibleStore, match="has 2 copies"):
        await check_schema(driver, fresh)


@pytest.mark.parametrize(
    ("replication", "reason"),
    [
        ({"local": "3"}, ""),
        ({"local": "1"}, "1 copies in local, where the settings say 3"),
        ({"local": "3", "other": "3"}, "in local, other and must be in local alone"),
        ({"other": "3"}, "in other and must be in local alone"),
        ({"replication_factor": "3"}, "must be in local alone"),
        ({"local": "3/1"}, "has 3/1 copies"),
    ],
)
def test_copies_are_compared_as_a_whole(replication: dict[str, str], reason: str) -> None:
    compare = schema._refuse_other_copies
    there = {"class": "org.apache.cassandra.locator.SomeStrategy", **replication}
    if not reason:
        compare(Keyspace("k", "local", 3), there)
        return
    with pytest.raises(IncompatibleStore, match=reason):
        compare(Keyspace("k", "local", 3), there)
