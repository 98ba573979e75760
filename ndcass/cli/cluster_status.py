"""``ndcass cluster status``: one table for people, JSON for programs."""

import argparse
import asyncio
import os
from collections.abc import Sequence
from typing import Any

from ndcass.cli.arguments import add_json
from ndcass.cli.report import print_result
from ndcass.cli.site import add_action, described, secret, site_of, tell
from ndcass.cluster import process
from ndcass.cluster.access import PASSWORD_VARIABLE, connect_settings, superuser_settings
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster
from ndcass.cluster.status import ClusterStatus, NodeStatus, cluster_status
from ndcass.errors import MissingTool
from ndcass.store.cassandra.driver import ConnectSettings

HEALTHY, NOT_HEALTHY = 0, 1
UNKNOWN = "-"
HEADS = "node tier role rack address state load owns tokens compactions hints version up".split()
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = add_action(
        actions, "status", "how nodes are and see each other; exit code 1 if not all is well", _run
    )
    add_json(parser)


def _run(args: argparse.Namespace) -> int:
    cluster = described(args)
    site = _site(cluster)
    found = asyncio.run(cluster_status(cluster, _settings(cluster, site), site=site))
    print_result(args, as_json(cluster, found), as_table(found))
    return HEALTHY if found.is_healthy else NOT_HEALTHY


def _site(cluster: Cluster) -> Site | None:
    """With it nodes that say nothing are asked about; without, CQL has to do."""
    if not cluster.is_local:
        return None
    try:
        return site_of(cluster, fetch=False)
    except MissingTool as error:
        tell(f"without nodetool, {error}")
        return None


def _settings(cluster: Cluster, site: Site | None) -> ConnectSettings:
    if site is not None:
        return superuser_settings(site)
    if not cluster.security.authentication:
        return connect_settings(cluster)
    user, password = cluster.security.superuser, secret(PASSWORD_VARIABLE, os.environ)
    return connect_settings(cluster, username=user, password=password)


def as_json(cluster: Cluster, found: ClusterStatus) -> dict[str, Any]:
    """The status as JSON can hold it, which `Any` stands for."""
    return {
        "cluster": found.cluster,
        "healthy": found.is_healthy,
        "schema_versions": sorted(found.schemas),
        "strangers": list(found.strangers),
        "buckets_to_fold": dict(found.to_fold),
        "bytes_to_drain": dict(found.to_drain),
        "nodes": [{**_node_json(one), "pid": _pid(cluster, one.name)} for one in found.nodes],
    }


def _node_json(one: NodeStatus) -> dict[str, Any]:
    """A node as JSON can hold it, which `Any` stands for; null is what it does not say."""
    facts = one.facts
    return {
        "node": one.name,
        "tier": one.tier,
        "role": one.role,
        "rack": one.rack,
        "address": one.address,
        "takes_cql": facts is not None,
        "problem": one.problem,
        "seen": dict(one.seen),
        "load_bytes": facts and facts.load_bytes,
        "owns": one.owns,
        "tokens": facts and len(facts.tokens),
        "compactions_running": facts and facts.compactions_running,
        "compactions_waiting": facts and facts.compactions_waiting,
        "hint_files": facts and facts.hint_files,
        "version": facts and facts.version,
        "uptime_s": facts and round(facts.uptime_s),
    }


def _pid(cluster: Cluster, name: str) -> int | None:
    running = process.running(cluster.node(name)) if cluster.is_local else None
    return None if running is None else running.pid


def as_table(found: ClusterStatus) -> str:
    """The status for people: a row a node, and what there is to say about them."""
    lines = table([HEADS, *(_cells(one) for one in found.nodes)])
    lines += [f"{one.name}: {one.problem}" for one in found.nodes if one.problem]
    lines += [
        f"{address} is seen, and not described: a node that was added or left half way"
        for address in found.strangers
    ]
    if len(found.schemas) > 1:
        lines.append(f"the schema is not the same everywhere: {len(found.schemas)} versions")
    lines += [
        f"{keyspace}: {count} buckets of cuboids wait to be folded or swept"
        for keyspace, count in sorted(found.to_fold.items())
    ]
    lines += [
        f"{keyspace}: {size(count)} on the disks of the ingest tier, to be drained"
        for keyspace, count in sorted(found.to_drain.items())
    ]
    count = len(found.nodes)
    normal = sum(one.is_normal for one in found.nodes)
    if normal == count:
        lines.append(f"all {count} nodes are up and normal, as seen from each of them")
    else:
        lines.append(f"{normal} of {count} nodes are up and normal, as seen from all that answer")
    return "\n".join(lines)


def _cells(one: NodeStatus) -> list[str]:
    who = [one.name, one.tier, one.role, one.rack, one.address, _state(one)]
    owns = UNKNOWN if one.owns is None else f"{one.owns:.1%}"
    facts = one.facts
    if facts is None:
        return [*who, UNKNOWN, owns, *[UNKNOWN] * 5]
    waiting = f"+{facts.compactions_waiting}" if facts.compactions_waiting else ""
    return [
        *who,
        size(facts.load_bytes),
        owns,
        str(len(facts.tokens)),
        f"{facts.compactions_running}{waiting}",
        str(facts.hint_files),
        facts.version,
        duration(facts.uptime_s),
    ]


def _state(one: NodeStatus) -> str:
    """How all see it, or each, where they differ."""
    if not one.seen:
        return UNKNOWN
    states = set(one.seen.values())
    if len(states) == 1:
        return states.pop()
    return " ".join(f"{who}:{state}" for who, state in one.seen.items())


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def size(count: float) -> str:
    """Bytes for people: three digits and a unit."""
    for unit in _SIZES[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_SIZES[-1]}"


def duration(seconds: float) -> str:
    """A time for people, in the two largest units."""
    whole = round(seconds)
    if whole >= _DAY:
        return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"
    if whole >= _HOUR:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{whole // _MINUTE}m {whole % _MINUTE}s" if whole >= _MINUTE else f"{whole}s"
