import asyncio
import contextlib
import importlib
import itertools
import pkgutil
import ssl
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cassandra
import pytest
from blockbuster import blockbuster_ctx
from cassandra.cluster import NoHostAvailable

from ndcass.cluster.access import superuser_settings
from ndcass.errors import (
    ConfigError,
    StoreError,
    StoreTimeout,
    StoreUnavailable,
    TransactionUnknown,
)
from ndcass.store.cassandra import driver as driver_module
from ndcass.store.cassandra.driver import (
    PLACES,
    ConnectSettings,
    Consistency,
    Driver,
    Statement,
    TlsSettings,
    translated,
)
from ndcass.store.cassandra.tiers import Tier, Tiers
from tests.cassandra_nodes import CassandraNodes, nodes_or_skip

MIB = 1 << 20
QUORUM = Consistency.LOCAL_QUORUM

_channel_ids = itertools.count(7_000_000)

INSERT_BUCKET = (
    "INSERT INTO occupancy (channel, pyramid, level, t, prefix, bucket) VALUES (?, 0, 0, 0, 0, ?)"
)
BUCKETS = (
    "SELECT bucket FROM occupancy WHERE channel=? AND pyramid=0 AND level=0 AND t=0 AND prefix=0"
)
INSERT_PAYLOAD = (
    "INSERT INTO cuboids "
    "(channel, pyramid, level, t, bucket, morton, kind, write_id, part, payload) "
    "VALUES (?, 0, 0, 0, ?, 0, 0, 0x00, 0, ?)"
)
PAYLOAD = (
    "SELECT payload FROM cuboids WHERE channel=? AND pyramid=0 AND level=0 AND t=0 AND bucket=?"
)
SETTLE = (
    "INSERT INTO channel_layouts (channel, bucket_bits, cuboid_bytes) VALUES (?, ?, 1) "
    "IF NOT EXISTS"
)
LAYOUT = "SELECT bucket_bits FROM channel_layouts WHERE channel=?"


@pytest.fixture
def channel_id() -> int:
    """One that no other test has."""
    return next(_channel_ids)


@pytest.fixture
def keyspace(one_tier: Tiers) -> Tier:
    return one_tier.archive


class Tables:
    """Prepares statements on the tables of a keyspace."""

    def __init__(self, driver: Driver, keyspace: Tier) -> None:
        self.driver = driver
        self.keyspace = keyspace

    async def __call__(self, cql: str) -> Statement:
        return await self.driver.prepare(
            cql, keyspace=self.keyspace.keyspace, data_centre=self.keyspace.data_centre
        )

    async def execute(self, cql: str, *values: object, **options: Any) -> Sequence[tuple[Any, ...]]:
        """`options` as `Driver.execute` has them."""
        return await self.driver.execute(await self(cql), values, consistency=QUORUM, **options)


@pytest.fixture
def prepared(driver: Driver, keyspace: Tier) -> Tables:
    return Tables(driver, keyspace)


# -- what may go wrong


def exceptions_of_the_driver() -> set[type[BaseException]]:
    """Every exception that the driver defines, but for those of its object mapper."""
    found: set[type[BaseException]] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = [one.name for one in pkgutil.walk_packages(cassandra.__path__, "cassandra.")]
        for module in ["cassandra", *modules]:
            try:
                names = vars(importlib.import_module(module)).values()
            except ImportError:  # for event loops and libraries that are not there
                continue
            found.update(
                value
                for value in names
                if isinstance(value, type)
                and issubclass(value, BaseException)
                and value.__module__.startswith("cassandra")
                and not value.__module__.startswith("cassandra.cqlengine")
            )
    return found


def test_every_exception_of_the_driver_has_a_place() -> None:
    found = exceptions_of_the_driver()
    assert len(found) > 50
    homeless = {kind for kind in found if not any(base in PLACES for base in kind.__mro__)}
    assert homeless == set()
    assert set(PLACES) <= found, "a place that nothing needs"


