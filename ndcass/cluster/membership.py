"""Nodes that come, go and are replaced while the cluster serves.

Data move first and membership follows: a node takes part when it has its share, and leaves when the
others have what it had. Only one node moves at a time, and all others have to be there.
"""

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace as changed
from pathlib import Path

from ndcass.cluster import maintenance, nodetool, process
from ndcass.cluster.access import refuse_no_password
from ndcass.cluster.joining import joining_options
from ndcass.cluster.ring import LEAVING
from ndcass.cluster.site import Site, full_directories
from ndcass.cluster.spec import Node
from ndcass.cluster.startup import await_agreement, join_node
from ndcass.cluster.state import State, load_state, record_of, save_state, sole_operator
from ndcass.cluster.steps import await_cql, members, refuse_if_away, step
from ndcass.cluster.tls import with_certificates
from ndcass.errors import ClusterError

# Gossip tells the others within seconds, or they find out within about twenty.
_SEEN_TIMEOUT_S = 90.0
_POLL_S = 2.0
_MOVES_ONE = "only one node may come or go at a time, while all others are there"


def add(site: Site, name: str, *, with_cleanup: bool = True) -> None:
    """Let a node that was added to the description fetch its share and take part.

    Parameters
    ----------
    with_cleanup : bool
        Let the others drop what the new node has taken over.

    Raises
    ------
    ClusterError
        If it takes part already, another node is away, or it does not arrive.
    """
    cluster = site.cluster
    node = cluster.node(name)
    refuse_no_password(site)
    with sole_operator(cluster):
        state = load_state(cluster)
        _refuse_known(state, node)
        others = members(site, but=node)
        if not others:
            raise ClusterError(f"no node of {cluster.name} takes part yet: `ndcass cluster up`")
        refuse_if_away(site, others, why=_MOVES_ONE)
        site = with_certificates(site)
        state = state.with_node(name, record_of(cluster, node, None))
        save_state(cluster, state)
        site.report(f"{name}: fetches its share of the data; then it takes part")
        advice = f"The others serve as before. Give the command again: {name} goes on where it was."
        _join(site, node, state, (), advice=advice, seen_by=[*others, node])
        neighbours = [other for other in others if other in cluster.tier_of(node).nodes]
        names = " ".join(other.name for other in neighbours)
        if with_cleanup:
            site.report(f"{names}: dropping what {name} has taken over")
            maintenance.clean(site, neighbours)
        elif names:
            site.report(f"next, when there is time: `ndcass cluster cleanup` for {names}")
    if cluster.tokens_per_node == 1:
        site.report(f"{name} took half of one range: with one token a node shares are uneven")


def decommission(site: Site, name: str, *, wipe: bool = False) -> None:
    """Give what a node has to the others, and stop it for good.

    A command that was interrupted may be given again: it goes on where the node is.

    Parameters
    ----------
    wipe : bool
        Then remove what is on its disks; it is of no use any more.

    Raises
    ------
    ClusterError
        If the others could not keep all copies, one is away, or it does not work out.
    """
    cluster = site.cluster
    node = cluster.node(name)
    refuse_no_password(site)
    with sole_operator(cluster):
        others = members(site, but=node)
        if node not in members(site):
            raise ClusterError(f"node {name} does not take part")
        _refuse_last(site, node, others)
        refuse_if_away(site, others, why=_MOVES_ONE)
        _leave(site, node, others)
        process.stop(node, timeout_s=cluster.stop_timeout_s)
        site.report(f"{name}: stopped")
        with step(site, others[0], then=f"{name} is stopped and has no data that others lack."):
            _await_seen(site, node, others, {None})
        if wipe:
            _wipe(site, node)
            if node.folder.exists():
                _remove(site, node.folder)
        # Last, so that the command finds its way when it is given again.
        save_state(cluster, load_state(cluster).without_node(name))
    if cluster.tokens_per_node == 1:
        site.report("with one token a node, its range went to a neighbour: shares are uneven now")
    kept = "" if wipe else f"; what is in {node.folder} and its directories is of no use any more"
    site.report(f"next: take {name} out of the description{kept}")


