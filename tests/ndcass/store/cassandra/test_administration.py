"""Keyspaces on real nodes; superusers are tested with a cluster that has passwords."""

import itertools
from collections.abc import AsyncIterator

import pytest

from ndcass.cluster.access import connect_settings
from ndcass.errors import Conflict
from ndcass.store.cassandra.administration import create_keyspace
from ndcass.store.cassandra.driver import Driver
from tests.cassandra_nodes import CassandraNodes

_numbers = itertools.count()


@pytest.fixture
async def driver(cassandra_cluster: CassandraNodes) -> AsyncIterator[Driver]:
    driver = await Driver.connect(connect_settings(cassandra_cluster.cluster))
    yield driver
    await driver.close()


@pytest.fixture
async def name(driver: Driver) -> AsyncIterator[str]:
    """Of a keyspace that is not there, and goes after the test."""
    name = f"administration_{next(_numbers)}"
    yield name
    await driver.run(f"DROP KEYSPACE IF EXISTS {name}")


async def test_keyspace_is_made_once(driver: Driver, name: str) -> None:
    assert await create_keyspace(driver, name, {"local": 2}) is True
    assert await create_keyspace(driver, name, {"local": 2}) is False
    (row,) = await driver.run(
        "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = %s", [name]
    )
    assert row[0]["local"] == "2"


async def test_keyspace_with_other_replicas_is_left_and_told(driver: Driver, name: str) -> None:
    await create_keyspace(driver, name, {"local": 2})
    with pytest.raises(Conflict, match=r"local: 2, where local: 3 are described"):
        await create_keyspace(driver, name, {"local": 3})
    assert await create_keyspace(driver, name, {"local": 2}) is False
