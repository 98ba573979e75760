"""The seam to the Cassandra driver: the only file that imports it.

Statements are prepared once and sent to a replica of the partition that they name, the one with the
fewest bytes in flight. Requests may be sent again (they are idempotent) to the other replicas, see
``calls.py``; only transactions are sent once. What the driver raises stops here, see `translated`.

How many bytes are in flight to a host is bounded (``lanes.py``): the driver has no queue of its own
and fails where it should wait. That, and the copying of what is left in its buffer after every
frame (which is quadratic), are mended in `_Connection`.
"""

import asyncio
import enum
import random
import re
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import cassandra
from cassandra import (
    ConsistencyLevel,
    cluster,
    connection,
    metadata,
    pool,
    protocol,
    segment,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    ConstantReconnectionPolicy,
    FallthroughRetryPolicy,
    RoundRobinPolicy,
)
from cassandra.query import (
    BatchStatement,
    BatchType,
    PreparedStatement,
    SimpleStatement,
    TraceUnavailable,
    tuple_factory,
)

from ndcass.concurrency import run_cpu
from ndcass.errors import ConfigError, StoreError, StoreTimeout, StoreUnavailable
from ndcass.store.cassandra.calls import Answer, Call, OnOutcome, Send, Verdict
from ndcass.store.cassandra.lanes import Lanes

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
HEARTBEAT_S = 10
# A node gathers a page in its heap, and rows may be cuboids.
UNPREPARED_PAGE_ROWS = 100


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
    check_names: bool = True
    """Whether a node's certificate has to name the address that the node is reached at."""


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
    prepared: Any  # query.PreparedStatement

    @property
    def reads(self) -> bool:
        """Whether it changes nothing."""
        return self.cql.startswith("SELECT")


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

    `counts` has what happened behind the callers' backs: ``retries``, ``hedges``, ``lost`` and
    failures by the name of the driver's exception.
    """

    def __init__(self, settings: ConnectSettings, cluster_: Any) -> None:  # cluster.Cluster
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.lanes = Lanes(settings.bytes_in_flight)
        self._loop = asyncio.get_running_loop()
        self._cluster = cluster_
        self._session: Any = None  # cluster.Session
        self._statements: dict[tuple[str, str, str], Statement] = {}
        self._calls: set[Call] = set()
        self._is_closed = False

    @classmethod
    async def connect(cls, settings: ConnectSettings) -> Self:
        """Connect to a cluster.

        Raises
        ------
        ConfigError
            If the files for TLS cannot be used.
        StoreUnavailable
            If none of the contact points answers.
        StoreError
            If the cluster refuses the credentials, or its certificate is none of the authority.
        """
        context = await run_cpu(_ssl_context, settings.tls)
        try:
            self = cls(settings, await run_cpu(_cluster, settings, context))
        except Exception as error:
            raise translated(error)[0] from error
        try:
            self._session = await run_cpu(self._cluster.connect)
        except Exception as error:
            await self.close()
            raise translated(error)[0] from error
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Let go of all connections; requests that are under way fail."""
        self._is_closed = True
        for call in list(self._calls):
            call.abandon(_closed())
        await run_cpu(self._cluster.shutdown)

    # -- statements

    async def prepare(self, cql: str, *, keyspace: str, data_centre: str) -> Statement:
        """A statement that names tables of `keyspace`, for the nodes of `data_centre`."""
        key = (cql, keyspace, data_centre)
        statement = self._statements.get(key)
        if statement is None:
            hosts = self._nodes_of(data_centre)
            prepared = await self._prepare(_qualified(cql, keyspace), hosts)
            statement = self._statements[key] = Statement(cql, keyspace, data_centre, prepared)
        return statement

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
        send = self._sender(bound, state=state)
        try:
            answer = await self._asked(send, hosts, size_bytes, in_order=bool(avoid))
        except StoreTimeout as error:
            if not statement.reads:
                raise
            # Nothing was changed, so nothing is unknown.
            raise StoreUnavailable("the store does not answer in time") from error
        return Page(answer.rows, answer.state)

    async def replicas(self, statement: Statement, values: Sequence[object]) -> Sequence[str]:
        """Addresses of the nodes that keep the partition of a statement, the best first."""
        bound = statement.prepared.bind(values)
        return [host.address for host in self._replicas(statement, bound.routing_key)]

    async def execute_batch(
        self, entries: Entries, *, consistency: Consistency, size_bytes: int = SMALL_BYTES
    ) -> None:
        """Idempotent changes, together: of one partition all of them or none.

        Those of several partitions may be seen, and may stay, some without the others.
        """
        batch = _batch(entries)
        batch.consistency_level = consistency.value
        first = entries[0][0]
        hosts = self._replicas(first, batch.routing_key)
        await self._asked(self._sender(batch), hosts, size_bytes)

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
        answer = await self._asked(self._sender(query), hosts, once=True)
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        verdicts = [row.pop("[applied]", True) for row in rows]
        applied = bool(rows) and all(verdicts)
        return TransactionResult(applied, () if applied else rows)

    async def run(
        self,
        cql: str,
        values: Sequence[object] = (),
        *,
        address: str = "",
        timeout_s: float | None = None,
    ) -> Sequence[Row]:
        """An unprepared statement: schema changes and system tables, at one node or any.

        Returns when the nodes agree on the schema. `values` go where the text has ``%s``;
        `timeout_s` is for what takes longer than a request may. Only questions are asked twice.
        """
        every = self._cluster.metadata.all_hosts()
        hosts = [host for host in every if not address or host.address == address]
        if not hosts:
            raise StoreUnavailable("the node is not part of the cluster")
        random.shuffle(hosts)
        hosts = self.lanes.sorted(hosts)
        statement = SimpleStatement(
            cql, consistency_level=ConsistencyLevel.LOCAL_ONE, fetch_size=UNPREPARED_PAGE_ROWS
        )
        once = not cql.lstrip().upper().startswith(("SELECT", "DESCRIBE"))
        rows: list[Row] = []
        state: bytes | None = None
        while True:
            send = self._sender(statement, tuple(values) or None, state=state)
            answer = await self._asked(send, hosts, once=once, timeout_s=timeout_s)
            rows.extend(answer.rows)
            state = answer.state
            if state is None:
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
        return self.lanes.sorted(found) if found else self._nodes_of(statement.data_centre)

    def _nodes_of(self, data_centre: str) -> list[Any]:
        """The nodes of a data centre, the best first."""
        every = self._cluster.metadata.all_hosts()
        found = [host for host in every if host.datacenter == data_centre]
        if not found:
            raise StoreUnavailable("no node of the store's data centre is known")
        random.shuffle(found)
        return self.lanes.sorted(found)

    async def _prepare(self, cql: str, hosts: Sequence[Any]) -> Any:  # query.PreparedStatement
        """What `Session.prepare` does, but with hedges and without blocking."""
        session = self._session

        def ask(host: Any) -> Any:  # cluster.ResponseFuture
            future = cluster.ResponseFuture(
                session,
                protocol.PrepareMessage(query=cql),
                query=None,
                timeout=None,
                retry_policy=FallthroughRetryPolicy(),
                host=host,
            )
            future.send_request()
            return future

        def send(host: Any, on_outcome: OnOutcome) -> None:
            ask(host).add_callbacks(
                lambda response: on_outcome(Answer([(response,)], None, ())), on_outcome
            )

        answer = await self._asked(send, hosts)
        [[response]] = answer.rows
        prepared = PreparedStatement.from_message(
            response.query_id,
            response.bind_metadata,
            response.pk_indexes,
            self._cluster.metadata,
            cql,
            None,
            self.settings.protocol_version,
            response.column_metadata,
            response.result_metadata_id,
            self._cluster.column_encryption_policy,
        )
        self._cluster.add_prepared(response.query_id, prepared)
        # A node that does not know a statement asks for it, but gets the values twice then. So all
        # are told; nobody waits for them.
        for host in hosts:
            ask(host)
        return prepared

    def _sender(
        self,
        query: Any,  # query.Statement
        values: tuple[object, ...] | None = None,
        *,
        state: bytes | None = None,
    ) -> Send:
        """Sends a query to a host; what comes back is handed over on the driver's thread."""
        session = self._session

        def send(host: Any, on_outcome: OnOutcome) -> None:
            future = session.execute_async(
                query, values, host=host, timeout=None, paging_state=state
            )
            future.add_callbacks(
                # `ResultSet` would know the page's end as well, on top of the rows only.
                lambda rows: on_outcome(
                    Answer(rows or (), future._paging_state, future._col_names or ())
                ),
                on_outcome,
            )

        return send

    async def _asked(
        self,
        send: Send,
        hosts: Sequence[Any],
        size_bytes: int = SMALL_BYTES,
        *,
        once: bool = False,
        in_order: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        timeout_s = self.settings.request_timeout_s if timeout_s is None else timeout_s
        deadline = self._loop.time() + timeout_s
        if self._is_closed:
            raise _closed()
        try:
            async with asyncio.timeout_at(deadline):
                first = await self.lanes.enter(hosts[:1] if in_order else hosts, size_bytes)
        except TimeoutError:
            raise StoreUnavailable("the store is too busy, or does not answer") from None
        if self._is_closed:
            self.lanes.leave(first, size_bytes)
            raise _closed()
        call = Call(
            self.lanes,
            self.counts,
            hosts=hosts,
            size_bytes=size_bytes,
            send=send,
            judge=self._judge,
            deadline=deadline,
            hedge_after_s=self.settings.hedge_after_s,
            once=once,
        )
        self._calls.add(call)
        try:
            return await call.answer(first)
        finally:
            self._calls.discard(call)

    def _judge(self, error: Exception) -> Verdict:
        self.counts[type(error).__name__] += 1
        failure, again = translated(error)
        if failure is not error:
            failure.__cause__ = error
        return Verdict(
            failure,
            again,
            was_sent=not isinstance(error, cluster.NoHostAvailable),
            was_refused=isinstance(error, _REFUSALS),
        )


def _closed() -> StoreError:
    return StoreUnavailable("the store was closed")


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


def _cluster(settings: ConnectSettings, context: ssl.SSLContext | None) -> Any:  # cluster.Cluster
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
        ssl_context=context,
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
        prepare_on_all_hosts=False,
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
    try:
        context = ssl.create_default_context(cafile=str(tls.ca_file))
        if tls.certificate_file is not None:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"a file of the cassandra.tls_ settings cannot be used: {error}"
        ) from error
    # The driver then compares with the address. Without it whoever has any certificate of the
    # authority, perhaps a client's, can pass for a node.
    context.check_hostname = tls.check_names
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
    metadata.NoMurmur3: _WRONG,
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
    TraceUnavailable: _FAILED,
    segment.CrcException: _AWAY,
}
_UNTRUSTED = _Place(
    StoreError, "the store's certificate is not one of cassandra.tls_ca_file", again=False
)
_MISNAMED = _Place(
    StoreError,
    "the store's certificate is for another address (see cassandra.tls_check_names)",
    again=False,
)
# As OpenSSL says it, of a name or an IP address.
_OTHER_NAME = "mismatch, certificate is not valid for"
# A node that says so has not carried out what it was asked to.
_REFUSALS = (cassandra.RequestValidationException, protocol.RequestValidationException)
_UNKNOWN = _Place(StoreError, "the connection to the store failed", again=True)


def translated(error: BaseException) -> tuple[StoreError, bool]:
    """Our error for one of the driver's, and whether asking another replica makes sense."""
    if isinstance(error, StoreError):
        return error, False
    if isinstance(error, cluster.NoHostAvailable):
        # Why no node can be used at all says more than that none was available.
        for reason in _reasons(error):
            if isinstance(reason, cassandra.AuthenticationFailed | protocol.BadCredentials):
                return StoreError(_REFUSED.text), False
            if _OTHER_NAME in str(reason):  # an OSError: the driver wraps them
                return StoreError(_MISNAMED.text), False
            if "CERTIFICATE_VERIFY_FAILED" in str(reason):
                return StoreError(_UNTRUSTED.text), False
    place = next((PLACES[kind] for kind in type(error).__mro__ if kind in PLACES), _UNKNOWN)
    return place.kind(place.text), place.again


def _reasons(error: Any) -> Sequence[Any]:  # cluster.NoHostAvailable
    return list(error.errors.values()) if isinstance(error.errors, dict) else []
