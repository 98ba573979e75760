"""A cluster that tests may break; it is whole again after each of them."""

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.cassandra_nodes import nodes_or_skip
from tests.system import System

HERE = Path(__file__).parent

_opened = contextlib.ExitStack()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, None, None]:
    """The nodes end with the last test of this folder: the others need the machine."""
    try:
        yield
    finally:
        if nextitem is None or HERE not in nextitem.path.parents:
            _opened.close()


@pytest.fixture(scope="session")
def _system(tmp_path_factory: pytest.TempPathFactory) -> System:
    # For each range and table a node that takes another's place settles what transactions left
    # open, with a flush for each on every node: with four tokens that alone took 48 s.
    nodes = _opened.enter_context(nodes_or_skip(tokens_per_node=1))
    system = System(nodes, tmp_path_factory.mktemp("system"))
    system.make_tables()
    return system


@pytest.fixture
def system(_system: System) -> Iterator[System]:
    """The cluster, whole before and after the test."""
    yield _system
    _system.heal()
