"""What the files of nodes say, by what must hold for each of them."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ndcass.cluster.layout import (
    JVM_ARGUMENTS,
    LOGGING,
    RACK,
    SETTINGS,
    TOOL_LOGGING,
    Place,
    initial_tokens,
    jvm_options,
    node_files,
    node_settings,
    patched_options,
)
from ndcass.cluster.loader import cluster_from, known_settings, load_cluster
from ndcass.cluster.spec import Cluster
from tests.ndcass.cluster.descriptions import description, local_cluster, remote_cluster, two_tiers

PLACE = Place(Path("/jars"), Path("/jars/jamm.jar"), Path("/files"))
CONF = Path(__file__).resolve().parents[3] / "conf"


def settings_of(cluster: Cluster) -> list[dict[str, Any]]:
    return [node_settings(cluster, node) for node in cluster.nodes]


def test_two_nodes_share_no_directory_and_no_socket() -> None:
    cluster = two_tiers()
    owned = []
    for node, settings in zip(cluster.nodes, settings_of(cluster), strict=True):
        directories = [value for name, value in settings.items() if name.endswith("_directory")]
        owned += [*directories, *settings["data_file_directories"]]
        owned += [settings["listen_address"], str(node.jmx_port)]
        options = jvm_options(cluster, node, PLACE)
        owned += [one for one in options if one.startswith(("-Dcassandra.log", "-Dcassandra.jmx"))]
    assert len(owned) == len(set(owned)) == 4 * 8


def test_every_node_names_the_same_seeds_and_cluster() -> None:
    for settings in settings_of(two_tiers()):
        assert settings["cluster_name"] == "c"
        assert settings["seed_provider"][0]["parameters"] == [{"seeds": "127.0.5.1,127.0.5.4"}]


@pytest.mark.parametrize("name", ["local", "two-tier", "example"])
def test_only_settings_that_cassandra_knows_are_written(name: str) -> None:
    for settings in settings_of(load_cluster(CONF / f"cluster-{name}.yaml")):
        assert set(settings) <= set(known_settings())


def test_files_are_all_there_and_say_what_they_should() -> None:
    cluster = two_tiers()
    files = node_files(cluster, cluster.node("archive1"), PLACE)
    assert set(files) == {SETTINGS, RACK, LOGGING, TOOL_LOGGING, JVM_ARGUMENTS}
    settings = node_settings(cluster, cluster.node("archive1"))
    assert yaml.safe_load(files[SETTINGS]) == settings
    assert files[RACK] == "dc=archive\nrack=rack1\n"
    assert "/base/archive1/logs/system.log" in files[LOGGING]
    assert "-Dcassandra.config=file:///files/cassandra.yaml" in files[JVM_ARGUMENTS].splitlines()


def test_no_acknowledged_write_is_only_in_memory() -> None:
    for settings in settings_of(two_tiers()):
        assert settings["commitlog_sync"] == "group"


def test_a_node_with_damaged_files_takes_no_part() -> None:
    for settings in settings_of(two_tiers()):
        assert settings["disk_failure_policy"] == "stop_paranoid"


def test_batch_sync_takes_the_window_of_group_sync_away() -> None:
    content = description()
    content["tiers"]["local"]["cassandra"] = {"commitlog_sync": "batch"}
    settings = settings_of(cluster_from(content))[0]
    assert settings["commitlog_sync"] == "batch"
    assert "commitlog_sync_group_window" not in settings


def test_patch_changes_adds_and_takes_away() -> None:
    content = description()
    content["tiers"]["local"]["cassandra"] = {
        "concurrent_reads": 99,
        "phi_convict_threshold": 9,
        "trickle_fsync": None,
        "sstable": {"selected_format": "big"},
    }
    settings = settings_of(cluster_from(content))[0]
    assert settings["concurrent_reads"] == 99
    assert settings["phi_convict_threshold"] == 9
    assert "trickle_fsync" not in settings
    assert settings["sstable"] == {"selected_format": "big"}


def test_snapshots_before_drops_are_for_machines_only() -> None:
    assert settings_of(remote_cluster())[0]["auto_snapshot"] is True
    assert settings_of(local_cluster())[0]["auto_snapshot"] is False


def test_security_is_written_where_it_is_described() -> None:
    assert "authenticator" not in settings_of(local_cluster())[0]
    security = {"authentication": True, "client_tls": {"generate": True, "required": False}}
    cluster = local_cluster(security=security)
    settings = node_settings(cluster, cluster.nodes[0], keystore_password="secret")
    assert settings["authenticator"] == {"class_name": "PasswordAuthenticator"}
    assert settings["client_encryption_options"] == {
        "enabled": True,
        "optional": True,
        "keystore": "/base/local1/tls/keystore.p12",
        "keystore_password": "secret",
        "store_type": "PKCS12",
        "require_client_auth": False,
    }


sizes = st.integers(1, 9)


@given(first=sizes, second=sizes, tokens=st.integers(1, 32), racks=st.integers(1, 4))
def test_every_token_belongs_to_one_node(first: int, second: int, tokens: int, racks: int) -> None:
    def nodes(net: int, count: int) -> list[dict[str, str]]:
        return [
            {"address": f"127.0.{net}.{n}", "rack": f"r{n % racks}"} for n in range(1, count + 1)
        ]

    cluster = cluster_from(
        {
            "cluster": {"name": "c", "folder": "/base", "tokens_per_node": tokens},
            "tiers": {
                "a": {"role": "ingest", "nodes": nodes(1, first)},
                "b": {"role": "archive", "nodes": nodes(2, second)},
            },
        }
    )
    dealt = initial_tokens(cluster)
    all_tokens = list(itertools.chain.from_iterable(dealt.values()))
    assert len(all_tokens) == len(set(all_tokens)) == (first + second) * tokens
    assert all(-(1 << 63) <= token < 1 << 63 for token in all_tokens)
    for tier in cluster.tiers:
        own = sorted(token for node in tier.nodes for token in dealt[node.name])
        steps = {after - before for before, after in itertools.pairwise(own)}
        assert not steps or max(steps) - min(steps) <= 1, "every node owns as much as another"


def test_neighbours_on_the_ring_are_in_different_racks() -> None:
    nodes = [
        {"address": f"127.0.5.{n + 1}", "rack": rack} for n, rack in enumerate("a a b b".split())
    ]
    cluster = cluster_from(
        description(tiers={"t": {"role": "archive", "nodes": nodes}}, keyspaces={})
    )
    dealt = initial_tokens(cluster)
    ring = sorted((token, node.rack) for node in cluster.nodes for token in dealt[node.name])
    assert all(one != other for (_, one), (_, other) in itertools.pairwise(ring))


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ([], ["-Xss256k", "-XX:+UseG1GC", "-XX:G1HeapRegionSize=4m", "-Da=1"]),
        (["-Xss1m"], ["-XX:+UseG1GC", "-XX:G1HeapRegionSize=4m", "-Da=1", "-Xss1m"]),
        (["-Da=2"], ["-Xss256k", "-XX:+UseG1GC", "-XX:G1HeapRegionSize=4m", "-Da=2"]),
        (["-XX:+UseSerialGC"], ["-Xss256k", "-Da=1", "-XX:+UseSerialGC"]),
        (
            ["-XX:G1HeapRegionSize=8m"],
            ["-Xss256k", "-XX:+UseG1GC", "-Da=1", "-XX:G1HeapRegionSize=8m"],
        ),
        (
            ["-XX:-UseFast"],
            ["-Xss256k", "-XX:+UseG1GC", "-XX:G1HeapRegionSize=4m", "-Da=1", "-XX:-UseFast"],
        ),
    ],
)
def test_option_of_a_patch_takes_the_place_of_its_like(
    patch: list[str], expected: list[str]
) -> None:
    options = ["-Xss256k", "-XX:+UseG1GC", "-XX:G1HeapRegionSize=4m", "-Da=1"]
    assert patched_options(options, patch) == expected


def test_switched_off_option_takes_the_place_of_the_switched_on() -> None:
    assert patched_options(["-XX:+UseNUMA"], ["-XX:-UseNUMA"]) == ["-XX:-UseNUMA"]


def test_paths_with_spaces_and_quotes_stay_one_argument() -> None:
    cluster = local_cluster('/a "b" c')
    text = node_files(cluster, cluster.nodes[0], PLACE)[JVM_ARGUMENTS]
    assert r'"-Dcassandra.storagedir=/a \"b\" c/local1"' in text.splitlines()


def test_heap_is_the_same_from_the_start() -> None:
    options = jvm_options(local_cluster(), local_cluster().nodes[0], PLACE)
    assert {"-Xms1024m", "-Xmx1024m"} <= set(options)
    assert len([one for one in options if re.match(r"-Xm[sx]", one)]) == 2