@pytest.mark.parametrize(
    ("name", "kind", "again"),
    [
        ("Unavailable", StoreUnavailable, True),
        ("ReadTimeout", StoreTimeout, True),
        ("WriteTimeout", StoreTimeout, True),
        ("OperationTimedOut", StoreTimeout, True),
        ("ReadFailure", StoreError, True),
        ("WriteFailure", StoreError, True),
        ("InvalidRequest", StoreError, False),
        ("Unauthorized", StoreError, False),
        ("AuthenticationFailed", StoreError, False),
        ("cluster.NoHostAvailable", StoreUnavailable, True),
        ("connection.ConnectionShutdown", StoreUnavailable, True),
        ("connection.ConnectionBusy", StoreUnavailable, True),
        ("protocol.OverloadedErrorMessage", StoreUnavailable, True),
        ("protocol.ServerError", StoreError, True),
        ("protocol.SyntaxException", StoreError, False),
        ("segment.CrcException", StoreUnavailable, True),
    ],
)
def test_what_exceptions_become(name: str, kind: type[StoreError], again: bool) -> None:
    module, _, attribute = f"cassandra.{name}".rpartition(".")
    exception = getattr(importlib.import_module(module), attribute)
    error = exception.__new__(exception)
    found, is_worth_again = translated(error)
    assert type(found) is kind
    assert is_worth_again is again


def test_what_is_no_exception_of_the_driver_is_an_error_of_the_store() -> None:
    found, again = translated(OSError("10.0.0.1: broken"))
    assert type(found) is StoreError
    assert again
    assert "10.0.0.1" not in str(found)


def test_an_error_of_ours_stays_what_it_is() -> None:
    error = StoreUnavailable("closed")
    assert translated(error) == (error, False)


def test_refused_credentials_are_told_from_nodes_that_are_away() -> None:
    refused = cassandra.AuthenticationFailed("Failed to authenticate to 10.0.0.1: bad password")
    found, again = translated(NoHostAvailable("no host", {"10.0.0.1": refused}))
    assert str(found) == "the store refused the credentials"
    assert not again


def test_a_certificate_that_is_not_trusted_is_told_from_nodes_that_are_away() -> None:
    wrapped = PermissionError(1, "10.0.0.1: [SSL: CERTIFICATE_VERIFY_FAILED] unable to get issuer")
    found, again = translated(NoHostAvailable("no host", {"10.0.0.1": wrapped}))
    assert str(found) == "the store's certificate is not one of cassandra.tls_ca_file"
    assert not again


def test_a_certificate_for_another_address_is_told_from_one_of_another_authority() -> None:
    text = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: IP address mismatch, "
    wrapped = PermissionError(1, f"{text}certificate is not valid for '10.0.0.1'. (_ssl.c:1000)")
    found, again = translated(NoHostAvailable("no host", {"10.0.0.1": wrapped}))
    assert "certificate is for another address" in str(found)
    assert not again


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(ConnectSettings(("10.0.0.1",), password="secret"))


@pytest.mark.parametrize("address", ["127.255.255.253", "nowhere.invalid"])
async def test_an_address_where_nobody_is_makes_the_store_unavailable(address: str) -> None:
    with pytest.raises(StoreUnavailable) as failed:
        await Driver.connect(ConnectSettings((address,), port=9, connect_timeout_s=2.0))
    assert address not in str(failed.value)


async def test_nothing_on_the_wire_side_is_in_the_text_of_an_error(
    prepared: Tables, driver: Driver, keyspace: Tier, cassandra_settings: ConnectSettings
) -> None:
    hidden = [*cassandra_settings.contact_points, keyspace.keyspace, "nothing_here", "SELECT"]
    missing = Tier("no_such_keyspace", keyspace.data_centre)
    for call in (
        prepared("SELECT a FROM nothing_here"),
        prepared("SELECT SELECT SELECT"),
        Tables(driver, missing)("SELECT bucket FROM occupancy"),
        Tables(driver, Tier(keyspace.keyspace, "nothing_here"))("SELECT bucket FROM occupancy"),
        driver.run("SELECT nothing_here FROM system.local"),
        driver.run("SELECT key FROM system.local", address="nothing_here"),
    ):
        with pytest.raises(StoreError) as failed:
            await call
        text = str(failed.value)
        assert text
        assert not [word for word in hidden if word in text], text


