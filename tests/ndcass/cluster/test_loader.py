from pathlib import Path
from typing import Any

import pytest

from ndcass.cluster.loader import cluster_from, known_settings, load_cluster
from ndcass.cluster.sections import put
from ndcass.cluster.spec import Role
from ndcass.errors import ConfigError
from tests.ndcass.cluster.descriptions import description, local_cluster, remote_cluster, two_tiers

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = sorted((ROOT / "conf").glob("cluster-*.yaml"))


def changed(name: str, value: Any) -> dict[str, Any]:
    """A description with one setting changed."""
    content = description()
    put(content, name.split("."), value, name)
    return content


NODES = ["127.0.5.1", "127.0.5.2", "127.0.5.3"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        # unknown and misspelt
        ("tirs", {}, "unknown setting tirs; did you mean tiers?"),
        ("cluster.nme", "x", "unknown setting cluster.nme; did you mean cluster.name?"),
        ("ports.nativ", 1, "did you mean ports.native?"),
        ("security.client_tls", {"generat": True}, "did you mean security.client_tls.generate?"),
        ("defaults.heap", 512, "did you mean defaults.heap_mib?"),
        ("tiers.local.roll", "ingest", "did you mean tiers.local.role?"),
        ("tiers.local.nodes", [{"adress": "127.0.5.1"}], "tiers.local.nodes[0].address?"),
        ("tiers.local.directories", {"commit_log": "/x"}, "directories.commitlog?"),
        ("tiers.local.cassandra", {"concurrent_read": 4}, "cassandra.concurrent_reads?"),
        ("defaults.cassandra", {"concurrent_read": 4}, "concurrent_reads?"),
        ("keyspaces.k.replicas", 3, "did you mean keyspaces.k.replication?"),
        ("zzz", 1, "unknown setting zzz. Known are cluster, "),
        # wrong types and missing
        ("cluster.name", None, "cluster.name is missing"),
        ("cluster.name", 7, "cluster.name must be a text, not 7"),
        ("cluster.tokens_per_node", True, "tokens_per_node must be a whole number"),
        ("cluster.start_timeout_s", "long", "start_timeout_s must be a number"),
        ("tiers.local.heap_mib", 0.5, "tiers.local.heap_mib must be a whole number"),
        ("tiers.local.nodes", "127.0.5.1", "tiers.local.nodes must be a list"),
        ("tiers.local.nodes", [7], "tiers.local.nodes[0] must hold settings"),
        ("tiers.local.nodes", [{"name": "n"}], "tiers.local.nodes[0].address is missing"),
        ("tiers.local.role", "storage", "tiers.local.role must be ingest or archive"),
        ("tiers.local.role", None, "tiers.local.role is missing"),
        ("tiers", None, "tiers must hold at least one tier"),
        ("tiers", ["local"], "tiers must hold settings"),
        ("security.authentication", "yes", "security.authentication must be true or false"),
        # impossible
        ("cluster.name", "a/b", "no name of a cluster"),
        ("cluster.tokens_per_node", 0, "from 1 to 256"),
        ("cluster.starts_at_once", 0, "at least 1"),
        ("cluster.stop_timeout_s", 0, "above 0"),
        ("ports.native", 7000, "ports.storage and ports.native are both 7000"),
        ("ports.native", 70000, "ports.native must be from 1 to 65535"),
        ("tiers.local.nodes", [], "at least one node"),
        ("tiers.local.nodes", [*NODES, "127.0.5.1"], "local1 and local4 may not share address"),
        ("tiers.local.nodes", [*NODES, "192.0.2.1"], "loopback addresses (local1, local2, local3)"),
        ("tiers.local.nodes", ["::1"], "no IPv4 address"),
        ("tiers.local.nodes", ["0.0.0.0"], "no address that others could connect to"),
        ("tiers.local.nodes", [{"address": a, "seed": False} for a in NODES], "that is a seed"),
        ("tiers.local.nodes", [{"address": a, "name": "n"} for a in NODES], "two nodes named n"),
        ("tiers.local.nodes", [{"address": a, "jmx_port": 9} for a in NODES], "port 9"),
        ("tiers.local.nodes", [{"address": "127.0.5.1", "rack": "a b"}], "no name of a rack"),
        ("tiers.local.heap_mib", 64, "at least 192"),
        ("tiers.local.directories", {"data": []}, "at least one directory"),
        ("tiers.local.directories", {"data": ["/x"]}, "may not share directory /x"),
        ("tiers.local.directories", {"hints": "{folder}/{node}/data/h"}, "may not share"),
        ("tiers.local.directories", {"hints": "{folder}/{node}/a/../data"}, "may not share"),
        ("tiers.local.directories", {"hints": "/{nod}"}, "there is no {nod}; there is {cluster}"),
        ("tiers.local.directories", {"hints": "/{"}, "is no path"),
        ("tiers.other", {"role": "archive", "nodes": ["127.0.5.4"]}, "one tier, or two"),
        ("keyspaces.k.replication", {"local": 4}, "4 copies do not fit on the 3 nodes"),
        ("keyspaces.k.replication", {"local": 0}, "0 copies keep nothing"),
        ("keyspaces.k.replication", {"far": 1}, "there is no tier 'far'; there is local"),
        ("keyspaces.k.replication", {"local": 2, "far": 2}, "exactly one tier, not local, far"),
        ("keyspaces.k.replication", {}, "exactly one tier, not none"),
        ("keyspaces.system_x", {"replication": {"local": 1}}, "not one of Cassandra's own"),
        ("security.superuser", "cassandra", "taken out of use"),
        # what would break a promise
        ("tiers.local.cassandra", {"commitlog_sync": "periodic"}, "must be group or batch"),
        ("tiers.local.cassandra", {"listen_address": "127.0.0.1"}, "may not set listen_address"),
        ("tiers.local.jvm", ["-Xmx4g"], "-Xmx4g is said by heap_mib"),
        ("tiers.local.jvm", ["Xss1m"], "no JVM option"),
        ("security.client_tls", {"keystore": "/k.p12"}, "client_tls.ca_file is missing"),
        ("security.client_tls", {"generate": True, "ca_file": "/c"}, "nothing to say about"),
        (
            "security.client_tls",
            {"keystore": "/{node}.p12", "ca_file": "/c", "truststore": "/t"},
            "name certificate_file and key_file",
        ),
        ("machine.user", 1, "machine.user must be a text"),
    ],
)
def test_mistake_is_told_by_name(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as failed:
        cluster_from(changed(name, value))
    assert said in str(failed.value)


def test_nodes_are_named_and_ported_in_order() -> None:
    cluster = two_tiers()
    assert [node.name for node in cluster.nodes] == ["ingest1", "ingest2", "ingest3", "archive1"]
    assert [node.jmx_port for node in cluster.nodes] == [7199, 7200, 7201, 7202]
    assert [node.name for node in cluster.seeds] == ["ingest1", "archive1"]


def test_nodes_of_other_machines_have_one_jmx_port() -> None:
    cluster = remote_cluster()
    assert [node.jmx_port for node in cluster.nodes] == [7199, 7199]
    assert cluster.nodes[0].folder == Path("/base/far1")


def test_the_only_tier_takes_writes_and_keeps_them() -> None:
    cluster = local_cluster()
    assert cluster.tier_for(Role.INGEST) is cluster.tier_for(Role.ARCHIVE) is cluster.tiers[0]
    assert two_tiers().tier_for(Role.ARCHIVE).name == "archive"


def test_named_seeds_are_the_only_ones() -> None:
    nodes = ["127.0.5.1", {"address": "127.0.5.2", "seed": True}]
    cluster = cluster_from(changed("tiers.local.nodes", nodes) | {"keyspaces": {}})
    assert [node.name for node in cluster.seeds] == ["local2"]


def test_tier_wins_over_defaults_setting_by_setting() -> None:
    content = description(
        defaults={
            "heap_mib": 300,
            "cassandra": {"concurrent_reads": 1, "memtable": {"configurations": {"a": 1}}},
            "jvm": ["-Da=1"],
            "directories": {"hints": "/h/{node}"},
        }
    )
    content["tiers"]["local"] |= {
        "heap_mib": 400,
        "cassandra": {"concurrent_writes": None, "memtable": {"configurations": {"b": 2}}},
        "jvm": ["-Db=2"],
        "directories": {"commitlog": "/log/{node}"},
    }
    tier = cluster_from(content).tiers[0]
    assert tier.heap_mib == 400
    assert tier.cassandra == {
        "concurrent_reads": 1,
        "concurrent_writes": None,
        "memtable": {"configurations": {"a": 1, "b": 2}},
    }
    assert tier.jvm == ("-Da=1", "-Db=2")
    assert tier.nodes[0].directories.hints == Path("/h/local1")
    assert tier.nodes[0].directories.commitlog == Path("/log/local1")
    assert tier.nodes[0].directories.data == (Path("/base/local1/data"),)


def test_home_and_placeholders_of_a_folder_are_filled_in() -> None:
    cluster = cluster_from(changed("cluster.folder", "~/x/{cluster}"))
    assert cluster.folder == Path.home() / "x" / "c"


def test_machines_have_a_default_folder_of_their_own() -> None:
    content = description(tiers={"far": {"role": "archive", "nodes": ["192.0.2.1"]}}, keyspaces={})
    del content["cluster"]["folder"]
    assert cluster_from(content).folder == Path("/var/lib/ndcass-cassandra")


def test_override_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("cluster: {name: c}\ntiers: {a: {role: ingest, nodes: [127.0.5.1]}}\n")
    cluster = load_cluster(path, overrides={"ports.native": 9999, "tiers.a.nodes": ["127.0.5.9"]})
    assert cluster.ports.native == 9999
    assert cluster.nodes[0].address == "127.0.5.9"
    with pytest.raises(ConfigError, match=r"ports.native.x: native holds no settings"):
        load_cluster(path, overrides={"ports.native": 1, "ports.native.x": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiers: {a: 1, a: 2}", "a stands twice in one section (line 1)"),
        ("cluster: [", "is no YAML"),
        ("- 1", "must hold settings"),
        ("a: !!python/object/apply:os.system [ls]", "is no YAML"),
    ],
)
def test_file_that_says_no_cluster_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as failed:
        load_cluster(path)
    assert said in str(failed.value)


def test_absent_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_cluster(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_description_is_one(path: Path) -> None:
    assert load_cluster(path).nodes


def test_all_kinds_of_descriptions_are_shipped() -> None:
    names = [path.stem for path in SHIPPED]
    assert names == ["cluster-example", "cluster-local", "cluster-two-tier"]


def test_own_settings_are_settings_of_cassandra() -> None:
    assert {"listen_address", "concurrent_reads"} <= set(known_settings())
