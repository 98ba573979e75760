"""A keyspace back from its backup, into nodes that serve.

Where the nodes have the tokens that they had, every one takes back its own files. Where the ring is
another one, every node takes the files of all, and then drops what others keep.
"""

import asyncio
import enum
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from ndcass.cluster import maintenance, nodetool
from ndcass.cluster.access import superuser_settings
from ndcass.cluster.copies import FileRecord, Manifest, check_files, copy_file, read_manifest
from ndcass.cluster.maintenance import holders
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node
from ndcass.cluster.state import sole_operator
from ndcass.cluster.steps import members, refuse_if_away, step
from ndcass.errors import ConfigError, Conflict, CorruptValue
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.monitoring import node_facts, replicas_by_keyspace
from ndcass.store.cassandra.structure import (
    KEYSPACE,
    TABLE,
    Element,
    empty,
    is_empty,
    make,
    structure_of,
)


class Existing(enum.Enum):
    """What to do with rows that are there."""

    REFUSE = "refuse"
    REPLACE = "replace"
    """They are taken away first."""
    MERGE = "merge"
    """They stay; of two versions of a row the later one counts, and what was deleted stays so."""


def restore(
    site: Site, keyspace: str, folder: Path, *, existing: Existing = Existing.REFUSE
) -> Manifest:
    """Bring a keyspace back as it was.

    Returns
    -------
    Manifest
        What was restored.

    Raises
    ------
    CorruptValue
        If a file of the backup is missing or damaged; nothing was changed.
    Conflict
        If there are rows, or tables that differ from those of the backup; nothing was changed.
    ClusterError
        If the backup is half made, a node is away, or a node does not take its files.
    """
    manifest = read_manifest(folder)
    if manifest.keyspace != keyspace:
        raise ConfigError(f"{folder} is a backup of {manifest.keyspace}, not of {keyspace}")
    site.report(f"checking {manifest.file_count} files, {manifest.size_bytes / 1e6:.1f} MB")
    check_files(folder, manifest)
    with sole_operator(site.cluster):
        refuse_if_away(site, members(site), why="all nodes have to take what they are to keep")
        nodes, is_in_place = asyncio.run(_prepared(site, manifest, existing))
        if not is_in_place:
            site.report("the ring is another one: every node takes all files, then drops the rest")
        tables = [element.name for element in manifest.elements if element.kind == TABLE]
        for node in nodes:
            for table in tables:
                copies = [c for c in manifest.nodes if not is_in_place or c.name == node.name]
                files = [copy.of_table(table) for copy in copies]
                _import(site, node, keyspace, table, folder, files, in_place=is_in_place)
            site.report(f"{node.name}: took its files")
        if not is_in_place:
            maintenance.clean(site, nodes, keyspace=keyspace)
    return manifest


async def _prepared(site: Site, manifest: Manifest, existing: Existing) -> tuple[list[Node], bool]:
    """Make or empty the tables; the nodes that hold them, and whether each keeps what it had."""
    keyspace = manifest.keyspace
    driver = await Driver.connect(superuser_settings(site))
    try:
        there = await structure_of(driver, keyspace)
        absent = _absent(keyspace, manifest.elements, there)
        tables = [one.name for one in manifest.elements if one.kind == TABLE and one not in absent]
        full = [table for table in tables if not await is_empty(driver, keyspace, table)]
        if full and existing is Existing.REFUSE:
            raise Conflict(
                f"there are rows in {', '.join(f'{keyspace}.{table}' for table in full)}: say "
                "whether they are replaced (--replace) or stay (--merge)"
            )
        await make(driver, absent)
        if existing is Existing.REPLACE:
            for table in full:
                await empty(driver, keyspace, table)
                site.report(f"{keyspace}.{table}: emptied")
        nodes = holders(site, (await replicas_by_keyspace(driver))[keyspace])
        facts = {node.name: await node_facts(driver, node.client_address) for node in nodes}
        ring = {name: one.tokens for name, one in facts.items()}
        copies = _copies_in(await structure_of(driver, keyspace))
        return nodes, ring == manifest.ring() and copies == _copies_in(manifest.elements)
    finally:
        await driver.close()


def _copies_in(elements: Sequence[Element]) -> str:
    """How many copies a keyspace has, and where: what its own statement says."""
    return next(element.statement for element in elements if element.kind == KEYSPACE)


def _absent(keyspace: str, wanted: Sequence[Element], there: Sequence[Element]) -> list[Element]:
    """What has to be made.

    Raises
    ------
    Conflict
        If something is there that differs.
    """
    known = {(element.kind, element.name): element.statement for element in there}
    absent = []
    for element in wanted:
        statement = known.get((element.kind, element.name))
        if statement is None:
            absent.append(element)
        # How many copies there are may have changed; where they are is Cassandra's business.
        elif statement != element.statement and element.kind != KEYSPACE:
            raise Conflict(
                f"{element.kind} {keyspace}.{element.name} is not what it was when the backup was "
                "made: drop it or restore into another cluster"
            )
    return absent


def _import(
    site: Site,
    node: Node,
    keyspace: str,
    table: str,
    folder: Path,
    copies: Sequence[Sequence[FileRecord]],
    *,
    in_place: bool,
) -> None:
    """Let a node take files of a table, those of each node of the backup by themselves.

    The files are copied first: the node changes and moves what it takes.
    """
    staging = node.folder / f"restore-{uuid.uuid4().hex}"
    again = "What other nodes took stays; the command may be given again with --replace."
    try:
        for files in copies:
            for place, staged in enumerate(_by_directory(files)):
                batch = staging / keyspace / table / str(place)
                _stage(folder, staged, batch)
                with step(site, node, then=again):
                    nodetool.ask(
                        site,
                        node,
                        "import",
                        "--copy-data",  # the staging may be on another disk
                        "--extended-verify",
                        *([] if in_place else ["--no-tokens"]),
                        keyspace,
                        table,
                        str(batch),
                        timeout_s=site.cluster.join_timeout_s,
                    )
                shutil.rmtree(batch)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _by_directory(files: Sequence[FileRecord]) -> list[list[FileRecord]]:
    """Files of each directory by themselves: names may repeat in another."""
    folders: dict[str, list[FileRecord]] = {}
    for file in files:
        folders.setdefault(file.path.rpartition("/")[0], []).append(file)
    return list(folders.values())


def _stage(folder: Path, files: Sequence[FileRecord], batch: Path) -> None:
    for file in files:
        copied = copy_file(folder / file.path, batch, Path(file.path).name)
        if (copied.size_bytes, copied.sha256) != (file.size_bytes, file.sha256):
            raise CorruptValue(f"{folder / file.path} changed while it was restored")
