"""Descriptions of clusters for tests, as their YAML files hold them."""

import copy
from pathlib import Path
from typing import Any

from ndcass.cluster.loader import cluster_from
from ndcass.cluster.spec import Cluster


def description(**sections: Any) -> dict[str, Any]:
    """Three local nodes of one tier; whole sections may be given instead."""
    content = {
        "cluster": {"name": "c", "folder": "/base", "tokens_per_node": 4},
        "tiers": {"local": {"role": "archive", "nodes": ["127.0.5.1", "127.0.5.2", "127.0.5.3"]}},
        "keyspaces": {"k": {"replication": {"local": 3}}},
    }
    return {**copy.deepcopy(content), **sections}


def local_cluster(folder: Path | str = "/base", **sections: Any) -> Cluster:
    """A cluster of three local nodes in a folder."""
    content = description(**sections)
    content["cluster"]["folder"] = str(folder)
    return cluster_from(content)


def two_tiers(**sections: Any) -> Cluster:
    """Three nodes that take writes and one that keeps them."""
    tiers = {
        "ingest": {"role": "ingest", "nodes": ["127.0.5.1", "127.0.5.2", "127.0.5.3"]},
        "archive": {"role": "archive", "nodes": ["127.0.5.4"]},
    }
    keyspaces = {"hot": {"replication": {"ingest": 3}}, "cold": {"replication": {"archive": 1}}}
    return cluster_from(description(**{"tiers": tiers, "keyspaces": keyspaces, **sections}))


def remote_cluster(**sections: Any) -> Cluster:
    """Two nodes on other machines."""
    tiers = {"far": {"role": "archive", "nodes": ["192.0.2.1", "192.0.2.2"]}}
    content = description(**{"tiers": tiers, "keyspaces": {}, **sections})
    return cluster_from(content)
