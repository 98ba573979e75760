"""The seam to the Cassandra driver: the only file that imports it.

Statements are prepared once and sent to a replica of the partition that they name, the one with the
fewest bytes in flight. Requests may be sent again (they are idempotent) to the other replicas, at
once when one fails and as a hedge when one is slow, until the request's time is over; only
transactions are sent once. What the driver raises stops here, see `translated`.

How many bytes are in flight to a host is bounded: the driver has no queue of its own and fails
where it should wait. That, and the copying of what is left in its buffer after every frame (which
is quadratic), are mended in `_Connection`.
"""

import asyncio
import contextlib
import enum
import random
import re
import socket
import ssl
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import cassandra
from cassandra import ConsistencyLevel, cluster, connection, pool, protocol
from cassandra.auth import PlainTextAuthProvider
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    ConstantReconnectionPolicy,
    FallthroughRetryPolicy,
    RoundRobinPolicy,
)
from cassandra.query import BatchStatement, BatchType, SimpleStatement, tuple_factory

from ndcass.concurrency import run_cpu
from ndcass.errors import StoreError, StoreTimeout, StoreUnavailable, TransactionUnknown

MIB = 1 << 20

# Rows are tuples of whatever the columns hold.
Row = tuple[Any, ...]

# Larger than the driver's 4 KiB: fewer calls. It reads at most a burst before it takes the frames
# out, since it copies what is left in the buffer after each of them (`make bench-cassandra`).
SOCKET_BYTES = 256 << 10
READ_BURST_BYTES = 2 * MIB
KERNEL_BUFFER_BYTES = 4 * MIB
# What a request without a payload counts, so that a million of them are bounded too.
SMALL_BYTES = 4 << 10
MOST_ATTEMPTS_AT_ONCE = 2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
HEARTBEAT_S = 10


class Consistency(enum.Enum):
    """How many replicas answer for a request."""

    ONE = ConsistencyLevel.ONE
    LOCAL_ONE = ConsistencyLevel.LOCAL_ONE
    QUORUM = ConsistencyLevel.QUORUM
    LOCAL_QUORUM = ConsistencyLevel.LOCAL_QUORUM
    ALL = ConsistencyLevel.ALL
    LOCAL_SERIAL = ConsistencyLevel.LOCAL_SERIAL
    SERIAL = ConsistencyLevel.SERIAL


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Encryption between the gateway and the nodes; paths of PEM files."""

    ca_file: Path
    certificate_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ConnectSettings:
    """How to reach a cluster.

    Attributes
    ----------
    contact_points : tuple of str
        Addresses of some nodes; the others are learned from them.
    request_timeout_s : float
        How long a request goes on trying.
    hedge_after_s : float
        After what time a request that has no answer yet is sent to another replica as well.
    bytes_in_flight : int
        The most that is under way to or from one host.
    """

    contact_points: tuple[str, ...]
    port: int = 9042
    username: str = ""
    password: str = field(default="", repr=False)
    tls: TlsSettings | None = None
    protocol_version: int = 4
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 20.0
    hedge_after_s: float = 2.0
    bytes_in_flight: int = 8 * MIB


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """A prepared statement. Its types are the driver's, which has none."""

    cql: str
    keyspace: str
    data_centre: str
    session: Any  # cluster.Session
    prepared: Any  # query.PreparedStatement


class Page(NamedTuple):
    """Some rows, and where the next ones begin; None at the end."""

    rows: Sequence[Row]
    state: bytes | None


class Host(NamedTuple):
    """A node as the driver sees it."""

    address: str
    data_centre: str
    is_up: bool


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """Whether a conditional change happened; if not, what was there instead, by column."""

    applied: bool
    rows: Sequence[dict[str, Any]]  # whatever the columns hold


Entries = Sequence[tuple[Statement, Sequence[object]]]