def _leave(site: Site, node: Node, others: list[Node]) -> None:
    """Let a node give away what it has, or wait for it if it does so already."""
    name = node.name
    states = _seen(site, node, others)
    if set(states.values()) == {None}:
        site.report(f"{name}: has left already")
        return
    advice = (
        f"Until it has left, {name} serves as before. `ndcass nodetool {name} netstats` shows "
        "what moves; the command may be given again."
    )
    with step(site, node, then=advice):
        if LEAVING in states.values():
            site.report(f"{name}: is leaving already")
            _await_left(site, node, others)
        else:
            refuse_if_away(site, [*others, node], why=_MOVES_ONE)
            _refuse_too_few(site, node)
            site.report(f"{name}: gives its share to the others")
            nodetool.ask(site, node, "decommission", timeout_s=site.cluster.join_timeout_s)
        site.report(f"{name}: left")


def replace(
    site: Site, name: str, *, repair_before: bool = True, repair_after: bool = False
) -> None:
    """Wipe a node that is dead and let it fetch from the others what it had.

    It fetches each range from one of the others. What that one lacks the new node lacks as well, so
    that the two of them could be a quorum which has forgotten a write that another one and the dead
    one had acknowledged. Therefore the others are repaired first.

    Parameters
    ----------
    repair_before : bool
        Bring the copies of the others to the same state before anything is wiped.
    repair_after : bool
        Repair the cluster at the end: what was not done before, and more slowly, since reads may
        miss something until then.

    Raises
    ------
    ClusterError
        If it lives, nobody has a copy of what it had, another node is away, or it does not come
        back.
    """
    cluster = site.cluster
    node = cluster.node(name)
    refuse_no_password(site)
    with sole_operator(cluster):
        state = load_state(cluster)
        others = members(site, but=node)
        if process.running(node) is not None:
            raise ClusterError(
                f"node {name} runs: stop it first (`ndcass cluster stop {name}`) if it is to go"
            )
        if node not in members(site):
            raise ClusterError(f"node {name} never took part: `ndcass cluster add-node` adds it")
        _refuse_last(site, node, others)
        refuse_if_away(site, others, why=_MOVES_ONE)
        replicas = asyncio.run(maintenance.keyspaces_of(site))
        _refuse_only_copy(site, node, replicas)
        site.report(f"{name}: waiting until the others know that it is down")
        with step(site, node, then="Nothing was changed."):
            _await_seen(site, node, others, {"DN"})
        if repair_before:
            with step(site, node, then=f"Nothing of {name} was changed."):
                _repair_survivors(site, node, replicas)
        _wipe(site, node)
        advice = f"It has nothing that could be lost: give the command again for {name}."
        option = f"-Dcassandra.replace_address_first_boot={node.address}"
        site.report(f"{name}: fetches from the others what it had")
        _join(site, node, state, (option,), advice=advice, seen_by=[*others, node])
        if repair_after:
            maintenance.repair_all(site)
    if not (repair_before or repair_after):
        site.report(
            f"next: `ndcass cluster repair`. Until then reads may miss writes that {name} and one "
            "other node had acknowledged, and no third had got"
        )


def _refuse_only_copy(site: Site, node: Node, replicas: Mapping[str, Mapping[str, int]]) -> None:
    """The others have a copy of everything that a node keeps.

    Parameters
    ----------
    replicas : mapping
        Copies by data centre of every keyspace.
    """
    for keyspace in replicas:
        if node in maintenance.holders(site, replicas[keyspace]) and (
            _copies_in_tier(site, node, replicas[keyspace]) < 2
        ):
            raise ClusterError(
                f"keyspace {keyspace} has one copy in {site.cluster.tier_of(node).name}, and what "
                f"of it was on {node.name} is nowhere else: bring its disks back and start it. If "
                f"they are lost, so is this: drop {keyspace}, replace {node.name}, and restore a "
                "backup"
            )


def _copies_in_tier(site: Site, node: Node, replicas: Mapping[str, int]) -> int:
    # A strategy that knows no data centres has one number for all.
    return replicas.get(site.cluster.tier_of(node).name, max(replicas.values(), default=0))


