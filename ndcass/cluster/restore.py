"""Keyspaces back from their backup, into nodes that run while no gateway does.

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
from ndcass.cluster.copies import (
    FileRecord,
    Manifest,
    check_files,
    copy_file,
    read_list,
    read_manifest,
)
from ndcass.cluster.maintenance import holders
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Node
from ndcass.cluster.state import sole_operator
from ndcass.cluster.steps import members, refuse_if_away, step
from ndcass.errors import ConfigError, Conflict, CorruptValue
from ndcass.store.cassandra.driver import Driver
from ndcass.store.cassandra.monitoring import node_facts, replicas_by_keyspace
from ndcass.store.cassandra.renewal import CATALOG, CUBOIDS, renew_catalogues
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
    site: Site,
    folder: Path,
    keyspaces: Sequence[str] = (),
    *,
    existing: Existing = Existing.REFUSE,
    with_repair: bool = True,
) -> list[Manifest]:
    """Bring keyspaces back as they were; by default all that the backup has.

    No gateway may run meanwhile: what it remembers (names, which buckets are noted) would not be so
    any more, and a write that it acknowledges could be taken away. At the end the catalogues get a
    version that no gateway has met, and give out no id under which cuboids are stored already.

    Parameters
    ----------
    with_repair : bool
        Repair what came back. The copies of the nodes are of moments that differ by seconds, so
        that without it a quorum may lack what another node has.

    Returns
    -------
    list of Manifest
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
    backups = _backups(folder, keyspaces)
    for part, manifest in backups:
        size = f"{manifest.file_count} files, {manifest.size_bytes / 1e6:.1f} MB"
        site.report(f"checking {size} of {manifest.keyspace}")
        check_files(part, manifest)
    with sole_operator(site.cluster):
        refuse_if_away(site, members(site), why="all nodes have to take what they are to keep")
        asyncio.run(_refuse_conflicts(site, [manifest for _, manifest in backups], existing))
        for part, manifest in backups:
            _restore(site, part, manifest, existing, with_repair=with_repair)
        tables = {one.name for _, manifest in backups for one in manifest.elements}
        if not tables.isdisjoint((CATALOG, CUBOIDS)):
            asyncio.run(_renew_catalogues(site))
    return [manifest for _, manifest in backups]


def _backups(folder: Path, keyspaces: Sequence[str]) -> list[tuple[Path, Manifest]]:
    """The folders of some keyspaces, by default of all, and their manifests."""
    there = read_list(folder)
    if there is None:
        manifest = read_manifest(folder)
        for keyspace in keyspaces:
            if keyspace != manifest.keyspace:
                raise ConfigError(f"{folder} is a backup of {manifest.keyspace}, not of {keyspace}")
        return [(folder, manifest)]
    for keyspace in keyspaces:
        if keyspace not in there:
            raise ConfigError(f"{folder} is a backup of {', '.join(there)}, not of {keyspace}")
    chosen = list(dict.fromkeys(keyspaces)) or there
    return [(folder / name, read_manifest(folder / name)) for name in chosen]


def _restore(
    site: Site, folder: Path, manifest: Manifest, existing: Existing, *, with_repair: bool
) -> None:
    """Bring one keyspace back."""
    keyspace = manifest.keyspace
    nodes, is_in_place, copies = asyncio.run(_prepared(site, manifest, existing))
    if not is_in_place:
        site.report("the ring is another one: every node takes all files, then drops the rest")
    tables = [element.name for element in manifest.elements if element.kind == TABLE]
    for node in nodes:
        for table in tables:
            taken = [copy for copy in manifest.nodes if not is_in_place or copy.name == node.name]
            files = [copy.of_table(table) for copy in taken]
            _import(site, node, keyspace, table, folder, files, in_place=is_in_place)
        site.report(f"{node.name}: took its files of {keyspace}")
    if not is_in_place:
        maintenance.clean(site, nodes, keyspace=keyspace)
    elif copies > 1 and with_repair:
        maintenance.repair_all(site, keyspace=keyspace)


async def _refuse_conflicts(site: Site, manifests: Sequence[Manifest], existing: Existing) -> None:
    """Find out about all keyspaces before any is changed."""
    driver = await Driver.connect(superuser_settings(site))
    try:
        for manifest in manifests:
            keyspace = manifest.keyspace
            full = await _full_tables(driver, manifest)
            if full and existing is Existing.REFUSE:
                raise Conflict(
                    f"there are rows in {', '.join(f'{keyspace}.{table}' for table in full)}: say "
                    "whether they are replaced (--replace) or stay (--merge)"
                )
    finally:
        await driver.close()


async def _full_tables(driver: Driver, manifest: Manifest) -> list[str]:
    """The tables of a backup that are there and hold rows."""
    keyspace = manifest.keyspace
    absent = _absent(keyspace, manifest.elements, await structure_of(driver, keyspace))
    tables = [one.name for one in manifest.elements if one.kind == TABLE and one not in absent]
    return [table for table in tables if not await is_empty(driver, keyspace, table)]


async def _prepared(
    site: Site, manifest: Manifest, existing: Existing
) -> tuple[list[Node], bool, int]:
    """Make or empty the tables; who holds them, whether each keeps what it had, and copies."""
    keyspace = manifest.keyspace
    driver = await Driver.connect(superuser_settings(site))
    try:
        full = await _full_tables(driver, manifest)
        there = await structure_of(driver, keyspace)
        await make(driver, _absent(keyspace, manifest.elements, there))
        if existing is Existing.REPLACE:
            for table in full:
                await empty(driver, keyspace, table)
                site.report(f"{keyspace}.{table}: emptied")
        replicas = (await replicas_by_keyspace(driver))[keyspace]
        nodes = holders(site, replicas)
        facts = {node.name: await node_facts(driver, node.client_address) for node in nodes}
        ring = {name: one.tokens for name, one in facts.items()}
        copies = _copies_in(await structure_of(driver, keyspace))
        is_in_place = ring == manifest.ring() and copies == _copies_in(manifest.elements)
        return nodes, is_in_place, sum(replicas.values())
    finally:
        await driver.close()


async def _renew_catalogues(site: Site) -> None:
    """Let no gateway and no new channel take what is there now for what was there before."""
    driver = await Driver.connect(superuser_settings(site))
    try:
        for keyspace, last_id in (await renew_catalogues(driver)).items():
            site.report(f"{keyspace}: new channels get ids above {last_id}")
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