class Driver:
    """Connections to one cluster, for one event loop.

    `counts` has what happened behind the callers' backs: ``retries``, ``hedges`` and ``failures``
    by the name of the driver's exception.
    """

    def __init__(self, settings: ConnectSettings, cluster_: Any) -> None:  # cluster.Cluster
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster_
        self._session: Any = None  # cluster.Session
        self._statements: dict[tuple[str, str, str], Statement] = {}
        self._connecting = asyncio.Lock()
        self.lanes = Lanes(settings.bytes_in_flight)

    @classmethod
    async def connect(cls, settings: ConnectSettings) -> Self:
        """Connect to a cluster.

        Raises
        ------
        StoreUnavailable
            If none of the contact points answers.
        """
        self = cls(settings, _cluster(settings))
        try:
            await self._connected()
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Let go of all connections."""
        await run_cpu(self._cluster.shutdown)

    # -- statements

    async def prepare(self, cql: str, *, keyspace: str, data_centre: str) -> Statement:
        """A statement that names tables of `keyspace`, for the nodes of `data_centre`."""
        key = (cql, keyspace, data_centre)
        if key not in self._statements:
            session = await self._connected()
            prepared = await self._blocking(session.prepare, _qualified(cql, keyspace))
            self._statements[key] = Statement(cql, keyspace, data_centre, session, prepared)
        return self._statements[key]

    async def execute(
        self,
        statement: Statement,
        values: Sequence[object],
        *,
        consistency: Consistency,
        page_rows: int | None = None,
        size_bytes: int = SMALL_BYTES,
    ) -> Sequence[Row]:
        """Run an idempotent statement; all rows.

        Parameters
        ----------
        size_bytes : int
            About how large the request or a page of the answer is.

        Raises
        ------
        StoreUnavailable, StoreTimeout, StoreError
            If no replica could, within the request's time.
        """
        rows: list[Row] = []
        async for page in self.pages(
            statement,
            values,
            consistency=consistency,
            page_rows=page_rows,
            size_bytes=size_bytes,
        ):
            if not rows and isinstance(page, list):
                rows = page
            else:
                rows.extend(page)
        return rows

    async def pages(
        self,
        statement: Statement,
        values: Sequence[object],
        *,
        consistency: Consistency,
        page_rows: int | None = None,
        size_bytes: int = SMALL_BYTES,
    ) -> AsyncIterator[Sequence[Row]]:
        """As `execute`, page by page; the next one is asked for when it is wanted."""
        state: bytes | None = None
        while True:
            page = await self.page(
                statement,
                values,
                consistency=consistency,
                page_rows=page_rows,
                state=state,
                size_bytes=size_bytes,
            )
            yield page.rows
            state = page.state
            if state is None:
                return

    async def page(
        self,
        statement: Statement,
        values: Sequence[object],
        *,
        consistency: Consistency,
        page_rows: int | None = None,
        state: bytes | None = None,
        size_bytes: int = SMALL_BYTES,
        avoid: Sequence[str] = (),
    ) -> Page:
        """One page of rows, from `state` on; replicas in `avoid` (addresses) are asked last."""
        bound = statement.prepared.bind(values)
        bound.consistency_level = consistency.value
        if page_rows is not None:
            bound.fetch_size = page_rows
        hosts = self._replicas(statement, bound.routing_key)
        if avoid:
            hosts = sorted(hosts, key=lambda host: host.address in avoid)
        call = await self._asked(
            statement.session, bound, hosts, size_bytes, state=state, in_order=bool(avoid)
        )
        return Page(call.rows, call.state)

    async def replicas(self, statement: Statement, values: Sequence[object]) -> Sequence[str]:
        """Addresses of the nodes that keep the partition of a statement, the best first."""
        bound = statement.prepared.bind(values)
        return [host.address for host in self._replicas(statement, bound.routing_key)]

    async def execute_batch(
        self, entries: Entries, *, consistency: Consistency, size_bytes: int = SMALL_BYTES
    ) -> None:
        """Idempotent changes of ONE partition, together: all of them or none."""
        batch = _batch(entries)
        batch.consistency_level = consistency.value
        first = entries[0][0]
        hosts = self._replicas(first, batch.routing_key)
        await self._asked(first.session, batch, hosts, size_bytes)

    async def transact(
        self, entries: Entries, *, commit: Consistency = Consistency.LOCAL_QUORUM
    ) -> TransactionResult:
        """A lightweight transaction: one conditional statement, or several of ONE partition.

        It is never sent twice.

        Raises
        ------
        TransactionUnknown
            If it may or may not have happened: read at LOCAL_SERIAL to know.
        StoreUnavailable
            If it was not even sent.
        """
        first, values = entries[0]
        query = first.prepared.bind(values) if len(entries) == 1 else _batch(entries)
        query.consistency_level = commit.value
        query.serial_consistency_level = ConsistencyLevel.LOCAL_SERIAL
        hosts = self._replicas(first, query.routing_key)
        call = await self._asked(first.session, query, hosts, SMALL_BYTES, once=True)
        rows = [dict(zip(call.columns, row, strict=True)) for row in call.rows]
        applied = bool(rows) and all(row.pop("[applied]", True) for row in rows)
        return TransactionResult(applied, () if applied else rows)

    async def run(
        self, cql: str, values: Sequence[object] = (), *, address: str = ""
    ) -> Sequence[Row]:
        """An unprepared statement: schema changes and system tables, at one node or any.

        Returns when the nodes agree on the schema. `values` go where the text has ``%s``.
        """
        session = await self._connected()
        hosts = [
            h for h in self._cluster.metadata.all_hosts() if not address or h.address == address
        ]
        if address and not hosts:
            raise StoreUnavailable("the node is not part of the cluster")

        def execute() -> Sequence[Row]:
            statement = SimpleStatement(cql, consistency_level=ConsistencyLevel.LOCAL_ONE)
            host = hosts[0] if address else None
            return list(session.execute(statement, tuple(values) or None, host=host))

        rows: Sequence[Row] = await self._blocking(execute)
        return rows

    def hosts(self) -> Sequence[Host]:
        """The nodes, as far as the driver knows."""
        return [
            Host(str(host.address), str(host.datacenter), bool(host.is_up))
            for host in self._cluster.metadata.all_hosts()
        ]

    # -- requests

    def _replicas(self, statement: Statement, routing_key: bytes | None) -> list[Any]:
        """Whom to ask, the best first; any node of the data centre where no replica is known."""
        found: Sequence[Any] = ()
        if routing_key is not None:
            found = self._cluster.metadata.get_replicas(statement.keyspace, routing_key)
        if not found:
            every = self._cluster.metadata.all_hosts()
            found = [h for h in every if h.datacenter == statement.data_centre]
            random.shuffle(found)
        if not found:
            raise StoreUnavailable("no node of the store's data centre is known")
        return self.lanes.sorted(found)

    async def _asked(
        self,
        session: Any,  # cluster.Session
        query: Any,  # query.Statement
        hosts: Sequence[Any],
        size_bytes: int,
        *,
        state: bytes | None = None,
        once: bool = False,
        in_order: bool = False,
    ) -> "_Call":
        began = self._loop.time()
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                first = await self.lanes.enter(hosts[:1] if in_order else hosts, size_bytes)
        except TimeoutError:
            raise StoreUnavailable("the store is too busy, or does not answer") from None
        call = _Call(self, session, query, hosts, size_bytes, state=state, once=once)
        call.deadline = began + self.settings.request_timeout_s
        call.begin(first)
        return await call.outcome

    async def _connected(self) -> Any:  # cluster.Session
        async with self._connecting:
            if self._session is None:
                self._session = await self._blocking(self._cluster.connect)
        return self._session

    async def _blocking(self, func: Callable[..., Any], *args: object) -> Any:
        """A call of the driver that blocks, with its errors translated."""
        try:
            return await run_cpu(func, *args)
        except Exception as error:
            self.counts[type(error).__name__] += 1
            raise translated(error)[0] from error


class _Call:
    """One request until it has an answer: attempts, hedges and pauses.

    `outcome` is resolved with the call itself; the lanes of attempts that still go on then are left
    when those end.
    """

    def __init__(
        self,
        driver: Driver,
        session: Any,  # cluster.Session
        query: Any,  # query.Statement
        hosts: Sequence[Any],
        size_bytes: int,
        *,
        state: bytes | None,
        once: bool,
    ) -> None:
        self.rows: Sequence[Row] = ()
        self.columns: Sequence[str] = ()
        self.state: bytes | None = None
        self.deadline = 0.0
        self._driver = driver
        self._loop = driver._loop
        self._session = session
        self._query = query
        self._hosts = hosts
        self._size_bytes = size_bytes
        self._asked_from = state
        self._once = once
        self.outcome: asyncio.Future[_Call] = self._loop.create_future()
        self._tried: list[Any] = []
        self._under_way = 0
        self._failure: StoreError | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, host: Any) -> None:
        """Send it to a host whose lane was entered."""
        self._under_way += 1
        self._tried.append(host)
        self._watch()
        future = self._session.execute_async(
            self._query, host=host, timeout=None, paging_state=self._asked_from
        )
        # Both are called on the driver's thread (or on this one, at once); what they raise is lost.
        future.add_callbacks(self._hand_rows, self._hand_error, (host, future), None, (host,))

    def _hand_rows(self, rows: Any, host: Any, future: Any) -> None:
        state = future._paging_state  # `ResultSet` would give it on top of the rows only
        self._hand_over(self._answered, host, rows or (), state, future._col_names)

    def _hand_error(self, error: Exception, host: Any) -> None:
        self._hand_over(self._failed, host, error)

    def _hand_over(self, func: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the caller
            self._loop.call_soon_threadsafe(func, *args)

    def _answered(self, host: Any, rows: Any, state: bytes | None, columns: Any) -> None:
        self._driver.lanes.leave(host, self._size_bytes)
        self._under_way -= 1
        if self.outcome.done():  # another attempt was quicker, or the caller has gone
            return
        self.rows, self.state, self.columns = rows, state, columns or ()
        self._end()
        self.outcome.set_result(self)

    def _failed(self, host: Any, error: Exception) -> None:
        driver = self._driver
        driver.lanes.leave(host, self._size_bytes)
        driver.counts[type(error).__name__] += 1
        self._under_way -= 1
        if self.outcome.done():
            return
        failure, again = translated(error)
        failure.__cause__ = error
        # What speaks of the partition says more than that one node is away.
        if self._failure is None or not isinstance(error, cluster.NoHostAvailable):
            self._failure = failure
        if self._once:
            never_sent = isinstance(error, cluster.NoHostAvailable)
            if never_sent and len(self._tried) < len(self._hosts):
                self._again()
            else:
                self._refuse(_of_transaction(failure, error))
        elif not again:
            self._refuse(failure)
        elif not self._under_way:
            self._next()

    def _next(self) -> None:
        """The next host at once; after all of them were tried, a pause first."""
        rounds, place = divmod(len(self._tried), len(self._hosts))
        if place or rounds == 0:
            self._again()
            return
        pause = min(FIRST_PAUSE_S * 2 ** (rounds - 1), LONGEST_PAUSE_S)
        self._loop.call_later(pause * random.uniform(0.5, 1.0), self._again)  # noqa: S311

    def _again(self) -> None:
        if self.outcome.done():
            self._end()
            return
        if self._loop.time() >= self.deadline:
            self._refuse(self._failure or StoreTimeout("the store did not answer in time"))
            return
        self._driver.counts["retries"] += 1
        host = self._hosts[len(self._tried) % len(self._hosts)]
        if len(self._hosts) > 1 and host is self._tried[-1]:
            host = next(other for other in self._hosts if other is not host)
        self._driver.lanes.force(host, self._size_bytes)
        self.begin(host)

    def _watch(self) -> None:
        """Wake up when it is time for a hedge, or for giving up."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._loop.time()
        wait_s = self.deadline - now
        if not self._once and self._under_way < MOST_ATTEMPTS_AT_ONCE:
            wait_s = min(wait_s, self._driver.settings.hedge_after_s)
        self._timer = self._loop.call_later(max(0.0, wait_s), self._look)

    def _look(self) -> None:
        if self.outcome.done():
            return
        if self._loop.time() >= self.deadline:
            late = StoreTimeout("the store did not answer in time")
            self._refuse(TransactionUnknown(str(late)) if self._once else self._failure or late)
        elif 0 < self._under_way < MOST_ATTEMPTS_AT_ONCE:
            self._driver.counts["hedges"] += 1
            self._again()
        else:
            self._watch()

    def _refuse(self, error: StoreError) -> None:
        self._end()
        self.outcome.set_exception(error)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class Lanes:
    """Bytes in flight by host; who would put too many on all of its hosts waits."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes: defaultdict[Any, int] = defaultdict(int)
        self._waiting: deque[asyncio.Future[None]] = deque()

    def sorted(self, hosts: Sequence[Any]) -> list[Any]:
        """Hosts that are up first, then those with less in flight; else as they came."""
        used = self.used_bytes
        return sorted(hosts, key=lambda host: (host.is_up is False, used[host]))

    async def enter(self, hosts: Sequence[Any], size_bytes: int) -> Any:
        """The first of the hosts that has room, which is then taken; waits for one."""
        while True:
            for host in hosts:
                used = self.used_bytes[host]
                # A request above the limit goes alone.
                if (not used or used + size_bytes <= self.limit_bytes) and host.is_up is not False:
                    self.used_bytes[host] = used + size_bytes
                    return host
            if all(host.is_up is False for host in hosts):
                self.force(hosts[0], size_bytes)
                return hosts[0]
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                self._wake()  # for somebody else, if this turn had come
                raise

    def force(self, host: Any, size_bytes: int) -> None:
        """Take room whether there is any or not: for another attempt of what is already counted."""
        self.used_bytes[host] += size_bytes

    def leave(self, host: Any, size_bytes: int) -> None:
        """Give room back."""
        self.used_bytes[host] -= size_bytes
        self._wake()

    def _wake(self) -> None:
        """All who wait look again, in order: which of them fits depends on their hosts."""
        waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)


# -- what the driver is told


class _Connection(LibevConnection):  # type: ignore[misc]  # the driver has no types
    """The driver's connection with larger buffers, short bursts of reading, and no refusals."""

    in_buffer_size = SOCKET_BYTES
    out_buffer_size = SOCKET_BYTES

    @property
    def _socket_writable(self) -> bool:
        """Always: the stock one refuses requests while the socket is full instead of queueing."""
        return True

    @_socket_writable.setter
    def _socket_writable(self, value: bool) -> None:
        """Ignored; what may pile up is bounded by `Lanes`."""

    def handle_read(self, watcher: Any, revents: Any, errno: Any = None) -> None:
        """Read a burst and take the frames out; the reactor calls again if there is more."""
        buffered = self._iobuf
        try:
            left = READ_BURST_BYTES
            while left > 0:
                chunk = self._socket.recv(SOCKET_BYTES)
                if not chunk:
                    break
                buffered.write(chunk)
                left -= len(chunk)
                if len(chunk) < SOCKET_BYTES:
                    break
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self.defunct(error)
            return
        else:
            if left == READ_BURST_BYTES:  # the other side has closed
                self.close()
                return
        if buffered.tell():
            self.process_io_buffer()


