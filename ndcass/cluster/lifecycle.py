"""What it takes to bring a cluster of this machine to its description: deciding, then doing.

`plan_changes` looks and touches nothing; `up` carries the plan out and does nothing where the plan
is empty. Nodes that are no longer described are told of and left alone: taking them away means
moving their data first.
"""

import asyncio
import enum
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ndcass.cluster import process
from ndcass.cluster.access import prepare_cluster, refuse_no_password
from ndcass.cluster.distribution import Distribution
from ndcass.cluster.joining import joining_options
from ndcass.cluster.layout import initial_tokens
from ndcass.cluster.site import Site, differences, empty_directories, full_directories
from ndcass.cluster.spec import Cluster, Node
from ndcass.cluster.startup import await_agreement, founding_options, join_node, start_nodes
from ndcass.cluster.state import (
    LOCK_NAME,
    STATE_NAME,
    NodeRecord,
    State,
    load_state,
    read_state,
    record_of,
    save_state,
    sole_operator,
)
from ndcass.cluster.tls import generated_password, tls_folder, with_certificates
from ndcass.errors import ClusterError


class Action(enum.Enum):
    """What `up` would do with a node."""

    CREATE = "create"
    """One of the first nodes: started empty, with tokens that are dealt to it."""
    JOIN = "join"
    """Started empty in a cluster that has data: it fetches its share."""
    START = "start"
    RESTART = "restart"
    """It runs, and its files are to change."""
    NOTHING = "unchanged"
    LEFT = "not described"
    """It was started once and is described no more: nothing is done."""


@dataclass(frozen=True, slots=True)
class Change:
    """What would happen to one node, and how its files would differ."""

    node: str
    action: Action
    differences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FormerNode:
    """A node that is known and perhaps no longer described."""

    name: str
    folder: Path


def open_site(
    cluster: Cluster,
    distribution: Distribution,
    environ: Mapping[str, str],
    *,
    report: Callable[[str], None],
    superuser_password: str = "",
    keystore_password: str = "",
) -> Site:
    """A cluster of this machine, ready to be worked on.

    Parameters
    ----------
    environ : mapping
        What nodes see, except for variables of ndcass, some of which are secrets.
    report : callable
        Takes one line of progress.
    superuser_password, keystore_password : str
        Where the description asks for them.
    """
    return Site(
        cluster,
        distribution,
        {name: value for name, value in environ.items() if not name.startswith("NDCASS_")},
        report,
        keystore_password=generated_password(cluster) or keystore_password,
        superuser_password=superuser_password,
    )


def plan_changes(site: Site, state: State) -> list[Change]:
    """What `up` would do, node by node; nothing is touched.

    Raises
    ------
    ClusterError
        If a node may not be started with what its directories hold.
    """
    changes = [_change(site, state, node) for node in site.cluster.nodes]
    described = {node.name for node in site.cluster.nodes}
    left = [Change(name, Action.LEFT) for name in state.nodes if name not in described]
    return [*changes, *left]


def up(site: Site) -> list[Change]:
    """Bring the cluster to its description, and wait until all nodes see each other.

    Returns
    -------
    list of Change
        What was done.

    Raises
    ------
    ClusterError
        If a node does not start, or must not.
    """
    cluster = site.cluster
    refuse_no_password(site)
    with sole_operator(cluster):
        state = load_state(cluster)
        site = with_certificates(site)
        changes = plan_changes(site, state)
        state = _with_new_nodes(cluster, state, changes)
        save_state(cluster, state)
        starting = _named(cluster, changes, Action.CREATE, Action.START)
        start_nodes(site, starting, _options(state, starting))
        state = _joined(cluster, state, starting)
        for node in _named(cluster, changes, Action.RESTART):
            restart(site, node, _options(state, [node]))
        for node in _named(cluster, changes, Action.JOIN):
            process.stop(node, timeout_s=cluster.stop_timeout_s)  # one that was on its way
            join_node(site, node, joining_options(site, node))
            state = _joined(cluster, state, [node])
        await_agreement(site, cluster.nodes)
        # Also those that ran already: an earlier `up` may have failed after it had started them.
        _joined(cluster, state, cluster.nodes)
        asyncio.run(prepare_cluster(site))
    return changes


def restart(site: Site, node: Node, options: Mapping[str, Sequence[str]] | None = None) -> None:
    """Stop a node and start it with its files as they should be; then all see each other again.

    Parameters
    ----------
    options : mapping, optional
        JVM options for this start alone, by the node's name.

    Raises
    ------
    ClusterError
        If it does not come back.
    """
    site.report(f"{node.name}: restarting")
    process.stop(node, timeout_s=site.cluster.stop_timeout_s)
    start_nodes(site, [node], options)
    await_agreement(site, [one for one in site.cluster.nodes if process.running(one) is not None])


