"""Fixtures that every test may use."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import settings

from tests.cassandra_nodes import CassandraNodes, nodes_or_skip
from tests.processes import Gateway, StartGateway, gateway

# A machine that is busy is no reason to fail; the timeout of a whole test still holds.
settings.register_profile("ndcass", deadline=None)
settings.load_profile("ndcass")

ROOT = Path(__file__).resolve().parent.parent
# Three nodes on two busy cores, and the first time ever their jars.
CASSANDRA_TIMEOUT_S = 1200


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real nodes are marked as such, and may wait for the nodes to start."""
    for item in items:
        if "cassandra_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cassandra)
        if item.get_closest_marker("cassandra") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(CASSANDRA_TIMEOUT_S))


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of a test: asyncio's, which shows most in its errors, and the gateway's if asked."""
    if item.get_closest_marker("both_loops"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real image stacks and recordings, which is no part of the project.

    `NDCASS_SHARED` names it, relative to the project; by default it lies beside the project. Where
    CI is told to run (`CI=true`) it has to be there.
    """
    folder = (ROOT / os.environ.get("NDCASS_SHARED", "../shared")).resolve()
    if folder.is_dir():
        return folder
    reason = f"no folder {folder}: set NDCASS_SHARED to the one with real data"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGateway]:
    """Starts gateways of two workers, as `processes.gateway` does; they end with the session."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path, *options: str, **settings: Any) -> Gateway:
            output = tmp_path_factory.mktemp("output") / "gateway.log"
            opened = gateway(folder, *options, workers=2, output=output, **settings)
            return stack.enter_context(opened)

        yield start


@pytest.fixture(scope="session")
def cassandra_cluster() -> Iterator[CassandraNodes]:
    """Three real nodes for a whole session: use a keyspace of your own, and leave them running.

    A machine without Java or Maven skips these tests; where CI has to run (`CI=true`) they fail.
    """
    with nodes_or_skip() as nodes:
        yield nodes