def _cluster(settings: ConnectSettings) -> Any:  # cluster.Cluster
    profile = cluster.ExecutionProfile(
        load_balancing_policy=RoundRobinPolicy(),  # which takes every host in; we choose among them
        retry_policy=FallthroughRetryPolicy(),
        row_factory=tuple_factory,
        request_timeout=settings.request_timeout_s,
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
    )
    options = [(socket.SOL_SOCKET, option, KERNEL_BUFFER_BYTES) for option in _SOCKET_OPTIONS]
    return cluster.Cluster(
        contact_points=list(settings.contact_points),
        port=settings.port,
        auth_provider=_credentials(settings),
        ssl_context=_ssl_context(settings.tls),
        connection_class=_Connection,
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *options],
        compression=False,
        protocol_version=settings.protocol_version,
        execution_profiles={cluster.EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ConstantReconnectionPolicy(1.0, max_attempts=None),
        connect_timeout=settings.connect_timeout_s,
        control_connection_timeout=settings.connect_timeout_s,
        idle_heartbeat_interval=HEARTBEAT_S,
        idle_heartbeat_timeout=HEARTBEAT_S,
        schema_event_refresh_window=0,
        monitor_reporting_enabled=False,
    )


_SOCKET_OPTIONS = (socket.SO_SNDBUF, socket.SO_RCVBUF)


