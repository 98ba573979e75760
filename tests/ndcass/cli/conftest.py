"""A server with an empty dataset, and the command line as its client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import KEY, Gateway, Outcome, StartGateway, environment, run_command


@pytest.fixture(scope="session")
def server(start_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A server with dataset and project ``D`` and token ``T``, private to the admin."""
    running = start_gateway(tmp_path_factory.mktemp("served") / "data")
    running.create(
        "dataset/D/",
        dataset_name="D",
        ximagesize=300,
        yimagesize=200,
        zimagesize=40,
        xoffset=5,
        zoffset=1,
        zvoxelres=10.0,
    )
    running.create("dataset/D/project/P/", project_name="P")
    running.create("dataset/D/project/P/token/T/", token_name="T")
    return running


_channels = iter(range(10_000))


@pytest.fixture
def new_channel(server: Gateway) -> Callable[..., str]:
    """Makes a channel of its own for a test; its target, ``T/NAME``."""

    def make(datatype: str = "uint8", kind: str = "image", **fields: Any) -> str:
        name = f"c{next(_channels)}"
        server.create(
            f"dataset/D/project/P/channel/{name}/",
            channel_name=name,
            channel_type=kind,
            channel_datatype=datatype,
            **fields,
        )
        return f"T/{name}"

    return make


@pytest.fixture
def ndcass(server: Gateway, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs ``ndcass`` as a user does, in a folder of the test, with the admin's key."""

    def run(*line: str | Path, **variables: str) -> Outcome:
        settings = {"NDCASS_URL": server.url, "NDCASS_API_KEY": KEY, **variables}
        return run_command(line, cwd=tmp_path, env=environment(**settings))

    return run
