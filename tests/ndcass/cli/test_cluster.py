"""How clusters are planned, rendered and removed from the command line; nodes are none here."""

import json
from pathlib import Path

import pytest

from ndcass.cli.main import main
from ndcass.cli.site import secret
from ndcass.cluster.distribution import pinned_version

DESCRIPTION = """
cluster: {{name: c, folder: "{folder}"}}
tiers:
  local: {{role: archive, nodes: ["127.0.9.1", "127.0.9.2"]}}
"""
REMOTE = """
cluster: {name: c}
tiers:
  far: {role: archive, nodes: ["192.0.2.1", "192.0.2.2"]}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A description of local nodes that were never started."""
    path = tmp_path / "cluster.yaml"
    path.write_text(DESCRIPTION.format(folder=tmp_path / "c"), encoding="utf-8")
    return str(path)


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """A description of nodes on other machines."""
    path = tmp_path / "remote.yaml"
    path.write_text(REMOTE, encoding="utf-8")
    return str(path)


@pytest.fixture(autouse=True)
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Java, and no Cassandra yet."""
    program = tmp_path / "jdk" / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'openjdk version \"17.0.1\"' >&2\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(program.parent.parent))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CASSANDRA_HOME", raising=False)


def test_plan_shows_what_would_be_made_and_makes_nothing(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "plan", file]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"fetch Cassandra {pinned_version()} from Maven Central",
        "local1: create",
        "local2: create",
    ]
    assert not (tmp_path / "c").exists()
    assert not (tmp_path / "cache").exists()


def test_plan_is_for_programs_too(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "plan", file, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["fetch"] is True
    assert [(node["node"], node["action"]) for node in result["nodes"]] == [
        ("local1", "create"),
        ("local2", "create"),
    ]
    assert "+cluster_name: c" in result["nodes"][0]["differences"][0]


def test_setting_of_the_command_line_wins(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "plan", file, "--set", "tiers.local.nodes=[127.0.9.7]"]) == 0
    assert "local2" not in capsys.readouterr().out


def test_misspelt_setting_of_the_command_line_is_told(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "plan", file, "--set", "ports.nativ=1"]) == 1
    assert "did you mean ports.native?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "said"),
    [("ports.native", "'ports.native' is not NAME=VALUE"), ("ports.native=[", "'[' is no value")],
)
def test_setting_without_a_value_is_a_wrong_call(
    file: str, setting: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "plan", file, "--set", setting])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_down_of_what_does_not_run_is_done(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "down", file]) == 0
    assert "no node runs" in capsys.readouterr().err


def test_destroy_needs_a_yes(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "c" / "tls"
    folder.mkdir(parents=True)
    assert main(["cluster", "destroy", file]) == 2
    assert f"would remove {folder}" in capsys.readouterr().err
    assert folder.exists()
    assert main(["cluster", "destroy", file, "--yes"]) == 0
    assert not folder.parent.exists()


def test_up_of_other_machines_names_render(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "plan", remote]) == 1
    assert "`ndcass cluster render`" in capsys.readouterr().err


def test_render_prints_what_it_wrote(
    remote: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["cluster", "render", remote, "--output", str(output)]) == 0
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(printed) == sorted(path for path in output.rglob("*") if path.is_file())


def test_secret_may_be_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush\n")
    assert secret("S", {"S_FILE": str(path)}) == "hush"
    assert secret("S", {"S_FILE": str(path), "S": "now"}) == "now"
    assert secret("S", {}) == ""


def test_secret_in_a_file_that_is_not_there_is_an_error(
    file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NDCASS_CASSANDRA_PASSWORD_FILE", "/nowhere/secret")
    assert main(["cluster", "plan", file]) == 1
    assert "cannot read /nowhere/secret" in capsys.readouterr().err
