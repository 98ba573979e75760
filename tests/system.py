"""Nodes, tables and gateways together, for tests that break any of them."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ndcass.config import CassandraSettings, load
from ndcass.store.cassandra import connected, keyspaces_of, meta_tables, windows_of
from ndcass.store.cassandra.agreement import change_windows
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.schema import apply_schema
from tests.cassandra_nodes import CassandraNodes
from tests.processes import Gateway, gateway

T = TypeVar("T")


class System:
    """Nodes with a keyspace, and gateways over it.

    Tests share the keyspace: each makes a channel under a token of its own.

    Parameters
    ----------
    nodes : CassandraNodes
    folder : Path
        For settings and logs.
    """

    def __init__(self, nodes: CassandraNodes, folder: Path) -> None:
        self.nodes = nodes
        self.keyspace = f"faults_{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self._numbers = itertools.count()

    def make_tables(self) -> None:
        """Make the keyspace and what is in it."""

        async def make(driver: Driver) -> None:
            await apply_schema(driver, keyspaces_of(self._settings()))

        self.run(make)

    def conf(self, **settings: object) -> Path:
        """A file of settings for a gateway; `settings` are of the section ``cassandra``."""
        sections = {
            # So that a clock that turns wrong is noticed soon.
            "store": {"engine": "cassandra", "maintain_interval_s": 1.0},
            "cassandra": {
                "contact_points": list(self.nodes.contact_points),
                "port": self.nodes.port,
                "archive_keyspace": self.keyspace,
                "archive_data_centre": self.nodes.data_centre,
                "max_clock_skew_ms": 0,
                **settings,
            },
        }
        path = self._folder / f"conf-{next(self._numbers)}.yaml"
        path.write_text(yaml.safe_dump(sections))
        return path

    def change_windows(self, conf: Path) -> None:
        """Have all gateways keep to the windows of some settings; none may run."""
        settings = load(conf, {}).cassandra

        async def change(driver: Driver) -> None:
            await change_windows(meta_tables(driver, settings), windows_of(settings))

        self.run(change)

    @contextlib.contextmanager
    def gateway(self, *, workers: int = 2, **options: Any) -> Iterator[Gateway]:
        """A gateway; `options` are those of `processes.gateway`, by default with plain settings."""
        options.setdefault("conf", self.conf())
        output = self._folder / f"gateway-{next(self._numbers)}.log"
        with gateway(self._folder, workers=workers, output=output, **options) as running:
            yield running

    def run(self, work: Callable[[Driver], Awaitable[T]]) -> T:
        """Do something with a connection of one's own, past all gateways."""

        async def connect() -> T:
            async with connected(self._settings()) as driver:
                return await work(driver)

        return asyncio.run(connect())

    def heal(self) -> None:
        """Let all nodes run, and see each other."""
        self.nodes.start()

    def _settings(self) -> CassandraSettings:
        return load(self.conf(), {}).cassandra
