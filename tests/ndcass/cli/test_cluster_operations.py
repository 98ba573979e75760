"""How commands on nodes that serve are called; what they do is tested beside `ndcass.cluster`."""

from pathlib import Path

import pytest

from ndcass.cli.main import build_parser, main

OPERATIONS = (
    "restart stop start flush compact cleanup repair add-node decommission replace backup restore"
).split()

DESCRIPTION = """
cluster: {{name: c, folder: "{folder}"}}
tiers:
  local: {{role: archive, nodes: ["127.0.9.1", "127.0.9.2"]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A description of nodes that were never started."""
    path = tmp_path / "cluster.yaml"
    path.write_text(DESCRIPTION.format(folder=tmp_path / "c"), encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def software(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Java and a Cassandra as far as they are looked at before a node is."""
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    jars = tmp_path / "cassandra" / "lib"
    jars.mkdir(parents=True)
    for name in ("apache-cassandra-5.0.8.jar", "jamm-0.4.0.jar"):
        (jars / name).touch()
    monkeypatch.setenv("JAVA_HOME", str(java.parent.parent))
    monkeypatch.setenv("CASSANDRA_HOME", str(jars.parent))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_explains_itself(
    operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cluster", operation, "--help"])

    assert ended.value.code == 0
    assert f"usage: ndcass cluster {operation}" in capsys.readouterr().out


@pytest.mark.parametrize("operation", ["stop", "start", "add-node", "decommission", "replace"])
def test_unknown_node_is_told_with_those_that_exist(
    operation: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", operation, file, "locla1"]) == 1
    assert capsys.readouterr().err == (
        "ndcass: cluster c has no node 'locla1'; it has local1, local2\n"
    )


def test_node_that_never_took_part_is_not_started(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "start", file, "local1"]) == 1
    assert "never took part" in capsys.readouterr().err


def test_node_cannot_join_what_is_not_there(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "add-node", file, "local1"]) == 1
    assert "no node of c takes part yet: `ndcass cluster up`" in capsys.readouterr().err


def test_stopping_what_does_not_run_is_done(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "stop", file, "local1"]) == 0
    assert capsys.readouterr().err == "local1: does not run\n"


def test_rows_are_replaced_or_merged_and_not_both(file: str) -> None:
    line = ["cluster", "restore", file, "k", "--from", "x", "--replace", "--merge"]

    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(line)

    assert ended.value.code == 2


def test_half_made_backup_is_refused_before_nodes_are_asked(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copy" / "local1").mkdir(parents=True)

    line = ["cluster", "restore", file, "k", "--from", str(tmp_path / "copy")]
    assert main([*line, "--gateways-stopped"]) == 1
    assert "half made" in capsys.readouterr().err


def test_nothing_is_restored_below_running_gateways(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "restore", file, "k", "--from", str(tmp_path)]) == 2
    assert "stop every `ndcass serve`" in capsys.readouterr().err


@pytest.mark.parametrize("names", [[], ["k", "--all"]])
@pytest.mark.parametrize("command", [["backup", "--to"], ["restore", "--from"]])
def test_keyspaces_are_named_or_all(
    file: str, tmp_path: Path, names: list[str], command: list[str]
) -> None:
    name, folder = command
    assert main(["cluster", name, file, *names, folder, str(tmp_path / "copy")]) == 2


def test_backup_does_not_write_where_something_is(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "mine").touch()

    assert main(["cluster", "backup", file, "k", "--to", str(tmp_path / "copy")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["mine"]


def test_status_of_a_cluster_that_does_not_run_is_exit_code_one(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "status", file]) == 1
    assert "0 of 2 nodes are up and normal" in capsys.readouterr().out


def test_nodetool_needs_a_node_that_was_started(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nodetool", "--cluster", file, "local1", "info", "-T"]) == 1
    assert "node local1 was never started here" in capsys.readouterr().err


def test_nodetool_needs_a_command(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nodetool", "--cluster", file, "local1"]) == 2
    assert "what shall nodetool do" in capsys.readouterr().err
