"""Fixtures that every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.processes import Running, Start, free_port, start

# A machine that is busy is no reason to fail; the timeout of a whole test still holds.
settings.register_profile("ndcass", deadline=None)
settings.load_profile("ndcass")

ROOT = Path(__file__).resolve().parent.parent


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
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts ``ndcass serve`` on a folder, as `processes.start`; stopped in the end."""
    running: list[Running] = []

    def start_one(data: Path, *options: str, port: int | None = None, **variables: str) -> Running:
        output = tmp_path_factory.mktemp("output") / "server.log"
        server = start(data, *options, output=output, port=port or free_port(), **variables)
        running.append(server)
        return server

    yield start_one
    for server in running:
        server.stop()
