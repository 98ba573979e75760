"""Nodes that sleep, and a nodetool that says what a test wants: for deciding, without Cassandra."""

import dataclasses
import os
import textwrap
import uuid
from collections.abc import Mapping
from pathlib import Path

from ndcass.cluster import lifecycle
from ndcass.cluster.distribution import Distribution
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster
from ndcass.cluster.state import State, record_of, save_state

# The last argument of nodetool is the command, but for that of a keyspace behind it.
_JAVA = """\
#!/bin/sh
here={folder}
case "$*" in
*NodeTool*)
    command=${{*#*NodeTool -h 127.0.0.1 -p }}
    echo "$command" >> "$here/calls"
    {tool}
    ;;
*)
    {node}
    ;;
esac
"""


def sleeping_site(
    cluster: Cluster, folder: Path, *, tool: str = "", node: str = "exec sleep 100"
) -> Site:
    """A site whose Java is a script: `tool` and `node` are what it does, `$here` is `folder`.

    In `tool`, `$command` is the port and what nodetool was asked for.
    """
    # Each has a file of its own: a shell that was just started may not have read it yet.
    java = folder / f"java-{uuid.uuid4().hex}"
    text = _JAVA.format(
        folder=folder, tool=textwrap.dedent(tool) or 'cat "$here/status"', node=node
    )
    java.write_text(text, encoding="utf-8")
    java.chmod(0o755)
    distribution = Distribution(java, folder / "jars", folder / "jars" / "agent.jar")
    return lifecycle.open_site(
        cluster, distribution, {"PATH": os.environ["PATH"]}, report=lambda line: None
    )


def set_status(folder: Path, seen: Mapping[str, str]) -> None:
    """What ``nodetool status`` shows from now on: address -> state."""
    lines = [f"{state}  {address}  1 KiB  4  ?  0a  rack1\n" for address, state in seen.items()]
    (folder / "status").write_text("".join(lines), encoding="utf-8")


def calls_in(folder: Path) -> list[str]:
    """What nodetool was asked for, with the port of the node, in order."""
    path = folder / "calls"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def with_members(cluster: Cluster) -> State:
    """The state of a cluster whose nodes all take part and hold data."""
    state = State(cluster.name, cluster.tokens_per_node)
    for node in cluster.nodes:
        record = dataclasses.replace(record_of(cluster, node, (1, 2)), has_joined=True)
        state = state.with_node(node.name, record)
        for path in node.directories.data:
            path.mkdir(parents=True)
            (path / "precious").touch()
    save_state(cluster, state)
    return state
