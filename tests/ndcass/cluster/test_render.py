from pathlib import Path
from typing import Any

import pytest
import yaml

from ndcass.cluster.loader import load_cluster
from ndcass.cluster.render import render
from ndcass.cluster.spec import Cluster
from ndcass.errors import ClusterError, ConfigError
from tests.ndcass.cluster.descriptions import local_cluster, remote_cluster

CONF = Path(__file__).resolve().parents[3] / "conf"
FILES = "etc/ndcass-cassandra"
UNIT = "etc/systemd/system/ndcass-cassandra.service"


def test_every_node_gets_a_tree_that_is_ready_to_copy(tmp_path: Path) -> None:
    written = render(remote_cluster(), tmp_path / "out")
    paths = {path.relative_to(tmp_path / "out").as_posix() for path in written}
    for node in ("far1", "far2"):
        assert {f"{node}/{UNIT}", f"{node}/{FILES}/cassandra.yaml", f"{node}/{FILES}/jvm.args"} <= (
            paths
        )
    assert {"README", "pom.xml"} <= paths
    assert all(path.is_file() for path in written)


def test_files_name_the_places_of_the_machine(tmp_path: Path) -> None:
    machine = {"files": "/etc/c", "jars": "/opt/c d/lib", "java": "/j/java", "user": "cass"}
    render(remote_cluster(machine=machine), tmp_path / "out")
    unit = (tmp_path / "out" / "far1" / UNIT).read_text().splitlines()
    assert "User=cass" in unit
    assert "ExecStart=/j/java @/etc/c/jvm.args org.apache.cassandra.service.CassandraDaemon" in unit
    arguments = (tmp_path / "out" / "far1" / "etc/c/jvm.args").read_text().splitlines()
    assert '"/opt/c d/lib/*"' in arguments
    assert "-Dcassandra.config=file:///etc/c/cassandra.yaml" in arguments
    assert str(tmp_path) not in "".join(arguments)


def test_every_directory_of_a_node_is_made_by_systemd(tmp_path: Path) -> None:
    cluster = load_cluster(CONF / "cluster-example.yaml")
    render(cluster, tmp_path / "out", keystore_password="p")
    for node in cluster.nodes:
        folder = tmp_path / "out" / node.name
        made = (folder / "etc/tmpfiles.d/ndcass-cassandra.conf").read_text()
        for path in node.directories:
            assert f'd "{path}" 0750 cassandra cassandra -' in made.splitlines()


def test_first_nodes_have_tokens_and_joining_ones_have_not(tmp_path: Path) -> None:
    render(remote_cluster(), tmp_path / "out", joining=["far2"])
    first, second = (
        "-Dcassandra.initial_token=" in (tmp_path / "out" / name / FILES / "jvm.args").read_text()
        for name in ("far1", "far2")
    )
    assert first
    assert not second
    with pytest.raises(ConfigError, match="no node 'far3'"):
        render(remote_cluster(), tmp_path / "other", joining=["far3"])


def grown_cluster() -> Cluster:
    """Nodes of `remote_cluster`, and a third one."""
    nodes = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    return remote_cluster(tiers={"far": {"role": "archive", "nodes": nodes}})


def settings_of(folder: Path, node: str) -> dict[str, Any]:
    """What its cassandra.yaml holds, of any kind."""
    found: dict[str, Any] = yaml.safe_load((folder / node / FILES / "cassandra.yaml").read_text())
    return found


def tokens_of(folder: Path, node: str) -> list[str]:
    text = (folder / node / FILES / "jvm.args").read_text()
    return [line for line in text.splitlines() if "initial_token" in line]


def test_node_that_joins_is_no_seed_in_any_file(tmp_path: Path) -> None:
    nodes = [{"address": f"192.0.2.{n}", "seed": True} for n in (1, 2, 3)]
    cluster = remote_cluster(tiers={"far": {"role": "archive", "nodes": nodes}})
    render(cluster, tmp_path / "out", joining=["far3"])
    for node in ("far1", "far2", "far3"):
        [provider] = settings_of(tmp_path / "out", node)["seed_provider"]
        assert provider["parameters"] == [{"seeds": "192.0.2.1,192.0.2.2"}]
    render(cluster, tmp_path / "later", joined=["far3"])
    [provider] = settings_of(tmp_path / "later", "far1")["seed_provider"]
    assert provider["parameters"] == [{"seeds": "192.0.2.1,192.0.2.2,192.0.2.3"}]
    assert tokens_of(tmp_path / "later", "far3") == []


def test_tier_whose_only_seed_joins_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"tier far has no seed but .*`seed: true`"):
        render(remote_cluster(), tmp_path / "out", joining=["far1"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["joining", "joined"])
def test_tokens_of_the_first_nodes_stay_when_another_joins(tmp_path: Path, how: str) -> None:
    render(remote_cluster(), tmp_path / "before")
    render(grown_cluster(), tmp_path / "after", **{how: ["far3"]})  # type: ignore[arg-type]  # both
    for node in ("far1", "far2"):
        assert tokens_of(tmp_path / "after", node) == tokens_of(tmp_path / "before", node) != []


def test_no_node_may_start_empty_where_it_had_data(tmp_path: Path) -> None:
    """As first nodes of a cluster on this machine do, once."""
    for path in render(remote_cluster(), tmp_path / "out"):
        assert "auto_bootstrap" not in path.read_text()


def test_password_is_for_the_owner_only(tmp_path: Path) -> None:
    cluster = load_cluster(CONF / "cluster-example.yaml")
    with pytest.raises(ClusterError, match="NDCASS_KEYSTORE_PASSWORD"):
        render(cluster, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written = render(cluster, tmp_path / "out", keystore_password="hush")
    holding = [path for path in written if "hush" in path.read_text()]
    assert {path.name for path in holding} == {"cassandra.yaml"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in holding)
    settings = yaml.safe_load(holding[0].read_text())
    assert settings["client_encryption_options"]["keystore_password"] == "hush"


def test_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is there already"):
        render(remote_cluster(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_local_nodes_are_not_rendered(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="ndcass cluster up"):
        render(local_cluster(), tmp_path / "out")


def test_readme_names_seeds_and_every_node(tmp_path: Path) -> None:
    cluster = load_cluster(CONF / "cluster-example.yaml")
    render(cluster, tmp_path / "out", keystore_password="p")
    text = (tmp_path / "out" / "README").read_text()
    assert "start the seeds (ingest1, ingest2, archive1, archive2)" in text
    assert all(f"{node.name}: " in text for node in cluster.nodes)
