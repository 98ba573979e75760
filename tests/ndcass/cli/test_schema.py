import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ndcass.cli.main import main
from ndcass.config import CassandraSettings
from ndcass.store.cassandra import connected
from ndcass.store.cassandra.schema import read_files
from tests.cassandra_nodes import CassandraNodes

Conf = Callable[..., Path]


@pytest.fixture
def conf(cassandra_cluster: CassandraNodes, tmp_path: Path) -> Iterator[Conf]:
    """Writes settings of a keyspace that nobody has yet."""
    keyspace = f"test_{uuid.uuid4().hex[:12]}"
    points, port = cassandra_cluster.contact_points, cassandra_cluster.port

    def write(**changes: Any) -> Path:
        place = {
            "contact_points": list(points),
            "port": port,
            "archive_keyspace": keyspace,
            "archive_data_centre": cassandra_cluster.data_centre,
        }
        settings = {"store": {"engine": "cassandra"}, "cassandra": {**place, **changes}}
        path = tmp_path / "gateway.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    async def drop() -> None:
        async with connected(CassandraSettings(points, port)) as driver:
            await driver.run(f"DROP KEYSPACE IF EXISTS {keyspace}", timeout_s=60)

    yield write
    asyncio.run(drop())


def test_a_schema_is_pending_until_it_is_applied_and_then_there_is_nothing_to_do(
    conf: Conf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(conf())
    names = [file.name for file in read_files()]

    assert main(["schema", "status", "--conf", path, "--json"]) == 1
    files = json.loads(capsys.readouterr().out)["files"]
    assert [(f["file"], f["state"]) for f in files] == [(name, "pending") for name in names]

    assert main(["schema", "apply", "--conf", path]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in names)

    assert main(["schema", "status", "--conf", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["applied"] * len(names)

    assert main(["schema", "apply", "--conf", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"applied": []}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"archive_data_centre": "moon"}, "has no data centre moon"),
        ({"archive_replicas": 99}, "99 replicas"),
    ],
)
def test_a_keyspace_that_cannot_be_is_refused_in_one_line(
    conf: Conf, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], reason: str
) -> None:
    assert main(["schema", "apply", "--conf", str(conf(**changes))]) == 1

    [line] = capsys.readouterr().err.splitlines()
    assert reason in line


def test_another_engine_has_no_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("store: {engine: embedded}\n")

    assert main(["schema", "status", "--conf", str(path)]) == 2
    assert "embedded" in capsys.readouterr().err


def test_windows_are_shown_and_changed_when_no_gateway_runs(
    conf: Conf, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(conf(max_clock_skew_ms=0))
    assert main(["schema", "windows", "--conf", path]) == 1
    assert "schema apply" in capsys.readouterr().err
    assert main(["schema", "apply", "--conf", path]) == 0
    capsys.readouterr()

    assert main(["schema", "windows", "--conf", path]) == 0
    assert "nobody" in capsys.readouterr().out
    assert main(["schema", "windows", "--conf", path, "--change"]) == 2
    assert "--gateways-stopped" in capsys.readouterr().err

    change = ["schema", "windows", "--conf", path, "--change", "--gateways-stopped", "--json"]
    assert main(change) == 0
    said = {"max_clock_skew_ms": 0, "write_window_s": 30.0, "read_window_s": 60.0}
    assert json.loads(capsys.readouterr().out) == said

    path = str(conf(max_clock_skew_ms=0, write_window_s=25))
    assert main(["schema", "windows", "--conf", path]) == 0
    assert "write_window_s\t30" in capsys.readouterr().out
