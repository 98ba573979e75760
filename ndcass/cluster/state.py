"""What is remembered of a cluster on this machine: which nodes it has, and how they came to be.

The file lies in the cluster's folder. Without it a node that lost its disk would start empty, as if
nothing had ever been stored.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError, IncompatibleStore

STATE_NAME = "cluster.json"
LOCK_NAME = "lock"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that was started at least once, and what it cannot change any more."""

    tier: str
    rack: str
    address: str
    folder: str
    data: tuple[str, ...]
    tokens: tuple[int, ...] | None
    """Those it was given as one of the first nodes; None if it joined later."""
    has_joined: bool = False
    """Whether it was seen up and normal."""


@dataclass(frozen=True, slots=True)
class State:
    """All nodes that were ever started and not taken away."""

    cluster: str
    tokens_per_node: int
    nodes: Mapping[str, NodeRecord] = field(default_factory=dict)

    def with_node(self, name: str, record: NodeRecord) -> "State":
        return dataclasses.replace(self, nodes={**self.nodes, name: record})

    def without_node(self, name: str) -> "State":
        kept = {other: record for other, record in self.nodes.items() if other != name}
        return dataclasses.replace(self, nodes=kept)


def record_of(cluster: Cluster, node: Node, tokens: tuple[int, ...] | None) -> NodeRecord:
    """What is to be remembered of a node that starts for the first time."""
    return NodeRecord(
        tier=cluster.tier_of(node).name,
        rack=node.rack,
        address=node.address,
        folder=str(node.folder),
        data=tuple(str(path) for path in node.directories.data),
        tokens=tokens,
    )


def load_state(cluster: Cluster) -> State:
    """The state in the cluster's folder; an empty one if it was never started.

    Raises
    ------
    IncompatibleStore
        If another ndcass wrote it.
    ClusterError
        If the description says otherwise about something that cannot change any more.
    """
    state = read_state(cluster)
    _refuse_other(cluster, state)
    return state


def read_state(cluster: Cluster) -> State:
    """As `load_state`, whatever the description says: for stopping and removing nodes."""
    path = cluster.folder / STATE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return State(cluster.name, cluster.tokens_per_node)
    if content.pop("format", None) != FORMAT:
        raise IncompatibleStore(f"{path} was written by another version of ndcass")
    return State(**{**content, "nodes": _records(content["nodes"])})


def save_state(cluster: Cluster, state: State) -> None:
    """Write the state, whole or not at all."""
    cluster.folder.mkdir(parents=True, exist_ok=True)
    unfinished = cluster.folder / f"{STATE_NAME}.new"
    content = {"format": FORMAT, **dataclasses.asdict(state)}
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    unfinished.replace(cluster.folder / STATE_NAME)


@contextlib.contextmanager
def sole_operator(cluster: Cluster) -> Iterator[None]:
    """Be the only one who changes this cluster, among all processes of this machine.

    Raises
    ------
    ClusterError
        If somebody else does at this moment.
    """
    cluster.folder.mkdir(parents=True, exist_ok=True)
    with (cluster.folder / LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"another ndcass works on cluster {cluster.name} in {cluster.folder}"
            ) from None
        yield


def _records(content: Mapping[str, Any]) -> dict[str, NodeRecord]:
    """Records from what JSON held, which `Any` stands for."""
    records = {}
    for name, fields in content.items():
        tokens = fields["tokens"]
        records[name] = NodeRecord(
            **{
                **fields,
                "data": tuple(fields["data"]),
                "tokens": None if tokens is None else tuple(tokens),
            }
        )
    return records


def _refuse_other(cluster: Cluster, state: State) -> None:
    """What was stored under one description cannot be found under another."""
    fixed = [
        ("cluster.name", state.cluster, cluster.name),
        ("cluster.tokens_per_node", state.tokens_per_node, cluster.tokens_per_node),
    ]
    for node in cluster.nodes:
        record = state.nodes.get(node.name)
        if record is None:
            continue
        now = record_of(cluster, node, None)
        fixed += [
            (f"{what} of node {node.name}", getattr(record, what), getattr(now, what))
            for what in ("tier", "rack", "address", "folder", "data")
        ]
    for what, then, now_is in fixed:
        if then != now_is:
            raise ClusterError(
                f"{what} was {_said(then)} when the cluster was started, and cannot become "
                f"{_said(now_is)}: data would be looked for in the wrong place"
            )


def _said(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
