"""Whether nodes are there: their ports, and how each of them sees the others."""

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ndcass.cluster.distribution import Distribution
from ndcass.cluster.layout import MODULE_OPTIONS, TOOL_LOGGING
from ndcass.cluster.process import files_folder
from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError

UP_AND_NORMAL = "UN"
LEAVING = "UL"
TOOL_CLASS = "org.apache.cassandra.tools.NodeTool"
CONNECT_TIMEOUT_S = 2.0
TOOL_TIMEOUT_S = 60.0

_LINE = re.compile(r"([UD?][NLJM])\s+(\d+(?:\.\d+){3})(?::\d+)?\s")


def accepts(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((address, port), CONNECT_TIMEOUT_S) as found:
            # A port that outgoing connections are given, too, may be connected with itself.
            return bool(found.getsockname() != found.getpeername())
    except OSError:
        return False


def sockets(cluster: Cluster, node: Node) -> Iterator[tuple[str, int]]:
    """What a node listens on."""
    yield node.address, cluster.ports.storage
    yield node.client_address, cluster.ports.native
    yield "127.0.0.1", node.jmx_port


def view_from(node: Node, distribution: Distribution, environ: Mapping[str, str]) -> dict[str, str]:
    """How a node of this machine sees all nodes: address -> ``UN`` (up and normal), ``DN``, ...

    Raises
    ------
    ClusterError
        If it does not answer.
    """
    command = [str(distribution.java), *tool_options(node, distribution.jars)]
    command += [TOOL_CLASS, "-h", "127.0.0.1", "-p", str(node.jmx_port), "status"]
    try:
        asked = subprocess.run(  # noqa: S603 - the Java of this machine
            command,
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"node {node.name} did not say within {TOOL_TIMEOUT_S} s") from None
    if asked.returncode != 0:
        said = " ".join((asked.stderr or asked.stdout).split())
        raise ClusterError(f"node {node.name} does not say how it sees the others: {said}")
    return views(asked.stdout)


def views(status: str) -> dict[str, str]:
    """Address -> state, from what ``nodetool status`` prints."""
    found = (_LINE.match(line) for line in status.splitlines())
    return {match[2]: match[1] for match in found if match is not None}


def tool_options(node: Node, jars: Path) -> list[str]:
    """The command line of a tool's JVM up to its main class."""
    return [
        "-Xmx128m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",  # it lives for a second
        f"-Dlogback.configurationFile={files_folder(node) / TOOL_LOGGING}",
        f"-Duser.home={node.folder}",  # where it keeps a history of its commands
        *MODULE_OPTIONS,
        "-cp",
        f"{jars}/*",
    ]
