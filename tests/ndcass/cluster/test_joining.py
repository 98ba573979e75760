"""How a node starts that has to fetch data first."""

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from ndcass.cluster.distribution import Distribution
from ndcass.cluster.joining import joining_options
from ndcass.cluster.loader import cluster_from
from ndcass.cluster.site import Site
from ndcass.errors import ClusterError


def site_with(tmp_path: Path, *nodes: dict[str, object]) -> Site:
    cluster = cluster_from(
        {
            "cluster": {"name": "c", "folder": str(tmp_path / "a b")},
            "tiers": {"local": {"role": "archive", "nodes": list(nodes)}},
        }
    )
    distribution = Distribution(Path("java"), tmp_path, tmp_path / "agent.jar")
    return Site(cluster, distribution, {}, print)


def seeds_in(options: tuple[str, ...]) -> str:
    [option] = options
    path = Path(unquote(urlsplit(option.partition("=")[2]).path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [provider] = yaml.safe_load(path.read_text())["seed_provider"]
    return str(provider["parameters"][0]["seeds"])


def test_node_that_is_no_seed_needs_nothing(tmp_path: Path) -> None:
    site = site_with(tmp_path, {"address": "127.0.9.1", "seed": True}, {"address": "127.0.9.2"})

    assert joining_options(site, site.cluster.nodes[1]) == ()


def test_seed_asks_the_other_seeds(tmp_path: Path) -> None:
    nodes: list[dict[str, object]] = [
        {"address": f"127.0.9.{n}", "seed": n != 2} for n in (1, 2, 3)
    ]
    site = site_with(tmp_path, *nodes)

    assert seeds_in(joining_options(site, site.cluster.nodes[0])) == "127.0.9.3"


def test_only_seed_asks_whoever_is_there(tmp_path: Path) -> None:
    nodes: list[dict[str, object]] = [{"address": f"127.0.9.{n}"} for n in (1, 2, 3)]
    site = site_with(tmp_path, *nodes)

    assert seeds_in(joining_options(site, site.cluster.nodes[0])) == "127.0.9.2,127.0.9.3"


def test_only_node_has_nobody_to_ask(tmp_path: Path) -> None:
    site = site_with(tmp_path, {"address": "127.0.9.1"})

    with pytest.raises(ClusterError, match="the only one"):
        joining_options(site, site.cluster.nodes[0])
