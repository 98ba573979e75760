"""What the README tells people to type works, and what it links to exists."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.processes import KEY, Gateway, StartGateway, environment

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
TIMEOUT_S = 60


class Block(NamedTuple):
    """A block of the README that is marked as a test."""

    group: str
    language: str
    text: str


def blocks(group: str) -> list[Block]:
    found = re.findall(r"<!-- test: (\w+) -->\n```(\w+)\n(.*?)```", README, flags=re.DOTALL)
    return [block for block in (Block(*parts) for parts in found) if block.group == group]


def run(block: Block, server: Gateway, folder: Path) -> str:
    """Run a block as a reader would, but for the port."""
    text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    bin_folder = Path(sys.executable).parent
    finished = subprocess.run(
        [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euc", text],
        cwd=folder,
        env=environment(
            NDCASS_API_KEY=KEY,
            NDCASS_URL=server.url,
            PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        ),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def server(start_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    data = tmp_path_factory.mktemp("readme") / "data"
    return start_gateway(data, "--demo")


def test_look_at_the_demo_volume_works(server: Gateway, tmp_path: Path) -> None:
    section, voxels = blocks("demo")

    run(section, server, tmp_path)
    printed = run(voxels, server, tmp_path)

    assert (tmp_path / "section.png").read_bytes().startswith(b"\x89PNG")
    assert printed.startswith("(1, 16, 128, 128) uint32 ")


def test_volume_of_your_own_works(server: Gateway, tmp_path: Path) -> None:
    make, stack, post = blocks("own")

    run(make, server, tmp_path)
    run(stack, server, tmp_path)
    run(post, server, tmp_path)

    stored = np.load(tmp_path / "stack.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "box.npy"), stored[10:20, 0:500, 100:400])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(
        re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), flags=re.MULTILINE)
    )
    made = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))

    assert {"run", "test"} <= targets <= made


def test_folders_of_the_map_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (tree,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    parent = ROOT
    for indent, name in re.findall(r"^( *)([a-z]+)/", tree, flags=re.MULTILINE):
        folder = (parent if indent else ROOT) / name
        parent = parent if indent else folder
        assert folder.is_dir()
