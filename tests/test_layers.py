"""The architecture, as imports: no arrow points up.

`LAYERS` is the table of docs/architecture.md; change both together.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
OUTER = ("server", "loadgen", "schema", "conf")

# Module or folder, by the path in the checkout -> layer. The longest match counts.
LAYERS = {
    "ndcass/__init__.py": 0,
    "ndcass/errors.py": 0,
    "ndcass/geometry.py": 1,
    "ndcass/morton.py": 1,
    "ndcass/model.py": 1,
    "ndcass/keys.py": 1,
    "ndcass/config.py": 1,
    "ndcass/plan.py": 2,
    "ndcass/assemble.py": 2,
    "ndcass/merge.py": 2,
    "ndcass/codec.py": 2,
    "ndcass/picture.py": 2,
    "ndcass/composite.py": 2,
    "ndcass/tile.py": 2,
    "ndcass/resample.py": 2,
    "ndcass/histogram.py": 2,
    "ndcass/downsample.py": 2,
    "ndcass/pyramid.py": 2,
    "ndcass/ramon.py": 2,
    "ndcass/ramon_text.py": 2,
    "ndcass/swc.py": 2,
    "ndcass/concurrency.py": 2,
    "ndcass/shared_calls.py": 2,
    "ndcass/bell.py": 2,
    "ndcass/label_values.py": 2,
    "ndcass/store/": 3,
    "ndcass/place.py": 4,
    "ndcass/volume.py": 4,
    "ndcass/derivation.py": 4,
    "ndcass/writer.py": 4,
    "ndcass/label_index.py": 4,
    "ndcass/label_voxels.py": 4,
    "ndcass/label_painting.py": 4,
    "ndcass/annotation.py": 4,
    "ndcass/label_tables.py": 2,
    "ndcass/questions.py": 4,
    "ndcass/projection.py": 4,
    "ndcass/drawing.py": 4,
    "ndcass/resources.py": 4,
    "ndcass/statistics.py": 4,
    "ndcass/propagation.py": 4,
    "ndcass/objects.py": 4,
    "ndcass/object_writes.py": 4,
    "ndcass/unfinished.py": 4,
    "ndcass/stray_labels.py": 4,
    "ndcass/shared_voxels.py": 4,
    "ndcass/skeletons.py": 4,
    "ndcass/connectome.py": 4,
    "ndcass/jobs/": 4,
    "ndcass/cluster/": 4,
    "server/": 5,
    "loadgen/": 5,
    "ndcass/cli/": 6,
    "schema/": 0,
    "conf/": 0,
}

# What stands outside the package -> the only places that may import it.
ONLY_IN = {
    "aiohttp": ("server/", "loadgen/client.py"),
    "cassandra": ("ndcass/store/cassandra/driver.py",),
    "lmdb": ("ndcass/store/embedded/",),
    "sqlite3": ("ndcass/store/embedded/",),
    "argparse": ("ndcass/cli/", "loadgen/"),
    "requests": ("ndcass/cli/",),
    "tqdm": ("ndcass/cli/", "loadgen/"),
}

# Layers 0 to 2 compute; sockets, processes and clocks are for those above.
IMPURE = frozenset("http requests shutil socket ssl subprocess tempfile time urllib".split())
HIGHEST_PURE = 2


class Import(NamedTuple):
    """One import statement: who, where and what."""

    source: str  # path in the checkout
    line: int
    target: str  # dotted name

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def sources() -> list[Path]:
    """Every module that gets installed."""
    folders = ("ndcass", *OUTER)
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def dotted(path: str) -> str:
    """Path in the checkout -> name it is imported by."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.split(".")[0] == "ndcass" else f"ndcass.{name}"


@cache
def path_of() -> dict[str, str]:
    """Name of every module -> its path in the checkout."""
    paths = (path.relative_to(ROOT).as_posix() for path in sources())
    return {dotted(path): path for path in paths}


