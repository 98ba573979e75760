"""Backups as they lie in a folder."""

import json
from pathlib import Path

import pytest

from ndcass.cluster.copies import (
    LIST_NAME,
    MANIFEST_NAME,
    Manifest,
    NodeCopy,
    check_files,
    copy_file,
    read_list,
    read_manifest,
    write_list,
    write_manifest,
)
from ndcass.errors import ClusterError, CorruptValue, IncompatibleStore
from ndcass.store.cassandra.structure import Element

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A backup of one file of one node."""
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    made = tmp_path / "backup"
    record = copy_file(source, made, "n1/rows/0/x-Data.db")
    element = Element("table", "rows", "CREATE TABLE k.rows (a int PRIMARY KEY)")
    copy = NodeCopy("n1", (1, -5), (record,))
    write_manifest(made, Manifest("c", "k", "2026-01-01", "5.0.8", (element,), (copy,)))
    return made


def test_manifest_reads_as_it_was_written(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert manifest.keyspace == "k"
    assert manifest.ring() == {"n1": (1, -5)}
    assert (manifest.file_count, manifest.size_bytes) == (1, 3)
    [record] = manifest.nodes[0].of_table("rows")
    assert record.sha256 == ABC_SHA256
    assert manifest.nodes[0].of_table("row") == []


def test_whole_backup_passes(folder: Path) -> None:
    check_files(folder, read_manifest(folder))


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd", b""])
def test_changed_file_is_found(folder: Path, content: bytes) -> None:
    (folder / "n1/rows/0/x-Data.db").write_bytes(content)

    with pytest.raises(CorruptValue, match="not what was written"):
        check_files(folder, read_manifest(folder))


def test_missing_file_is_found(folder: Path) -> None:
    (folder / "n1/rows/0/x-Data.db").unlink()

    with pytest.raises(CorruptValue, match="cannot be read"):
        check_files(folder, read_manifest(folder))


def test_backup_without_a_manifest_is_half_made(folder: Path) -> None:
    (folder / MANIFEST_NAME).unlink()

    with pytest.raises(ClusterError, match="half made"):
        read_manifest(folder)


def test_absent_backup_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="not there"):
        read_manifest(tmp_path / "no")


def test_manifest_of_another_version_is_refused(folder: Path) -> None:
    (folder / MANIFEST_NAME).write_text('{"format": 99}')

    with pytest.raises(IncompatibleStore, match="another version"):
        read_manifest(folder)


@pytest.mark.parametrize("path", ["n1/../../passwd", "/etc/passwd", "n2/rows/0/x-Data.db"])
def test_files_outside_the_backup_are_refused(folder: Path, path: str) -> None:
    content = json.loads((folder / MANIFEST_NAME).read_text())
    content["nodes"][0]["files"][0]["path"] = path
    (folder / MANIFEST_NAME).write_text(json.dumps(content))

    with pytest.raises(ClusterError, match="no file of n1"):
        read_manifest(folder)


def test_copy_never_overwrites(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    copy_file(source, tmp_path / "backup", "x")

    with pytest.raises(FileExistsError):
        copy_file(source, tmp_path / "backup", "x")


def test_backup_of_several_lists_its_keyspaces(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"half made: it has no keyspaces\.json"):
        read_list(tmp_path)
    write_list(tmp_path, ["hot", "backup"])

    assert read_list(tmp_path) == ["hot", "backup"]
    assert read_list(folder) is None, "that is one of a keyspace alone"


@pytest.mark.parametrize("name", ["../hot", "", "a/b", 7])
def test_list_names_no_folder_elsewhere(tmp_path: Path, name: object) -> None:
    (tmp_path / LIST_NAME).write_text(json.dumps({"format": 1, "keyspaces": [name]}))

    with pytest.raises(ClusterError, match="no keyspace"):
        read_list(tmp_path)
