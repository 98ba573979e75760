"""Copies of keyspaces, from snapshots of all nodes that hold them.

A snapshot writes down what is in memory first, and names the files of one moment. The moments of
the nodes differ by seconds: what is acknowledged meanwhile may be in the copy or not. What was
acknowledged before is in the copy of at least one node.

Of two tiers the one that takes writes comes first, on all its nodes, and then the one that keeps
them: a row that has left the first by the time of its snapshot is in the second by then. The other
way round a row that is drained in between would be in neither copy.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndcass.cluster import nodetool
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.copies import (
    FileRecord,
    Manifest,
    NodeCopy,
    copy_file,
    write_list,
    write_manifest,
)
from ndcass.cluster.maintenance import holders
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node, Role
from ndcass.cluster.state import sole_operator
from ndcass.cluster.steps import refuse_if_away, step
from ndcass.errors import ClusterError, ConfigError
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.monitoring import (
    ROLES_KEYSPACE,
    NodeFacts,
    node_facts,
    replicas_by_keyspace,
)
from ndcass.store.cassandra.structure import TABLE, Element, structure_of

SNAPSHOT_TIMEOUT_S = 600.0
# What Cassandra puts beside the sstables of a snapshot.
_NOT_DATA = ("manifest.json", "schema.cql")


@dataclass(frozen=True, slots=True)
class Source:
    """A keyspace that is to be copied."""

    keyspace: str
    nodes: tuple[Node, ...]
    """Those that hold it."""
    elements: tuple[Element, ...]
    facts: Mapping[Node, NodeFacts]
    is_for_writes: bool
    """Whether it is in the tier that writes leave for another one."""

    @property
    def tables(self) -> list[str]:
        return [element.name for element in self.elements if element.kind == TABLE]


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
    _refuse_full(folder)
    with sole_operator(site.cluster):
        sources, others = asyncio.run(_sources(site, [keyspace]))
        [manifest] = _backup(site, sources, {keyspace: folder})
    if others:
        site.report(
            f"note: {', '.join(others)} not copied. What is drained from one keyspace to another "
            "between two backups may be in neither: `ndcass cluster backup --all` copies them "
            "together"
        )
    return manifest


def backup_together(site: Site, keyspaces: Sequence[str], folder: Path) -> list[Manifest]:
    """Copy several keyspaces into a new folder, so that they fit together; by default all.

    Returns
    -------
    list of Manifest
        What was copied.

    Raises
    ------
    ClusterError
        As `backup`. The folder has a list of keyspaces only if the backup is whole.
    """
    _refuse_full(folder)
    with sole_operator(site.cluster):
        sources, _ = asyncio.run(_sources(site, keyspaces))
        manifests = _backup(site, sources, {one.keyspace: folder / one.keyspace for one in sources})
    write_list(folder, [manifest.keyspace for manifest in manifests])
    return manifests


def _refuse_full(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClusterError(f"{folder} is there already: name a folder that is not, or is empty")


def _backup(site: Site, sources: Sequence[Source], folders: Mapping[str, Path]) -> list[Manifest]:
    """Take all snapshots in their order, and then copy: that may take hours."""
    holding = list(dict.fromkeys(node for source in sources for node in source.nodes))
    refuse_if_away(site, holding, why="a backup needs all nodes that hold a keyspace")
    made_at = datetime.datetime.now(datetime.UTC)
    tag = f"ndcass-{made_at:%Y%m%dT%H%M%S%f}"
    manifests = []
    with contextlib.ExitStack() as held:
        for source in in_order(sources):
            held.enter_context(_snapshot(site, source.nodes, source.keyspace, tag))
        for source in sources:
            copies = []
            for node in source.nodes:
                files = tuple(
                    _copied(node, source.keyspace, source.tables, tag, folders[source.keyspace])
                )
                copies.append(NodeCopy(node.name, source.facts[node].tokens, files))
                site.report(f"{node.name}: {len(files)} files of {source.keyspace} copied")
            manifests.append(
                Manifest(
                    cluster=site.cluster.name,
                    keyspace=source.keyspace,
                    made_at=made_at.isoformat(timespec="seconds"),
                    version=source.facts[source.nodes[0]].version,
                    elements=source.elements,
                    nodes=tuple(copies),
                )
            )
    for manifest in manifests:
        folders[manifest.keyspace].mkdir(parents=True, exist_ok=True)
        write_manifest(folders[manifest.keyspace], manifest)
    return manifests


def in_order(sources: Sequence[Source]) -> list[Source]:
    """The order of snapshots: rows move from the tier that takes writes to the other one."""
    return sorted(sources, key=lambda source: not source.is_for_writes)


async def _sources(site: Site, keyspaces: Sequence[str]) -> tuple[list[Source], list[str]]:
    """What is to be copied, by default all keyspaces; and the names of those that are not."""
    driver = await Driver.connect(superuser_settings(site))
    try:
        known = await replicas_by_keyspace(driver)
        for keyspace in keyspaces:
            if keyspace not in known:
                there = ", ".join(sorted(known)) or "none"
                raise ConfigError(f"there is no keyspace {keyspace!r}; there is {there}")
        ours = sorted(name for name in known if name != ROLES_KEYSPACE)
        chosen = list(dict.fromkeys(keyspaces)) or ours
        if not chosen:
            raise ConfigError("there is no keyspace")
        found = []
        for keyspace in chosen:
            nodes = holders(site, known[keyspace])
            found.append(
                Source(
                    keyspace=keyspace,
                    nodes=tuple(nodes),
                    elements=tuple(await structure_of(driver, keyspace)),
                    facts={node: await node_facts(driver, node.client_address) for node in nodes},
                    is_for_writes=all(
                        site.cluster.tier_of(node).role is Role.INGEST for node in nodes
                    ),
                )
            )
        return found, [name for name in ours if name not in chosen]
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
