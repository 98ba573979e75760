"""The engine on Apache Cassandra: all stores over one cluster.

Where what is: ``driver.py`` is the seam to the driver. ``rows.py``, ``buckets.py`` and
``writing.py`` make up ``cuboids.py``; ``layouts.py`` and ``occupancy.py`` say how a channel is
spread and which partitions it has; ``fold.py`` turns many rows into one. Names are in
``catalog.py``, background work in ``jobs.py``, what of the pyramids is old in ``stale.py``,
annotations in ``objects.py`` and ``labels.py``, side records in ``records.py``, tables in
``schema.py``, what all who open a store keep to in ``agreement.py``.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ndcass.config import CassandraSettings
from ndcass.errors import ConfigError, StoreError
from ndcass.store.base import Health
from ndcass.store.cassandra.agreement import agree_on_windows
from ndcass.store.cassandra.catalog import CassandraCatalog
from ndcass.store.cassandra.clocks import clock_fault
from ndcass.store.cassandra.cuboids import CassandraCuboids
from ndcass.store.cassandra.driver import ConnectSettings, Driver, TlsSettings
from ndcass.store.cassandra.folding import CassandraFolding, FoldSettings
from ndcass.store.cassandra.jobs import CassandraJobs
from ndcass.store.cassandra.labels import CassandraLabels
from ndcass.store.cassandra.objects import CassandraObjects
from ndcass.store.cassandra.records import CassandraRecords
from ndcass.store.cassandra.schema import Keyspace, Keyspaces, check_schema
from ndcass.store.cassandra.stamps import Stamps
from ndcass.store.cassandra.tables import Tables
from ndcass.store.cassandra.tiers import Tier, Tiers, Windows
from ndcass.store.cassandra.writing import RowWriter

# An operator who asks whether we can serve wants to know soon.
HEALTH_TIMEOUT_S = 3.0
# What is left of writes into channels that were deleted meanwhile is looked for this often: it
# takes a walk over all channels that ever had a voxel.
TIDY_EVERY_S = 600.0
# How long a job that has ended can still be asked about.
KEEP_ENDED_JOBS_S = 30 * 86400.0


def connect_settings(settings: CassandraSettings) -> ConnectSettings:
    """How to reach the cluster of the settings."""
    tls = None
    if settings.tls_ca_file:
        own = (settings.tls_certificate_file, settings.tls_key_file)
        certificate, key = (Path(name) if name else None for name in own)
        tls = TlsSettings(
            Path(settings.tls_ca_file), certificate, key, check_names=settings.tls_check_names
        )
        for path in (tls.ca_file, certificate, key):
            if path is not None and not path.is_file():
                raise ConfigError(f"there is no file {path}, which a cassandra.tls_ setting names")
    return ConnectSettings(
        contact_points=settings.contact_points,
        port=settings.port,
        username=settings.username,
        password=settings.password,
        tls=tls,
        protocol_version=settings.protocol_version,
        connect_timeout_s=settings.connect_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        hedge_after_s=settings.hedge_after_s,
        bytes_in_flight=settings.bytes_in_flight,
    )


def tiers_of(settings: CassandraSettings) -> Tiers:
    """Where the tables of the settings are."""
    archive = Tier(settings.archive_keyspace, settings.archive_data_centre)
    if not settings.ingest_keyspace:
        return Tiers(ingest=archive, archive=archive)
    return Tiers(
        ingest=Tier(settings.ingest_keyspace, settings.ingest_data_centre), archive=archive
    )


def keyspaces_of(settings: CassandraSettings) -> Keyspaces:
    """The keyspaces of the settings, for whoever makes them or checks them."""
    tiers = tiers_of(settings)
    archive = Keyspace(*tiers.archive, settings.archive_replicas)
    if tiers.is_single:
        return Keyspaces(ingest=archive, archive=archive, meta=archive)
    ingest = Keyspace(*tiers.ingest, settings.ingest_replicas)
    return Keyspaces(ingest=ingest, archive=archive, meta=archive)


def windows_of(settings: CassandraSettings) -> Windows:
    """What the settings promise to all other gateways."""
    return Windows(
        max_clock_skew_ms=settings.max_clock_skew_ms,
        write_window_s=settings.write_window_s,
        read_window_s=settings.read_window_s,
    )


def meta_tables(driver: Driver, settings: CassandraSettings) -> Tables:
    """The tables of everything but voxels."""
    keyspace, data_centre = tiers_of(settings).meta
    return Tables(driver, keyspace=keyspace, data_centre=data_centre)


@contextlib.asynccontextmanager
async def connected(settings: CassandraSettings) -> AsyncIterator[Driver]:
    """Connections to the cluster of the settings, for the length of a block."""
    driver = await Driver.connect(connect_settings(settings))
    try:
        yield driver
    finally:
        await driver.close()


class CassandraStores:
    """One of each store on a cluster; see `store.base.Stores`. For one event loop."""

    def __init__(
        self, driver: Driver, cuboids: CassandraCuboids, writer: RowWriter, settings: FoldSettings
    ) -> None:
        meta = cuboids.tiers.meta
        tables = Tables(driver, keyspace=meta.keyspace, data_centre=meta.data_centre)
        stamps = Stamps(max_clock_skew_ms=cuboids.windows.max_clock_skew_ms)
        self._tidy_at_s = 0.0
        self.driver = driver
        self.cuboids = cuboids
        self.stale = cuboids.stale
        self.jobs = CassandraJobs(tables)
        self.catalog = CassandraCatalog(tables, self.jobs)
        self.objects = CassandraObjects(tables, stamps)
        self.labels = CassandraLabels(tables, stamps, window_s=cuboids.windows.write_window_s)
        self.records = CassandraRecords(tables, stamps)
        self.folding = CassandraFolding(
            driver, cuboids, writer, settings, is_live=self.catalog.is_live
        )

    @property
    def counts(self) -> Mapping[str, float]:
        """As `Stores.counts`: of the driver, of readers and of folding."""
        folding = self.folding.counts
        for waiting in ("sweeps_pending", "buckets_waiting"):  # these go down again
            del folding[waiting]
        return {**self.driver.counts, **self.cuboids.counts, **folding}

    async def health(self) -> Health:
        """As `Stores.health`."""
        hosts = self.driver.hosts()
        folding = self.folding.counts
        details = {
            "nodes": len(hosts),
            "nodes_up": sum(host.is_up for host in hosts),
            "clock": self.cuboids.clock_fault or "ok",
            "buckets_to_fold": folding["buckets_waiting"],
            "buckets_to_sweep": folding["sweeps_pending"],
        }
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self.catalog.is_live(0)
        except TimeoutError:
            reason = "a quorum of the nodes does not answer"
            return Health(ready=False, reason=reason, details=details)
        except StoreError as error:
            return Health(ready=False, reason=str(error), details=details)
        fault = self.cuboids.clock_fault
        return Health(ready=not fault, reason=fault, details=details)

    async def maintain(self) -> None:
        """As `Stores.maintain`."""
        await self.check_clock()
        await self.catalog.submit_left_over()
        await self.objects.finish_puts()
        if time.monotonic() >= self._tidy_at_s:
            self._tidy_at_s = time.monotonic() + TIDY_EVERY_S
            await self.catalog.delete_unknown(await self.cuboids.occupancy.channel_ids())
            await self.jobs.prune(older_than_s=KEEP_ENDED_JOBS_S)
        if not self.cuboids.clock_fault:
            await self.folding.step()

    async def check_clock(self) -> None:
        """Compare this machine's clock with those of the nodes."""
        self.cuboids.clock_fault = await clock_fault(
            self.driver,
            max_skew_ms=self.cuboids.windows.max_clock_skew_ms,
            former=self.cuboids.clock_fault,
        )
        if not self.cuboids.clock_fault:
            self.folding.clock_is_right()

    async def close(self) -> None:
        """As `Stores.close`."""
        try:
            await self.folding.close()
        finally:
            await self.driver.close()


async def open_cassandra(settings: CassandraSettings) -> CassandraStores:
    """Open the stores on a cluster whose schema is the one of this ndcass.

    Raises
    ------
    StoreUnavailable
        If no node answers.
    IncompatibleStore
        If the schema is missing, older or newer, a keyspace has other copies than the settings
        say, or other gateways keep to other windows.
    """
    driver = await Driver.connect(connect_settings(settings))
    try:
        await check_schema(driver, keyspaces_of(settings))
        tiers = tiers_of(settings)
        windows = windows_of(settings)
        await agree_on_windows(meta_tables(driver, settings), windows)
        bits = settings.bucket_bits if settings.bucket_bits >= 0 else None
        cuboids = await CassandraCuboids.open(driver, tiers, windows, bucket_bits=bits)
        writer = await RowWriter.prepare(driver, *tiers.archive)
        folding = FoldSettings(
            rows=settings.fold_rows,
            drain_after_s=settings.drain_after_s,
            bytes_per_s=settings.fold_bytes_per_s,
        )
        stores = CassandraStores(driver, cuboids, writer, folding)
        await stores.check_clock()
    except BaseException:
        await driver.close()
        raise
    return stores
