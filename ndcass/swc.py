"""Skeletons as SWC text: trees of nodes, a line each (annotation plane 6.1).

Pure: what a file says, and what a file looks like. Which ids objects get: ``skeletons.py``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ndcass.errors import InvalidRequest, Malformed, TooLarge
from ndcass.ramon_text import field_text, parse_number

ROOT = -1
COLUMNS = 7
MAX_NODES = 1 << 20
MAX_COMMENTS = 1 << 12
MAX_COMMENT_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class SwcNode:
    """A line of a file: the number of a node, that of its parent (-1 for none), and what it is."""

    number: int
    kind: int
    location_xyz: tuple[int | float, int | float, int | float]
    radius: float
    parent: int


@dataclass(frozen=True, slots=True)
class SwcFile:
    """Nodes with parents before children, each in the order of the file; and the comments."""

    nodes: Sequence[SwcNode]
    comments: Sequence[str]


def parse_swc(text: str) -> SwcFile:
    """What a file says.

    Raises
    ------
    Malformed
        If a line is no node.
    InvalidRequest
        If the nodes are no trees: a number twice, a parent that is not there, a circle.
    TooLarge
        If it has more nodes or comments than one file may.
    """
    comments: list[str] = []
    nodes: dict[int, SwcNode] = {}
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            comments.append(line)
            if len(comments) > MAX_COMMENTS or len(line) > MAX_COMMENT_CHARACTERS:
                raise TooLarge("comments", asked=len(comments), limit=MAX_COMMENTS, unit="lines")
            continue
        words = line.split()
        if not words:
            continue
        node = _node(words, line)
        if node.number in nodes:
            raise InvalidRequest(f"node {node.number} is in the file twice")
        nodes[node.number] = node
        if len(nodes) > MAX_NODES:
            raise TooLarge("nodes", asked=len(nodes), limit=MAX_NODES, unit="nodes")
    if not nodes:
        raise InvalidRequest("there is no node in the file")
    return SwcFile(_parents_first(nodes), comments)


def _node(words: Sequence[str], line: str) -> SwcNode:
    if len(words) != COLUMNS:
        raise Malformed(f"{line[:80]!r} is no node: number type x y z radius parent")
    number, kind, x, y, z, radius, parent = (parse_number(word, "a node") for word in words)
    if not (isinstance(number, int) and isinstance(kind, int) and isinstance(parent, int)):
        raise Malformed(f"{line[:80]!r}: number, type and parent of a node are whole numbers")
    return SwcNode(number, kind, (float(x), float(y), float(z)), float(radius), parent)


def _parents_first(nodes: Mapping[int, SwcNode]) -> list[SwcNode]:
    """The nodes, each behind its parent."""
    ordered: dict[int, SwcNode] = {}
    for node in nodes.values():
        branch: list[SwcNode] = []
        seen: set[int] = set()
        at = node
        while at.number not in ordered:
            if at.number in seen:
                raise InvalidRequest(f"node {at.number} descends from itself")
            seen.add(at.number)
            branch.append(at)
            if at.parent == ROOT:
                break
            if at.parent not in nodes:
                raise InvalidRequest(f"node {at.number} has the parent {at.parent}, which is not "
                                     f"in the file")  # fmt: skip
            at = nodes[at.parent]
        ordered |= {one.number: one for one in reversed(branch)}
    return list(ordered.values())


def swc_text(header: Sequence[str], nodes: Sequence[SwcNode]) -> str:
    """A file: lines of a header as they are, then a line a node."""
    lines = [line.rstrip("\r\n") for line in header]
    for node in nodes:
        numbers = (*node.location_xyz, node.radius)
        shown = " ".join(field_text(number) for number in numbers)
        lines.append(f"{node.number} {node.kind} {shown} {node.parent}")
    return "".join(f"{line}\n" for line in lines)
