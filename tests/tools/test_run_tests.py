"""``tools/run_tests.py`` on a small project of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "run_tests.py"
CONFIG = "[pytest]\nmarkers =\n    cassandra\n    slow\n"


def project(folder: Path, **tests: str) -> Path:
    """A folder with a test by each name; what the body does, and below which mark."""
    (folder / "pytest.ini").write_text(CONFIG)
    for name, text in tests.items():
        marks, body = text.split(": ", 1)
        lines = [f"@pytest.mark.{mark}" for mark in marks.split()]
        lines += [f"def test_{name}():", f"    {body}"]
        (folder / f"test_{name}.py").write_text("import pytest, time\n" + "\n".join(lines) + "\n")
    return folder


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(TOOL), "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, timeout=60)


def test_both_sessions_say_what_they_did(tmp_path: Path) -> None:
    ended = run(project(tmp_path, a="cassandra: pass", b=": pass", c="slow: assert False"))

    assert ended.returncode == 0, ended.stdout
    for name in ("cassandra | ", "rest      | "):
        assert any("1 passed" in line for line in ended.stdout.splitlines() if name in line)


@pytest.mark.parametrize("failing", ["cassandra", "rest"])
def test_a_failure_in_one_session_fails_all(tmp_path: Path, failing: str) -> None:
    bodies = {"cassandra": "cassandra: pass", "rest": ": pass"}
    bodies[failing] = bodies[failing].replace("pass", "assert False")

    ended = run(project(tmp_path, **bodies))

    assert ended.returncode == 1, ended.stdout
    assert f"{failing}: exit code 1" in ended.stdout


def test_one_session_may_have_no_tests_but_not_both(tmp_path: Path) -> None:
    folder = project(tmp_path, a="cassandra: pass", b=": pass")

    assert run(folder, "-k", "test_b").returncode == 0
    assert run(folder, "-k", "nothing").returncode == 5


@pytest.mark.parametrize("shell", ["", "trap '' INT; "], ids=["at a terminal", "in background"])
def test_both_sessions_end_with_the_tool(tmp_path: Path, shell: str) -> None:
    """Also if a script started it in the background, where interrupts are ignored."""
    sleep = "open(__file__ + '.runs', 'w').close(); time.sleep(60)"
    folder = project(tmp_path, a=f"cassandra: {sleep}", b=f": {sleep}")
    command = ["sh", "-c", f'{shell}exec "$@"', "sh", sys.executable, str(TOOL)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as tool:
        deadline = time.monotonic() + 30
        while len(list(folder.glob("*.runs"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        children = children_of(tool.pid)
        assert len(children) == 2
        tool.send_signal(signal.SIGTERM)
        tool.communicate(timeout=30)
    assert tool.returncode == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split() if os.path.exists(f"/proc/{child}")]