def _credentials(settings: ConnectSettings) -> Any:
    if not settings.username:
        return None
    return PlainTextAuthProvider(settings.username, settings.password)


def _ssl_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    context = ssl.create_default_context(cafile=str(tls.ca_file))
    context.check_hostname = False  # nodes are known by address; the authority is the cluster's own
    if tls.certificate_file is not None:
        context.load_cert_chain(tls.certificate_file, tls.key_file)
    return context


# Where a statement names its table.
_TABLE = re.compile(r"\b(FROM|INTO|UPDATE)\s+(?=[a-z_]+\b(?!\.))")


def _qualified(cql: str, keyspace: str) -> str:
    """A statement with its table's keyspace, which the server wants to see in prepared ones."""
    return _TABLE.sub(rf"\1 {keyspace}.", cql)


def _batch(entries: Entries) -> Any:  # query.BatchStatement
    batch = BatchStatement(batch_type=BatchType.UNLOGGED)
    for statement, values in entries:
        batch.add(statement.prepared.bind(values))
    return batch


# -- what may go wrong


class _Place(NamedTuple):
    """What an exception of the driver becomes, and whether another replica may do better."""

    kind: type[StoreError]
    text: str
    again: bool


_AWAY = _Place(StoreUnavailable, "not enough nodes of the store answer", again=True)
_LATE = _Place(StoreTimeout, "the store did not answer in time", again=True)
_FAILED = _Place(StoreError, "nodes of the store failed", again=True)
_BUSY = _Place(StoreUnavailable, "the store is too busy", again=True)
_REFUSED = _Place(StoreError, "the store refused the credentials", again=False)
_WRONG = _Place(StoreError, "the store does not understand the request", again=False)
_SCHEMA = _Place(
    StoreError, "the store's schema is not the one that this ndcass needs", again=False
)