def _repair_survivors(site: Site, node: Node, replicas: Mapping[str, Mapping[str, int]]) -> None:
    """Let the others give each other what a dead node may have shared with one of them alone."""
    for keyspace in sorted(replicas):
        holders = maintenance.holders(site, replicas[keyspace])
        # Of two copies both had what was acknowledged.
        if node in holders and _copies_in_tier(site, node, replicas[keyspace]) > 2:
            survivors = [holder for holder in holders if holder != node]
            tier = site.cluster.tier_of(node)
            neighbours = [survivor for survivor in survivors if survivor in tier.nodes]
            if replicas[keyspace].get(tier.name, 0) > len(neighbours):
                # Each of these has everything: the second would do once more what the first did.
                survivors = neighbours[:1]
            maintenance.repair_survivors(site, survivors, keyspace)


def _join(
    site: Site,
    node: Node,
    state: State,
    options: tuple[str, ...],
    *,
    advice: str,
    seen_by: list[Node],
) -> None:
    """Start a node that fetches data, and wait until everybody sees it and it answers."""
    with step(site, node, then=advice):
        if process.running(node) is not None:  # it was left behind when a command was interrupted
            process.stop(node, timeout_s=site.cluster.stop_timeout_s)
        join_node(site, node, [*joining_options(site, node), *options])
        await_cql(site, node)
        record = changed(state.nodes[node.name], has_joined=True)
        save_state(site.cluster, state.with_node(node.name, record))
        await_agreement(site, seen_by)


def _refuse_known(state: State, node: Node) -> None:
    record = state.nodes.get(node.name)
    if record is None:
        for path in full_directories(node):
            raise ClusterError(
                f"node {node.name} is new, but {path} holds data of somebody: empty it, or name "
                "another"
            )
    elif record.has_joined:
        raise ClusterError(f"node {node.name} takes part already")


def _refuse_last(site: Site, node: Node, others: list[Node]) -> None:
    """Somebody else of its tier is there, who has or takes what it has."""
    tier = site.cluster.tier_of(node)
    if not any(other in tier.nodes for other in others):
        raise ClusterError(
            f"node {node.name} is the only one of tier {tier.name}: nobody has what it has"
        )


def _refuse_too_few(site: Site, node: Node) -> None:
    """The nodes that stay can keep all copies of all keyspaces."""
    tier = site.cluster.tier_of(node)
    staying = [other for other in members(site, but=node) if other in tier.nodes]
    for keyspace, replicas in asyncio.run(maintenance.keyspaces_of(site)).items():
        if replicas.get(tier.name, 0) > len(staying):
            raise ClusterError(
                f"keyspace {keyspace} has {replicas[tier.name]} copies in {tier.name}, and without "
                f"{node.name} there would be {len(staying)} nodes"
            )


def _seen(site: Site, node: Node, others: list[Node]) -> dict[str, str | None]:
    """How each of the others that answers sees a node, by its name; None: not at all."""
    views = nodetool.views_from(site, others)
    return {other.name: view.get(node.address) for other, view in views.items()}


def _await_left(site: Site, node: Node, others: list[Node]) -> None:
    """Wait until a node that is leaving has left, as all others see it."""
    deadline = time.monotonic() + site.cluster.join_timeout_s
    while True:
        seen = _seen(site, node, others)
        if len(seen) == len(others) and set(seen.values()) == {None}:
            return
        if not set(seen.values()) <= {LEAVING, None}:
            raise ClusterError(f"node {node.name} does not leave any more: {_said(seen)}")
        if time.monotonic() > deadline:
            raise ClusterError(f"node {node.name} has not left in time: {_said(seen)}")
        time.sleep(_POLL_S)


def _await_seen(site: Site, node: Node, others: list[Node], states: set[str | None]) -> None:
    """Wait until all others see a node in one of some states; None: not at all."""
    deadline = time.monotonic() + _SEEN_TIMEOUT_S
    while True:
        seen = _seen(site, node, others)
        if len(seen) == len(others) and set(seen.values()) <= states:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"the others do not agree about node {node.name}: {_said(seen)}")
        time.sleep(_POLL_S)


def _said(seen: Mapping[str, str | None]) -> str:
    return ", ".join(f"{who} sees it {state or 'not at all'}" for who, state in seen.items())


def _wipe(site: Site, node: Node) -> None:
    """Empty the directories of a node; they stay, since disks may be mounted there."""
    if process.running(node) is not None:
        raise ClusterError(f"node {node.name} runs")
    for directory in node.directories:
        for path in directory.iterdir() if directory.is_dir() else ():
            _remove(site, path)
        site.report(f"{node.name}: emptied {directory}")


def _remove(site: Site, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