# -- requests


async def test_pages_give_all_rows_in_order(prepared: Tables, channel_id: int) -> None:
    insert = await prepared(INSERT_BUCKET)
    await prepared.driver.execute_batch(
        [(insert, (channel_id, bucket)) for bucket in reversed(range(100))], consistency=QUORUM
    )
    expected = [(bucket,) for bucket in range(100)]
    assert list(await prepared.execute(BUCKETS, channel_id)) == expected
    assert list(await prepared.execute(BUCKETS, channel_id, page_rows=7)) == expected
    select = await prepared(BUCKETS)
    pages = [
        list(page)
        async for page in prepared.driver.pages(
            select, (channel_id,), consistency=QUORUM, page_rows=30
        )
    ]
    assert list(map(len, pages)) == [30, 30, 30, 10]
    first = await prepared.driver.page(select, (channel_id,), consistency=QUORUM, page_rows=30)
    second = await prepared.driver.page(
        select, (channel_id,), consistency=QUORUM, page_rows=30, state=first.state
    )
    assert [*first.rows, *second.rows] == expected[:60]


async def test_no_rows_are_no_pages_worth_having(prepared: Tables, channel_id: int) -> None:
    assert list(await prepared.execute(BUCKETS, channel_id, page_rows=7)) == []


async def test_a_statement_is_prepared_once(prepared: Tables) -> None:
    assert await prepared(BUCKETS) is await prepared(BUCKETS)


async def test_every_replica_can_be_asked_by_itself(prepared: Tables, channel_id: int) -> None:
    await prepared.execute(INSERT_BUCKET, channel_id, 5)
    select = await prepared(BUCKETS)
    every = await prepared.driver.replicas(select, (channel_id,))
    assert sorted(every) == sorted(host.address for host in prepared.driver.hosts())
    for address in every:
        avoid = [other for other in every if other != address]
        page = await prepared.driver.page(
            select, (channel_id,), consistency=Consistency.ONE, avoid=avoid
        )
        assert page.state is None


async def test_a_conditional_change_happens_once(prepared: Tables, channel_id: int) -> None:
    settle = await prepared(SETTLE)
    first = await prepared.driver.transact([(settle, (channel_id, 3))])
    second = await prepared.driver.transact([(settle, (channel_id, 5))])
    assert first.applied
    assert first.rows == ()
    assert not second.applied
    assert second.rows == [{"channel": channel_id, "bucket_bits": 3, "cuboid_bytes": 1}]
    serial = Consistency.LOCAL_SERIAL
    rows = await prepared.driver.execute(await prepared(LAYOUT), (channel_id,), consistency=serial)
    assert list(rows) == [(3,)]


async def test_several_conditions_hold_together_or_not_at_all(
    prepared: Tables, channel_id: int
) -> None:
    entry = await prepared(INSERT_BUCKET + " IF NOT EXISTS")
    first = await prepared.driver.transact([(entry, (channel_id, b)) for b in (1, 2)])
    second = await prepared.driver.transact([(entry, (channel_id, b)) for b in (1, 2, 3)])
    assert first.applied
    assert not second.applied
    assert [row["bucket"] for row in second.rows] == [1, 2]
    assert all("[applied]" not in row for row in second.rows)
    assert list(await prepared.execute(BUCKETS, channel_id)) == [(1,), (2,)]


async def test_a_system_table_can_be_asked_of_one_node(driver: Driver) -> None:
    for host in driver.hosts():
        rows = await driver.run("SELECT rpc_address FROM system.local", address=host.address)
        assert [str(row[0]) for row in rows] == [host.address]


