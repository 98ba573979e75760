"""A cluster on this machine with all that it takes to work on it, and its files on disk."""

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ndcass.cluster.distribution import Distribution
from ndcass.cluster.layout import Place, node_files
from ndcass.cluster.process import files_folder
from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
_SECRET = re.compile(r"^([+\- ]\s*\w*password: ).*$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Site:
    """A cluster of this machine, the software of its nodes, and who is told what happens."""

    cluster: Cluster
    distribution: Distribution
    environ: Mapping[str, str] = field(repr=False)
    """What nodes and tools see of the environment."""
    report: Callable[[str], None]
    """Takes one line of progress."""
    keystore_password: str = field(default="", repr=False)
    superuser_password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not self.cluster.is_local:
            raise ClusterError(
                f"the nodes of cluster {self.cluster.name} are on other machines: "
                "`ndcass cluster render` writes their files"
            )


def wanted_files(site: Site, node: Node) -> dict[str, str]:
    """The files of a node as they should be, by name."""
    place = Place(site.distribution.jars, site.distribution.agent, files_folder(node))
    return node_files(site.cluster, node, place, keystore_password=site.keystore_password)


def differences(site: Site, node: Node) -> tuple[str, ...]:
    """How the files of a node differ from what they should be, as diffs without passwords."""
    found = []
    for name, text in wanted_files(site, node).items():
        path = files_folder(node) / name
        now = path.read_text(encoding="utf-8") if path.is_file() else ""
        if now != text:
            lines = difflib.unified_diff(
                now.splitlines(), text.splitlines(), f"{path} (now)", str(path), lineterm="", n=1
            )
            found.append(_SECRET.sub(r"\1(not shown)", "\n".join(lines)))
    return tuple(found)


def write_files(site: Site, node: Node) -> None:
    """Bring the files and directories of a node up to date; data are not touched."""
    folder = files_folder(node)
    for path in (folder, node.folder / "logs", *node.directories):
        path.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    for name, text in wanted_files(site, node).items():
        unfinished = folder / f"{name}.new"
        unfinished.touch(mode=PRIVATE_FILE)
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, folder / name)


def empty_directories(node: Node) -> list[Path]:
    """Data directories of a node that hold nothing, or do not exist."""
    full = full_directories(node)
    return [path for path in node.directories.data if path not in full]


def full_directories(node: Node) -> list[Path]:
    """Data directories of a node that hold something."""
    return [path for path in node.directories.data if path.is_dir() and any(path.iterdir())]
