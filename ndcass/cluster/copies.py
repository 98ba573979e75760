"""A backup of keyspaces as it lies in a folder: files of nodes, and a manifest that lists them.

::

    DIR/manifest.json                  written last: without it the backup is half made
    DIR/NODE/TABLE/DATA_DIRECTORY/...  sstables, as the node had them

A backup of several keyspaces is a folder of such folders, by the keyspaces' names, and a list of
them, which is written when all are whole::

    DIR/keyspaces.json
    DIR/KEYSPACE/...

Every file is listed with its size and its SHA-256, and checked before anything is restored.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndcass.errors import ClusterError, CorruptValue, IncompatibleStore
from ndcass.store.cassandra.structure import Element

MANIFEST_NAME = "manifest.json"
LIST_NAME = "keyspaces.json"
FORMAT = 1
_BLOCK_BYTES = 1 << 20
_NAME = re.compile(r"\w{1,48}", re.ASCII)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a backup."""

    path: str
    """Below the backup's folder."""
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class NodeCopy:
    """What was taken from one node."""

    name: str
    tokens: tuple[int, ...]
    files: tuple[FileRecord, ...]

    def of_table(self, table: str) -> list[FileRecord]:
        """The files of one table."""
        start = f"{self.name}/{table}/"
        return [file for file in self.files if file.path.startswith(start)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup consists of."""

    cluster: str
    keyspace: str
    made_at: str
    """UTC, as ISO 8601 has it."""
    version: str
    """Of Cassandra."""
    elements: tuple[Element, ...]
    nodes: tuple[NodeCopy, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for node in self.nodes for file in node.files)

    @property
    def file_count(self) -> int:
        return sum(len(node.files) for node in self.nodes)

    def ring(self) -> dict[str, tuple[int, ...]]:
        """Tokens of every node when the backup was made."""
        return {node.name: node.tokens for node in self.nodes}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Complete a backup."""
    _write(folder / MANIFEST_NAME, dataclasses.asdict(manifest))


def write_list(folder: Path, keyspaces: Sequence[str]) -> None:
    """Complete a backup of several keyspaces, each of which is complete."""
    _write(folder / LIST_NAME, {"keyspaces": list(keyspaces)})


def read_list(folder: Path) -> list[str] | None:
    """The keyspaces of a backup of several; None if it is one of a keyspace alone.

    Raises
    ------
    ClusterError
        If there is no backup, or it was not completed.
    IncompatibleStore
        If another ndcass made it.
    """
    if (folder / MANIFEST_NAME).exists():
        return None
    keyspaces = _read(folder, LIST_NAME)["keyspaces"]
    if not all(isinstance(name, str) and _NAME.fullmatch(name) for name in keyspaces):
        raise ClusterError(f"{LIST_NAME} in {folder} names what is no keyspace")
    return list(keyspaces)


def read_manifest(folder: Path) -> Manifest:
    """What a backup consists of.

    Raises
    ------
    ClusterError
        If there is none, or it was not completed.
    IncompatibleStore
        If another ndcass made it.
    """
    return _manifest(_read(folder, MANIFEST_NAME))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Read every file of a backup.

    Raises
    ------
    CorruptValue
        If one is missing, or is not what was written.
    """
    for file in (file for node in manifest.nodes for file in node.files):
        path = folder / file.path
        try:
            found = _hash(path)
        except OSError as error:
            raise CorruptValue(f"{path} cannot be read: {error.strerror}") from error
        if found != (file.size_bytes, file.sha256):
            raise CorruptValue(f"{path} is not what was written when the backup was made")


def copy_file(source: Path, folder: Path, relative: str) -> FileRecord:
    """Copy a file into a folder, for good; what was copied."""
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    size = 0
    with source.open("rb") as reading, target.open("xb") as writing:
        for block in _blocks(reading):
            digest.update(block)
            writing.write(block)
            size += len(block)
        writing.flush()
        os.fsync(writing.fileno())
    return FileRecord(relative, size, digest.hexdigest())


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write what JSON can hold (`Any`), whole or not at all, and for good."""
    unfinished = path.with_name(f"{path.name}.new")
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **content}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    _sync_folder(path.parent)


def _read(folder: Path, name: str) -> dict[str, Any]:
    """What JSON held, which `Any` stands for."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = f"half made: it has no {name}" if folder.is_dir() else "not there"
        raise ClusterError(f"the backup {folder} is {state}") from None
    except ValueError as error:
        raise ClusterError(f"{name} in {folder} is no JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise IncompatibleStore(f"{folder} was written by another version of ndcass")
    return content


def _manifest(content: Mapping[str, Any]) -> Manifest:
    """From what JSON held, which `Any` stands for."""
    return Manifest(
        **{
            **content,
            "elements": tuple(Element(**element) for element in content["elements"]),
            "nodes": tuple(
                NodeCopy(node["name"], tuple(node["tokens"]), _records(node["name"], node["files"]))
                for node in content["nodes"]
            ),
        }
    )


def _records(node: str, files: Sequence[Mapping[str, Any]]) -> tuple[FileRecord, ...]:
    """Records of files from what JSON held (`Any`), none of which lies outside the backup."""
    records = tuple(FileRecord(**file) for file in files)
    for record in records:
        parts = Path(record.path).parts
        if ".." in parts or parts[0] != node:
            raise ClusterError(f"the manifest names {record.path!r}, which is no file of {node}")
    return records


def _hash(path: Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        for block in _blocks(file):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()


def _blocks(file: Any) -> Iterator[bytes]:  # any file that is read as bytes
    while block := file.read(_BLOCK_BYTES):
        yield block


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
