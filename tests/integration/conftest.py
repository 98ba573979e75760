"""Gateways on either engine, for what has to hold on both."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ndcass.config import load
from ndcass.store.cassandra import connected, keyspaces_of
from ndcass.store.cassandra.schema import apply_schema
from tests.cassandra_nodes import CassandraNodes

ConfOf = Callable[[str], Path | None]
"""The settings of a gateway on an engine; None where it needs no more than a folder."""

_numbers = itertools.count()


@pytest.fixture(scope="session")
def conf_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ConfOf:
    """Makes a file of settings, on Cassandra with a keyspace that is new and empty."""

    def make(engine: str) -> Path | None:
        if engine == "embedded":
            return None
        nodes: CassandraNodes = request.getfixturevalue("cassandra_cluster")
        sections = {
            "store": {"engine": "cassandra"},
            "cassandra": {
                "contact_points": list(nodes.contact_points),
                "port": nodes.port,
                "archive_keyspace": f"gateway_{next(_numbers)}",
                "archive_data_centre": nodes.data_centre,
                "max_clock_skew_ms": 0,
            },
        }
        path = tmp_path_factory.mktemp("conf") / "gateway.yaml"
        path.write_text(yaml.safe_dump(sections))
        asyncio.run(_apply(path))
        return path

    return make


async def _apply(conf: Path) -> None:
    settings = load(conf, {}).cassandra
    async with connected(settings) as driver:
        await apply_schema(driver, keyspaces_of(settings))
