"""The Cassandra driver as it comes, without ndcass: what the engine is measured against.

Its own connections, its own policies, nothing checked, nothing put together; only the number of
requests under way is chosen, by trying, for whatever is fastest.
"""

import time
from collections.abc import Sequence
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.concurrent import execute_concurrent, execute_concurrent_with_args
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, tuple_factory

from ndcass.store.cassandra.rows import Bucket

READS_AT_ONCE = (2, 4, 8, 16)
# `execute_concurrent` takes no less than two.
WRITES_AT_ONCE = (2, 3, 4, 6)
PAGE_ROWS = 16

_KEY = "channel, pyramid, level, t, bucket"
_READ = (
    "SELECT morton, kind, write_id, part, payload FROM {keyspace}.cuboids "
    "WHERE channel=? AND pyramid=? AND level=? AND t=? AND bucket=?"
)
_WRITE = (
    "INSERT INTO {keyspace}.cuboids "
    "(channel, pyramid, level, t, bucket, morton, kind, write_id, part, payload) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class BareDriver:
    """A session of the driver on the table of cuboids."""

    def __init__(
        self, contact_points: Sequence[str], port: int, *, keyspace: str, data_centre: str
    ) -> None:
        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(data_centre)),
            row_factory=tuple_factory,
            request_timeout=60,
        )
        self._cluster = Cluster(
            list(contact_points),
            port=port,
            compression=False,
            protocol_version=4,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        )
        self._session = self._cluster.connect()
        self._read = self._session.prepare(_READ.format(keyspace=keyspace))
        self._read.fetch_size = PAGE_ROWS
        self._write = self._session.prepare(_WRITE.format(keyspace=keyspace))

    def close(self) -> None:
        self._cluster.shutdown()

    def read(self, buckets: Sequence[Bucket], *, at_once: int, quorum: bool) -> float:
        """Seconds for all payloads of some buckets."""
        level = ConsistencyLevel.LOCAL_QUORUM if quorum else ConsistencyLevel.ONE
        self._read.consistency_level = level
        began = time.perf_counter()
        results = execute_concurrent_with_args(
            self._session, self._read, buckets, concurrency=at_once, results_generator=True
        )
        for _, rows in results:
            for _ in rows:
                pass
        return time.perf_counter() - began

    def write(
        self, batches: Sequence[Sequence[tuple[Bucket, int, bytes, bytes]]], *, at_once: int
    ) -> float:
        """Seconds for some batches of (bucket, Morton code, write id, payload), each one bucket."""
        statements = []
        began = time.perf_counter()
        for rows in batches:
            batch = BatchStatement(
                BatchType.UNLOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM
            )
            for bucket, morton, write_id, payload in rows:
                batch.add(self._write, (*bucket, morton, 0, write_id, 0, payload))
            statements.append((batch, None))
        execute_concurrent(self._session, statements, concurrency=at_once)
        return time.perf_counter() - began

    def best_of_reads(self, buckets: Sequence[Bucket], *, quorum: bool) -> int:
        """How many reads at once are fastest."""
        return _best(READS_AT_ONCE, lambda n: self.read(buckets, at_once=n, quorum=quorum))

    def best_of_writes(self, batches: Any) -> int:  # as `write`
        """How many writes at once are fastest, of those that the driver does not refuse."""
        return _best(WRITES_AT_ONCE, lambda n: self.write(batches, at_once=n))


def _best(choices: Sequence[int], measure: Any) -> int:  # a callable
    times: dict[int, float] = {}
    for choice in choices:
        try:
            times[choice] = min(measure(choice) for _ in range(3))
        except Exception as error:  # noqa: BLE001 - it refuses what is too much for it
            print(f"the bare driver fails with {choice} at once: {type(error).__name__}: {error}")
            break
    return min(times, key=lambda choice: times[choice])