# Every exception that the driver defines, by its nearest listed class. ``tests`` walk through the
# driver's modules and demand a place for each.
PLACES: dict[type[BaseException], _Place] = {
    cassandra.Unavailable: _AWAY,
    cassandra.Timeout: _LATE,
    cassandra.CoordinationFailure: _FAILED,
    cassandra.CDCWriteFailure: _FAILED,
    cassandra.FunctionFailure: _WRONG,
    cassandra.RequestExecutionException: _FAILED,
    cassandra.RequestValidationException: _WRONG,
    cassandra.InvalidRequest: _SCHEMA,
    cassandra.Unauthorized: _REFUSED,
    cassandra.AuthenticationFailed: _REFUSED,
    cassandra.OperationTimedOut: _LATE,
    cassandra.UnresolvableContactPoints: _AWAY,
    cassandra.UnsupportedOperation: _WRONG,
    cassandra.DriverException: _FAILED,
    cassandra.DependencyException: _WRONG,
    cluster.NoHostAvailable: _AWAY,
    cluster.UserTypeDoesNotExist: _SCHEMA,
    cluster.QueryExhausted: _WRONG,
    connection.ConnectionException: _AWAY,
    connection.ProtocolVersionUnsupported: _WRONG,
    connection.ConnectionBusy: _BUSY,
    connection.ProtocolError: _FAILED,
    pool.NoConnectionsAvailable: _BUSY,
    protocol.NotSupportedError: _WRONG,
    protocol.InternalError: _FAILED,
    protocol.ErrorMessage: _FAILED,
    protocol.OverloadedErrorMessage: _BUSY,
    protocol.UnavailableErrorMessage: _AWAY,
    protocol.IsBootstrappingErrorMessage: _AWAY,
    protocol.ReadTimeoutErrorMessage: _LATE,
    protocol.WriteTimeoutErrorMessage: _LATE,
    protocol.BadCredentials: _REFUSED,
    protocol.ProtocolException: _WRONG,
    protocol.RequestValidationException: _WRONG,
    protocol.InvalidRequestException: _SCHEMA,
}
_UNKNOWN = _Place(StoreError, "the connection to the store failed", again=True)


def translated(error: BaseException) -> tuple[StoreError, bool]:
    """Our error for one of the driver's, and whether asking another replica makes sense."""
    if isinstance(error, StoreError):
        return error, False
    if isinstance(error, cluster.NoHostAvailable):
        refused = (cassandra.AuthenticationFailed, protocol.BadCredentials)
        if any(isinstance(reason, refused) for reason in _reasons(error)):
            return StoreError(_REFUSED.text), False
    place = next((PLACES[kind] for kind in type(error).__mro__ if kind in PLACES), _UNKNOWN)
    return place.kind(place.text), place.again


def _reasons(error: Any) -> Sequence[Any]:  # cluster.NoHostAvailable
    return list(error.errors.values()) if isinstance(error.errors, dict) else []


def _of_transaction(failure: StoreError, error: BaseException) -> StoreError:
    """What a transaction that failed once raises: unknown, unless it was certainly not sent."""
    if isinstance(error, cluster.NoHostAvailable):
        return failure
    if isinstance(
        error, cassandra.RequestValidationException | protocol.RequestValidationException
    ):
        return failure
    unknown = TransactionUnknown("whether the store made the change is unknown")
    unknown.__cause__ = error
    return unknown