def down(cluster: Cluster, report: Callable[[str], None]) -> list[str]:
    """Stop all nodes: they write down what they hold in memory first.

    Returns
    -------
    list of str
        The nodes that were stopped.
    """
    with sole_operator(cluster):
        return _stop_all(known_nodes(cluster), cluster.stop_timeout_s, report)


def destroy(cluster: Cluster, report: Callable[[str], None]) -> list[Path]:
    """Stop all nodes and remove everything that they stored.

    Returns
    -------
    list of Path
        What was removed.
    """
    with sole_operator(cluster):
        _stop_all(known_nodes(cluster), cluster.stop_timeout_s, report)
        removed = [path for path in stored_in(cluster) if path.exists()]
        for path in removed:
            shutil.rmtree(path)
            report(f"removed {path}")
        (cluster.folder / STATE_NAME).unlink(missing_ok=True)
        (cluster.folder / LOCK_NAME).unlink()
    if not any(cluster.folder.iterdir()):
        cluster.folder.rmdir()
    return removed


def known_nodes(cluster: Cluster) -> list[FormerNode]:
    """The nodes that are described, and those that were started once."""
    folders = {node.name: node.folder for node in cluster.nodes}
    for name, record in read_state(cluster).nodes.items():
        folders.setdefault(name, Path(record.folder))
    return [FormerNode(name, folder) for name, folder in folders.items()]


def stored_in(cluster: Cluster) -> list[Path]:
    """Every folder that belongs to a node that was started, without those inside another."""
    paths = {tls_folder(cluster)}
    for name, record in read_state(cluster).nodes.items():
        paths |= {Path(record.folder), *map(Path, record.data)}
        paths |= {path for node in cluster.nodes if node.name == name for path in node.directories}
    return sorted(path for path in paths if paths.isdisjoint(path.parents))


def _change(site: Site, state: State, node: Node) -> Change:
    found = differences(site, node)
    record = state.nodes.get(node.name)
    if process.running(node) is not None:
        if not found:
            return Change(node.name, Action.NOTHING)
        is_on_its_way = record is not None and record.tokens is None and not record.has_joined
        return Change(node.name, Action.JOIN if is_on_its_way else Action.RESTART, found)
    if record is None:
        _refuse_unknown_data(node)
        return Change(node.name, Action.JOIN if state.nodes else Action.CREATE, found)
    if record.has_joined:
        _refuse_lost_data(node)
    elif record.tokens is None:
        return Change(node.name, Action.JOIN, found)
    return Change(node.name, Action.START, found)


def _refuse_unknown_data(node: Node) -> None:
    for path in full_directories(node):
        raise ClusterError(
            f"node {node.name} is new, but {path} holds data of somebody: empty it, or name another"
        )


def _refuse_lost_data(node: Node) -> None:
    """An empty node would answer that nothing was ever stored."""
    for path in empty_directories(node):
        raise ClusterError(
            f"node {node.name} had data in {path}, which is empty now: mount what belongs there, "
            "or replace the node"
        )


def _with_new_nodes(cluster: Cluster, state: State, changes: Sequence[Change]) -> State:
    tokens = initial_tokens(cluster)
    for node in _named(cluster, changes, Action.CREATE):
        state = state.with_node(node.name, record_of(cluster, node, tokens[node.name]))
    for node in _named(cluster, changes, Action.JOIN):
        state = state.with_node(node.name, record_of(cluster, node, None))
    return state


def _options(state: State, nodes: Sequence[Node]) -> dict[str, tuple[str, ...]]:
    """What the first nodes are told when they start for the first time."""

    def of(record: NodeRecord | None) -> tuple[str, ...]:
        if record is None or record.tokens is None or record.has_joined:
            return ()
        return founding_options(record.tokens)

    return {node.name: of(state.nodes.get(node.name)) for node in nodes}


def _joined(cluster: Cluster, state: State, nodes: Sequence[Node]) -> State:
    """Remember that nodes take part; that they lose their data is an error from now on."""
    for node in nodes:
        # One that runs and that nobody remembers has tokens that nobody here gave it.
        record = state.nodes.get(node.name) or record_of(cluster, node, None)
        state = state.with_node(node.name, replace(record, has_joined=True))
    save_state(cluster, state)
    return state


def _named(cluster: Cluster, changes: Sequence[Change], *actions: Action) -> list[Node]:
    return [cluster.node(change.node) for change in changes if change.action in actions]


def _stop_all(
    nodes: Sequence[FormerNode], timeout_s: float, report: Callable[[str], None]
) -> list[str]:
    """Ask all of them at once; whoever has not ended in time is killed."""
    stopping = [node for node in nodes if process.running(node) is not None]
    for node in stopping:
        process.ask_to_end(node)
    deadline = time.monotonic() + timeout_s
    for node in stopping:
        by_itself = process.stop(node, timeout_s=max(0.0, deadline - time.monotonic()))
        report(f"{node.name}: stopped" if by_itself else f"{node.name}: killed, it did not end")
    return [node.name for node in stopping]