def imports_in(source: str, text: str) -> Iterator[Import]:
    """Every import of a module, also those inside functions and for type checkers only."""
    modules = path_of()
    package = dotted(source).split(".")
    if not source.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(source, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"  # a module, or a name inside one
                yield Import(source, node.lineno, inner if inner in modules else base)


@cache
def all_imports() -> list[Import]:
    """Of the whole package."""
    return [
        found
        for path in sources()
        for found in imports_in(path.relative_to(ROOT).as_posix(), path.read_text())
    ]


def row_of(path: str) -> str | None:
    """The row of the table that a module belongs to."""
    rows = [row for row in LAYERS if path == row or (row.endswith("/") and path.startswith(row))]
    return max(rows, key=len, default=None)


def points_up(found: Import) -> bool:
    """Whether an import breaks the order of the layers."""
    target = path_of().get(found.target)
    source_row, target_row = row_of(found.source), row_of(target or "")
    if source_row is None or target is None or target_row is None:
        return False
    if LAYERS[source_row] != LAYERS[target_row]:
        return LAYERS[source_row] < LAYERS[target_row]
    if source_row == target_row:
        return False
    # On one layer a module may use its neighbour, and a folder what lies beside it; no folder is
    # used by what lies beside it.
    beside = Path(source_row).parent == Path(target_row).parent
    return target_row.endswith("/") or not beside


def test_every_module_has_a_layer() -> None:
    homeless = [path for path in path_of().values() if row_of(path) is None]

    assert homeless == [], "add them to LAYERS and to docs/architecture.md"


def test_no_import_points_up() -> None:
    assert [str(found) for found in all_imports() if points_up(found)] == []


def test_server_and_loadgen_do_not_know_each_other() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        for one, other in (("server", "loadgen"), ("loadgen", "server"))
        if found.source.startswith(f"{one}/") and found.target.startswith(f"ndcass.{other}")
    ]

    assert wrong == []


def test_loadgen_uses_no_more_than_a_client_could() -> None:
    wrong = []
    for found in all_imports():
        row = row_of(path_of().get(found.target, ""))
        if found.source.startswith("loadgen/") and row not in (None, "loadgen/"):
            wrong += [str(found)] if LAYERS[str(row)] > HIGHEST_PURE else []

    assert wrong == []


@pytest.mark.parametrize("package", sorted(ONLY_IN))
def test_package_is_imported_where_it_belongs_only(package: str) -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if found.target.split(".")[0] == package and not found.source.startswith(ONLY_IN[package])
    ]

    assert wrong == []


def test_lower_layers_do_no_input_or_output() -> None:
    wrong = [
        str(found)
        for found in all_imports()
        if LAYERS[row_of(found.source) or "ndcass/cli/"] <= HIGHEST_PURE
        and found.target.split(".")[0] in IMPURE
    ]

    assert wrong == []


def test_outer_folders_are_imported_by_their_installed_name() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    found = all_imports() + [
        found
        for path in tests
        for found in imports_in(path.relative_to(ROOT).as_posix(), path.read_text())
    ]

    assert [str(one) for one in found if one.target.split(".")[0] in OUTER] == []


def test_documented_layers_are_the_tested_ones() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    documented = {
        row: int(layer)
        for row, layer in re.findall(r"^\| `([a-z_/.]+)` \| (\d) \|", text, flags=re.MULTILINE)
    }

    assert documented == {row: layer for row, layer in LAYERS.items() if "__init__" not in row}


@pytest.mark.parametrize(
    ("source", "statement", "wrong"),
    [
        ("ndcass/plan.py", "import ndcass.errors", False),
        ("ndcass/plan.py", "from ndcass.geometry import Box", False),
        ("ndcass/plan.py", "from ndcass import merge", False),
        ("ndcass/plan.py", "from ndcass.store import base", True),
        ("ndcass/errors.py", "from .geometry import Box", True),
        ("ndcass/store/engine.py", "from . import base", False),
        ("ndcass/store/engine.py", "def late():\n    import ndcass.volume", True),
        ("ndcass/volume.py", "import ndcass.jobs", True),
        ("ndcass/jobs/__init__.py", "import ndcass.volume", False),
        ("ndcass/volume.py", "import ndcass.server", True),
        ("ndcass/cli/__init__.py", "import ndcass.server", False),
        ("server/__init__.py", "from ndcass.server import formats", False),
        ("server/__init__.py", "import ndcass.loadgen", True),
    ],
)
def test_rule_tells_right_from_wrong(source: str, statement: str, wrong: bool) -> None:
    assert any(points_up(found) for found in imports_in(source, statement)) is wrong
