"""A copy of a keyspace, from snapshots of all nodes that hold it.

A snapshot writes down what is in memory first, and names the files of one moment. The moments of
the nodes differ by seconds: what is acknowledged meanwhile may be in the copy or not.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from ndcass.cluster import nodetool
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.copies import FileRecord, Manifest, NodeCopy, copy_file, write_manifest
from ndcass.cluster.maintenance import holders
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node
from ndcass.cluster.state import sole_operator
from ndcass.cluster.steps import refuse_if_away, step
from ndcass.errors import ClusterError, ConfigError
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.monitoring import NodeFacts, node_facts, replicas_by_keyspace
from ndcass.store.cassandra.structure import TABLE, Element, structure_of

SNAPSHOT_TIMEOUT_S = 600.0
# What Cassandra puts beside the sstables of a snapshot.
_NOT_DATA = ("manifest.json", "schema.cql")


def backup(site: Site, keyspace: str, folder: Path) -> Manifest:
    """Copy a keyspace into a new folder.

    Returns
    -------
    Manifest
        What was copied.

    Raises
    ------
    ClusterError
        If a node is away, the folder holds something, or a copy fails. The folder has a manifest
        only if the backup is whole.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClusterError(f"{folder} is there already: name a folder that is not, or is empty")
    with sole_operator(site.cluster):
        nodes, elements, facts = asyncio.run(_described(site, keyspace))
        refuse_if_away(site, nodes, why="a backup needs all nodes that hold the keyspace")
        made_at = datetime.datetime.now(datetime.UTC)
        tag = f"ndcass-{made_at:%Y%m%dT%H%M%S%f}"
        tables = [element.name for element in elements if element.kind == TABLE]
        copies = []
        with _snapshot(site, nodes, keyspace, tag):
            for node in nodes:
                files = tuple(_copied(node, keyspace, tables, tag, folder))
                copies.append(NodeCopy(node.name, facts[node].tokens, files))
                site.report(f"{node.name}: {len(files)} files copied")
    manifest = Manifest(
        cluster=site.cluster.name,
        keyspace=keyspace,
        made_at=made_at.isoformat(timespec="seconds"),
        version=facts[nodes[0]].version,
        elements=tuple(elements),
        nodes=tuple(copies),
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_manifest(folder, manifest)
    return manifest


async def _described(
    site: Site, keyspace: str
) -> tuple[list[Node], list[Element], dict[Node, NodeFacts]]:
    """The nodes that hold a keyspace, its structure, and what the nodes say of themselves."""
    driver = await Driver.connect(superuser_settings(site))
    try:
        known = await replicas_by_keyspace(driver)
        if keyspace not in known:
            there = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"there is no keyspace {keyspace!r}; there is {there}")
        nodes = holders(site, known[keyspace])
        facts = {node: await node_facts(driver, node.client_address) for node in nodes}
        return nodes, await structure_of(driver, keyspace), facts
    finally:
        await driver.close()


@contextlib.contextmanager
def _snapshot(site: Site, nodes: Sequence[Node], keyspace: str, tag: str) -> Iterator[None]:
    """Hold a snapshot of a keyspace on all nodes; it is gone afterwards."""
    again = f"`ndcass nodetool NODE clearsnapshot -t {tag}` removes what it may have left."
    try:
        with step(site, nodes[0], then=again):
            nodetool.ask_all(
                site, nodes, "snapshot", "-t", tag, keyspace, timeout_s=SNAPSHOT_TIMEOUT_S
            )
        site.report(f"snapshot {tag} of {keyspace} on {len(nodes)} nodes")
        yield
    finally:
        with step(site, nodes[0], then=again):
            nodetool.ask_all(site, nodes, "clearsnapshot", "-t", tag, keyspace)


def _copied(
    node: Node, keyspace: str, tables: Sequence[str], tag: str, folder: Path
) -> Iterator[FileRecord]:
    """Copy the files of a snapshot of one node."""
    for place, directory in enumerate(node.directories.data):
        for snapshot in sorted((directory / keyspace).glob(f"*/snapshots/{tag}")):
            # The folder of a table is its name and its id; there may be one of a table dropped.
            table = snapshot.parent.parent.name.rpartition("-")[0]
            if table not in tables:
                continue
            for path in sorted(snapshot.iterdir()):
                if path.is_file() and path.name not in _NOT_DATA:
                    yield copy_file(path, folder, f"{node.name}/{table}/{place}/{path.name}")
