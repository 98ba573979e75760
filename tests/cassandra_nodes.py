"""Real Cassandra nodes for tests: started for a session, killed, paused and started again by tests.

They have loopback addresses, ports and folders of their own, so they run beside a developer's
cluster and beside other sessions. They end with the test process, however that ends: a guard in a
process of its own notices.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ndcass.cluster import lifecycle, process, ring
from ndcass.cluster.distribution import find_distribution
from ndcass.cluster.lifecycle import FormerNode
from ndcass.cluster.loader import cluster_from
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster, Node
from ndcass.cluster.startup import NodeFailed, await_agreement, start_nodes
from ndcass.errors import MissingTool
from tests.processes import environment

ROOT = Path(__file__).resolve().parent.parent
HEAP_MIB = 512
TOKENS_PER_NODE = 4
# A node needs some 15 s of a core; whoever else uses the machine must not fail a test.
START_TIMEOUT_S = 600.0
GUARD_TIMEOUT_S = 60.0
DATA_CENTRE = "local"
JMX_PORTS = range(20_000, 32_000)
PASSWORD = "a secret of the tests"
"""Of the superuser, where `security` asks for authentication."""

# Never the same twice: nodes that are paused or killed at present want their addresses back.
_attempts = itertools.count(os.getpid())


@dataclass(frozen=True, slots=True)
class CassandraNodes:
    """Some nodes that run; `site` is what `ndcass.cluster` takes."""

    site: Site
    said: list[str] = field(default_factory=list)
    """Lines of progress."""

    @property
    def cluster(self) -> Cluster:
        return self.site.cluster

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cluster.nodes

    @property
    def contact_points(self) -> tuple[str, ...]:
        """Addresses that take CQL."""
        return tuple(node.client_address for node in self.nodes)

    @property
    def port(self) -> int:
        """Of CQL."""
        return self.cluster.ports.native

    @property
    def data_centre(self) -> str:
        """Of the first tier."""
        return self.cluster.tiers[0].name

    def kill(self, *nodes: Node) -> None:
        """End nodes as a loss of power would (kill -9); by default all of them."""
        for node in nodes or self.nodes:
            process.kill(node)

    def stop(self, *nodes: Node) -> None:
        """Ask nodes to end, and wait; by default all of them."""
        for node in nodes or self.nodes:
            process.stop(node, timeout_s=self.cluster.stop_timeout_s)

    def start(self, *nodes: Node, options: Sequence[str] = ()) -> None:
        """Start nodes that do not run, and wait until all running ones see each other."""
        absent = [one for one in nodes or self.nodes if process.running(one) is None]
        try:
            start_nodes(self.site, absent, {node.name: options for node in absent})
        except NodeFailed as failed:
            failed.add_note("\n".join(failed.log))
            raise
        self.settle()

    def settle(self) -> None:
        """Wait until all nodes that run see each other up and normal."""
        await_agreement(self.site, [one for one in self.nodes if process.running(one) is not None])

    @contextlib.contextmanager
    def paused(self, *nodes: Node) -> Iterator[None]:
        """Let nodes hang, as a long collection or a bad disk would; they are back afterwards."""
        try:
            for node in nodes:
                self._signal(node, signal.SIGSTOP)
            yield
        finally:
            for node in nodes:
                self._signal(node, signal.SIGCONT)
        # Who waited for them may have given them up meanwhile.
        self.settle()

    def wipe(self, node: Node) -> None:
        """Take away everything that a stopped node stored."""
        assert process.running(node) is None, f"{node.name} still runs"
        for path in node.directories:
            shutil.rmtree(path)

    def _signal(self, node: Node, number: signal.Signals) -> None:
        running = process.running(node)
        if running is not None:
            running.send(number)


@contextlib.contextmanager
def cassandra_nodes(
    *,
    count: int = 3,
    tiers: Mapping[str, int] | None = None,
    heap_mib: int = HEAP_MIB,
    tokens_per_node: int = TOKENS_PER_NODE,
    environ: Mapping[str, str] | None = None,
    **sections: Any,
) -> Iterator[CassandraNodes]:
    """Start nodes, and end them.

    Parameters
    ----------
    count : int
        Nodes of the only tier.
    tiers : mapping, optional
        Nodes of each tier by its name, in the place of `count`: the last one is the archive.
    tokens_per_node : int
        A node that joins takes the longer the more there are.
    environ : mapping, optional
        Where Java and Cassandra are looked for; by default the environment of the test.
    **sections
        Sections of the description (``security={"authentication": True}``) beside those that are
        made here, or in their place.

    Raises
    ------
    MissingTool
        If this machine cannot run Cassandra.
    """
    said: list[str] = []
    environ = environment() if environ is None else environ
    distribution = find_distribution(environ, report=said.append)
    folder = Path(tempfile.mkdtemp(prefix="ndcass-nodes-"))
    cluster = cluster_from(
        {
            **_description(folder, tiers or {DATA_CENTRE: count}, heap_mib, tokens_per_node),
            **sections,
        }
    )
    site = lifecycle.open_site(
        cluster, distribution, environ, report=said.append, superuser_password=PASSWORD
    )
    with guarded(folder):
        try:
            lifecycle.up(site)
        except NodeFailed as error:
            raise AssertionError("\n".join([str(error), *error.log])) from error
        yield CassandraNodes(site, said)


@contextlib.contextmanager
def nodes_or_skip(**options: Any) -> Iterator[CassandraNodes]:
    """As `cassandra_nodes`; a machine that cannot run them skips the tests, or fails them in CI."""
    with contextlib.ExitStack() as stack:
        try:
            nodes = stack.enter_context(cassandra_nodes(**options))
        except MissingTool as error:
            if os.environ.get("CI") == "true":
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield nodes


def _description(
    folder: Path, tiers: Mapping[str, int], heap_mib: int, tokens_per_node: int
) -> dict[str, Any]:
    """Nodes at addresses that nobody listens on."""
    addresses = _free_addresses(sum(tiers.values()))
    ports = _free_ports(len(addresses))
    nodes = ({"address": a, "jmx_port": port} for a, port in zip(addresses, ports, strict=True))
    *_, archive = tiers
    return {
        "cluster": {
            "name": "ndcass tests",
            "folder": str(folder),
            "tokens_per_node": tokens_per_node,
            "start_timeout_s": START_TIMEOUT_S,
        },
        "tiers": {
            name: {
                "role": "archive" if name == archive else "ingest",
                "heap_mib": heap_mib,
                "nodes": list(itertools.islice(nodes, count)),
            }
            for name, count in tiers.items()
        },
    }


def _free_addresses(count: int) -> list[str]:
    """Neighbours on the loopback network; another process starts its search elsewhere."""
    for attempt in itertools.islice(_attempts, 1000):
        network = f"127.{64 + attempt // 250 % 64}.{attempt % 250}"
        addresses = [f"{network}.{n + 1}" for n in range(count)]
        if not any(ring.accepts(one, port) for one in addresses for port in (7000, 9042)):
            return addresses
    raise AssertionError("no free loopback addresses")


def _free_ports(count: int) -> list[int]:
    """Ports that the system gives to nobody by itself: a restarted node wants its own back."""
    free = (
        port
        for port in range(JMX_PORTS.start + os.getpid() % 500 * 20, JMX_PORTS.stop)
        if not ring.accepts("127.0.0.1", port)
    )
    return list(itertools.islice(free, count))


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """At the end, or when this process dies, kill all nodes below a folder and remove it."""
    # The guard reads from a pipe that only this process can write to, until nobody can any more.
    guard = subprocess.Popen(
        [sys.executable, "-m", "tests.cassandra_nodes", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,  # an interrupt from the keyboard is not for it
    )
    try:
        yield
    finally:
        guard.communicate(timeout=GUARD_TIMEOUT_S)


def _guard(folder: Path) -> None:
    sys.stdin.read()
    for record in folder.rglob(process.RECORD_NAME):
        process.kill(FormerNode(record.parent.name, record.parent))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