async def test_nothing_blocks_the_event_loop(
    cassandra_settings: ConnectSettings, keyspace: Tier, channel_id: int
) -> None:
    with blockbuster_ctx("ndcass"):
        driver = await Driver.connect(cassandra_settings)
        tables = Tables(driver, keyspace)
        insert, settle = await tables(INSERT_BUCKET), await tables(SETTLE)
        await tables.execute(INSERT_BUCKET, channel_id, 0)
        await driver.execute_batch(
            [(insert, (channel_id, bucket)) for bucket in range(50)], consistency=QUORUM
        )
        assert len(await tables.execute(BUCKETS, channel_id, page_rows=7)) == 50
        await driver.transact([(settle, (channel_id, 1))])
        await driver.run("SELECT key FROM system.local")
        await driver.close()


@pytest.mark.slow
async def test_many_large_requests_at_once_are_bounded_and_all_come_through(
    cassandra_settings: ConnectSettings,
    keyspace: Tier,
    channel_id: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = 4 * MIB
    driver = await Driver.connect(
        replace(cassandra_settings, bytes_in_flight=limit, request_timeout_s=100.0)
    )
    most = 0
    force = driver.lanes.force

    def noted(host: Any, size_bytes: int) -> None:
        nonlocal most
        force(host, size_bytes)
        most = max(most, driver.lanes.used_bytes[host])

    monkeypatch.setattr(driver.lanes, "force", noted)
    tables = Tables(driver, keyspace)
    payloads = [bytes([number]) * MIB for number in range(64)]

    async def write(number: int) -> None:
        values = (channel_id, number, payloads[number])
        await driver.execute(
            await tables(INSERT_PAYLOAD), values, consistency=QUORUM, size_bytes=MIB
        )

    async def read(number: int) -> bytes:
        rows = await tables.execute(PAYLOAD, channel_id, number, size_bytes=MIB)
        return bytes(rows[0][0])

    await asyncio.gather(*map(write, range(32)))
    late_writes = asyncio.gather(*map(write, range(32, 64)))
    found = await asyncio.gather(*map(read, range(32)))
    await late_writes
    found += await asyncio.gather(*map(read, range(32, 64)))

    assert found == payloads
    retried = driver.counts["retries"] + driver.counts["hedges"]
    assert most <= limit + retried * MIB
    assert "ConnectionBusy" not in driver.counts
    assert "NoHostAvailable" not in driver.counts
    await until(lambda: not driver.lanes.used_bytes)
    await driver.close()


async def test_a_cancelled_caller_does_no_harm(prepared: Tables, channel_id: int) -> None:
    await prepared.execute(INSERT_PAYLOAD, channel_id, 0, bytes(MIB), size_bytes=MIB)
    reads = [
        asyncio.create_task(prepared.execute(PAYLOAD, channel_id, 0, size_bytes=MIB))
        for _ in range(30)
    ]
    await asyncio.sleep(0.02)
    for read in reads:
        read.cancel()
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await until(lambda: not prepared.driver.lanes.used_bytes)
    assert len(await prepared.execute(PAYLOAD, channel_id, 0, size_bytes=MIB)) == 1


async def test_closing_ends_requests_that_are_under_way(
    cassandra_settings: ConnectSettings, keyspace: Tier, channel_id: int
) -> None:
    driver = await Driver.connect(cassandra_settings)
    tables = Tables(driver, keyspace)
    select = await tables(PAYLOAD)
    await tables.execute(INSERT_PAYLOAD, channel_id, 0, bytes(MIB), size_bytes=MIB)
    reads = [
        asyncio.create_task(
            driver.execute(select, (channel_id, 0), consistency=QUORUM, size_bytes=MIB)
        )
        for _ in range(60)
    ]
    await asyncio.sleep(0.01)
    began = time.monotonic()
    await driver.close()
    outcomes = await asyncio.gather(*reads, return_exceptions=True)
    assert time.monotonic() - began < cassandra_settings.request_timeout_s / 2
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert failed
    assert {type(outcome) for outcome in failed} == {StoreUnavailable}
    assert not driver.lanes.used_bytes
    with pytest.raises(StoreUnavailable, match="closed"):
        await driver.execute(select, (channel_id, 0), consistency=QUORUM)
    await driver.close()  # again does nothing


# -- nodes that hang, and connections that end


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
async def patient(cassandra_settings: ConnectSettings) -> AsyncIterator[Driver]:
    """A driver that never hedges."""
    driver = await Driver.connect(replace(cassandra_settings, hedge_after_s=60.0))
    yield driver
    await driver.close()


async def statements_led_by(tables: Tables, cql: str, address: str) -> AsyncIterator[int]:
    """Channels whose partition has its first replica at an address."""
    statement = await tables(cql)
    for channel_id in _channel_ids:
        if (await tables.driver.replicas(statement, (channel_id,)))[0] == address:
            yield channel_id


def end_connections(driver: Driver, address: str) -> None:
    """What the driver sees when a node is killed."""
    # A copy: the driver takes the pool out as soon as it hears of it.
    for host, pool in list(driver._session._pools.items()):
        if host.address == address:
            pool._connection.defunct(ConnectionResetError("the node has died"))


async def test_a_node_that_hangs_is_hedged(
    cassandra_cluster: CassandraNodes,
    cassandra_settings: ConnectSettings,
    keyspace: Tier,
) -> None:
    driver = await Driver.connect(replace(cassandra_settings, hedge_after_s=0.2))
    tables = Tables(driver, keyspace)
    hanging = cassandra_cluster.nodes[0]
    led = statements_led_by(tables, BUCKETS, hanging.client_address)
    channels = [await anext(led) for _ in range(20)]
    insert = await tables(INSERT_BUCKET)
    with cassandra_cluster.paused(hanging):
        async with asyncio.timeout(cassandra_settings.request_timeout_s / 2):
            for channel_id in channels:
                values = (channel_id, 1)
                await driver.execute(insert, values, consistency=Consistency.LOCAL_QUORUM)
                assert list(await tables.execute(BUCKETS, channel_id)) == [(1,)]
            await tables(BUCKETS + " LIMIT 3")  # preparing as well
            await driver.run("SELECT key FROM system.local")
    assert driver.counts["hedges"] > 0
    await driver.close()


@pytest.mark.slow
async def test_a_request_whose_connection_ends_is_sent_to_another_replica(
    cassandra_cluster: CassandraNodes, patient: Driver, keyspace: Tier
) -> None:
    tables = Tables(patient, keyspace)
    dying = cassandra_cluster.nodes[1]
    channel_id = await anext(statements_led_by(tables, BUCKETS, dying.client_address))
    await tables.execute(INSERT_BUCKET, channel_id, 1)
    retries = patient.counts["retries"]
    with cassandra_cluster.paused(dying):
        reading = asyncio.create_task(tables.execute(BUCKETS, channel_id))
        await until(lambda: bool(patient.lanes.used_bytes))
        await asyncio.sleep(0.1)
        assert not reading.done()
        end_connections(patient, dying.client_address)
        assert list(await reading) == [(1,)]
    assert patient.counts["retries"] == retries + 1
    assert patient.counts["hedges"] == 0


async def test_a_transaction_whose_node_dies_is_unknown_and_not_sent_again(
    cassandra_cluster: CassandraNodes, patient: Driver, keyspace: Tier
) -> None:
    tables = Tables(patient, keyspace)
    dying = cassandra_cluster.nodes[2]
    settle = await tables(SETTLE)
    channel_id = await anext(statements_led_by(tables, LAYOUT, dying.client_address))
    retries = patient.counts["retries"]
    with cassandra_cluster.paused(dying):
        settling = asyncio.create_task(patient.transact([(settle, (channel_id, 2))]))
        await until(lambda: bool(patient.lanes.used_bytes))
        await asyncio.sleep(0.1)
        end_connections(patient, dying.client_address)
        with pytest.raises(TransactionUnknown):
            await settling
        assert patient.counts["retries"] == retries
    rows = await patient.execute(
        await tables(LAYOUT), (channel_id,), consistency=Consistency.LOCAL_SERIAL
    )
    assert list(rows) in ([], [(2,)]), "reading tells"


# -- passwords and TLS


@pytest.fixture(scope="module")
def secured() -> Iterator[ConnectSettings]:
    """How to reach a node that wants a password, over TLS."""
    with nodes_or_skip(
        count=1,
        heap_mib=320,
        security={"authentication": True, "client_tls": {"generate": True}},
    ) as nodes:
        yield superuser_settings(nodes.site)


@pytest.mark.cassandra
async def test_large_values_travel_over_tls(secured: ConnectSettings) -> None:
    driver = await Driver.connect(secured)
    centre = driver.hosts()[0].data_centre
    await driver.run(
        "CREATE KEYSPACE probe WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{centre}': 1}}"
    )
    await driver.run("CREATE TABLE probe.blobs (key int PRIMARY KEY, value blob)")
    tables = Tables(driver, Tier("probe", centre))
    values = [bytes(range(256)) * (MIB // 64), b"", bytes(3 * MIB + 1)]
    for key, value in enumerate(values):
        await tables.execute(
            "INSERT INTO blobs (key, value) VALUES (?, ?)", key, value, size_bytes=len(value)
        )
    found = await asyncio.gather(
        *(
            tables.execute("SELECT value FROM blobs WHERE key=?", key % 3, size_bytes=4 * MIB)
            for key in range(9)
        )
    )
    assert [bytes(rows[0][0]) for rows in found] == values * 3
    await driver.close()


@pytest.mark.cassandra
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"password": "no such secret"}, "the store refused the credentials"),
        ({"username": "nobody_here"}, "the store refused the credentials"),
        ({"username": ""}, "the store refused the credentials"),
        ({"tls": None}, "not enough nodes of the store answer"),
    ],
)
async def test_who_may_not_connect_is_told_why_and_nothing_else(
    secured: ConnectSettings, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(StoreError) as failed:
        await Driver.connect(replace(secured, connect_timeout_s=5.0, **changes))
    assert str(failed.value) == text


@pytest.mark.cassandra
async def test_a_certificate_of_another_authority_is_named_as_the_reason(
    secured: ConnectSettings,
) -> None:
    # An authority of somebody else: any that the system knows.
    other = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
    with pytest.raises(StoreError, match=r"certificate is not one of cassandra\.tls_ca_file"):
        await Driver.connect(replace(secured, tls=TlsSettings(other)))


def test_names_are_checked_unless_that_is_switched_off() -> None:
    ca_file = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
    by_default = driver_module._ssl_context(TlsSettings(ca_file))
    switched_off = driver_module._ssl_context(TlsSettings(ca_file, check_names=False))
    assert by_default is not None
    assert switched_off is not None
    assert by_default.check_hostname
    assert not switched_off.check_hostname
    assert switched_off.verify_mode is ssl.CERT_REQUIRED


@contextlib.asynccontextmanager
async def passed_off(settings: ConnectSettings) -> AsyncIterator[ConnectSettings]:
    """The node at an address that its certificate does not name."""
    [address] = settings.contact_points

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(1 << 16):
            writer.write(received)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        node_reader, node_writer = await asyncio.open_connection(address, settings.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(forward(reader, node_writer), forward(node_reader, writer))

    elsewhere = "127.0.0.1" if address != "127.0.0.1" else "127.0.0.2"
    server = await asyncio.start_server(serve, elsewhere, settings.port)
    try:
        yield replace(settings, contact_points=(elsewhere,))
    finally:
        server.close()


@pytest.mark.cassandra
async def test_a_node_is_not_believed_at_an_address_that_its_certificate_does_not_name(
    secured: ConnectSettings,
) -> None:
    assert secured.tls is not None
    assert secured.tls.check_names
    async with passed_off(secured) as settings:
        with pytest.raises(StoreError, match=r"for another address \(see .*tls_check_names\)"):
            await Driver.connect(settings)
        driver = await Driver.connect(
            replace(settings, tls=replace(secured.tls, check_names=False))
        )
        await driver.close()


async def test_files_for_tls_that_cannot_be_used_are_an_error_of_the_settings(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for ca_file in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ConfigError, match=r"cassandra\.tls_"):
            await Driver.connect(ConnectSettings(("127.0.0.1",), tls=TlsSettings(ca_file)))
