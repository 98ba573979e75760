"""Steps of an operation: what must be so before one, and what is told when one fails.

An operation that ends half way says how things are now, what the node in question said last, and
what to do next.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence

from ndcass.cluster import nodetool, process
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.ring import UP_AND_NORMAL
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node
from ndcass.cluster.state import load_state
from ndcass.errors import ClusterError
from ndcass.store.cassandra.monitoring import is_answering

_POLL_S = 0.5
# Who hangs must not hold up the news that something has failed.
_SITUATION_TIMEOUT_S = 20.0


class StepFailed(ClusterError):
    """An operation stopped half way; `log` is what the node in question said last."""

    def __init__(self, text: str, log: Sequence[str]) -> None:
        super().__init__(text)
        self.log = list(log)


@contextlib.contextmanager
def step(site: Site, node: Node, *, then: str) -> Iterator[None]:
    """Whatever fails in the block is told together with how things are now.

    Parameters
    ----------
    then : str
        What to do when it fails: a sentence.

    Raises
    ------
    StepFailed
        In place of another ClusterError.
    """
    try:
        yield
    except ClusterError as error:
        log: Sequence[str] = getattr(error, "log", None) or process.log_tail(node)
        text = str(error).rstrip(".")
        raise StepFailed(f"{text}. Now {situation(site)}. {then}", log) from error


def situation(site: Site) -> str:
    """Which nodes run, and whom those that do not see as up and normal."""
    nodes = site.cluster.nodes
    running = running_nodes(site)
    views = nodetool.views_from(site, running, timeout_s=_SITUATION_TIMEOUT_S)
    found = []
    for node in nodes:
        if node not in running:
            found.append(f"{node.name} does not run")
        elif node not in views:
            found.append(f"{node.name} runs and does not answer")
        else:
            odd = [
                f"{other.name} {state}"
                for other in nodes
                if (state := views[node].get(other.address, "not at all")) != UP_AND_NORMAL
            ]
            found.append(f"{node.name} runs" + (f" and sees {', '.join(odd)}" if odd else ""))
    return "; ".join(found)


def running_nodes(site: Site) -> list[Node]:
    """The described nodes that run."""
    return [node for node in site.cluster.nodes if process.running(node) is not None]


def members(site: Site, *, but: Node | None = None) -> list[Node]:
    """The described nodes that take part, whether they run or not.

    Parameters
    ----------
    but : Node, optional
        One that is left out, whatever it does.

    Raises
    ------
    ClusterError
        If a node runs of which nobody knows that it takes part. It may hold data, and without it
        whatever is done with all of them would be done with some.
    """
    known = load_state(site.cluster).nodes
    found = []
    for node in site.cluster.nodes:
        if node == but:
            continue
        record = known.get(node.name)
        if record is not None and record.has_joined:
            found.append(node)
        elif process.running(node) is not None:
            raise ClusterError(
                f"node {node.name} runs, and was never seen to take part: `ndcass cluster up` "
                "brings the cluster to its description"
            )
    return found


def refuse_if_away(site: Site, nodes: Sequence[Node], *, why: str) -> None:
    """All of these nodes see each other up and normal.

    Raises
    ------
    ClusterError
        If one does not run, or is not seen so; `why` says what that would lead to.
    """
    views = nodetool.views_from(site, [node for node in nodes if process.running(node) is not None])
    for node in nodes:
        if process.running(node) is None:
            raise ClusterError(f"node {node.name} does not run: {why}")
        if node not in views:
            raise ClusterError(f"node {node.name} does not answer: {why}")
        for other in nodes:
            state = views[node].get(other.address, "not at all")
            if state != UP_AND_NORMAL:
                raise ClusterError(f"node {node.name} sees {other.name} {state}: {why}")


def await_cql(site: Site, node: Node) -> None:
    """Wait until a node answers a query.

    Raises
    ------
    ClusterError
        If it does not within the time that a start may take.
    """
    settings = superuser_settings(site)
    deadline = time.monotonic() + site.cluster.start_timeout_s
    while not asyncio.run(is_answering(settings, node.client_address)):
        if time.monotonic() > deadline:
            raise ClusterError(f"node {node.name} does not answer queries")
        time.sleep(_POLL_S)
