"""Run mypy where the folders stand as they are installed.

`server/` is imported as `ndcass.server` (see setup.py), which mypy cannot work out from the
checkout: it maps folders to modules by their path alone. So this builds a tree of symbolic links,
`build/types/ndcass/server -> server/` and so on, runs mypy inside it and gives the paths of its
messages back as they are in the checkout.

    python tools/typecheck.py                          everything
    python tools/typecheck.py server/app.py tests/server
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "types"
OUTER = ("server", "loadgen", "schema", "conf")
"""Folders that install below `ndcass`."""

BESIDE = ("tests", "tools", "bench", "setup.py")
"""What stays beside it."""

EVERYTHING = ("ndcass", *BESIDE)
"""In the tree, where `ndcass` holds the outer folders."""


def build_tree() -> None:
    """Bring the links up to date; names that went away lose theirs."""
    package = TREE / "ndcass"
    package.mkdir(parents=True, exist_ok=True)
    inner = [path for path in (ROOT / "ndcass").iterdir() if path.name != "__pycache__"]
    wanted = {package / path.name: path for path in inner}
    wanted |= {package / name: ROOT / name for name in OUTER}
    wanted |= {TREE / name: ROOT / name for name in BESIDE}
    for link in [*package.iterdir(), *(path for path in TREE.iterdir() if path != package)]:
        if link not in wanted:
            link.unlink()
    for link, target in wanted.items():
        if not link.is_symlink():
            # Relative, so that a checkout can be moved.
            link.symlink_to(os.path.relpath(target, link.parent))


def in_tree(path: str) -> str:
    """Path in the checkout -> path in the tree."""
    relative = Path(path).resolve().relative_to(ROOT)
    outer = relative.parts and relative.parts[0] in OUTER
    return str(Path("ndcass") / relative if outer else relative)


def in_checkout(line: str) -> str:
    """Message with a path in the tree -> the same with the path in the checkout."""
    return re.sub(rf"^ndcass/({'|'.join(OUTER)})/", r"\1/", line)


def main(paths: list[str]) -> int:
    """Check `paths`, or everything; mypy's exit code."""
    build_tree()
    targets = [in_tree(path) for path in paths] or EVERYTHING
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *targets]
    finished = subprocess.run(command, cwd=TREE, stdout=subprocess.PIPE, text=True, check=False)
    for line in finished.stdout.splitlines():
        print(in_checkout(line))
    return finished.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
