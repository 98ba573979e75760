"""The guard of the nodes that tests start: none of them outlives the tests."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ndcass.cluster import process
from ndcass.cluster.lifecycle import FormerNode
from ndcass.errors import MissingTool
from tests import cassandra_nodes
from tests.cassandra_nodes import ROOT, guarded, nodes_or_skip

# A test process that starts a node (which only sleeps), says so and hangs.
_TESTS = textwrap.dedent(
    """
    import os, signal, sys, time
    from pathlib import Path
    from ndcass.cluster import process
    from ndcass.cluster.lifecycle import FormerNode
    from tests.cassandra_nodes import guarded

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also if these run in the background
    base, java = map(Path, sys.argv[1:])
    with guarded(base):
        process.start(FormerNode("n", base / "n"), java, environ=dict(os.environ))
        print("started", flush=True)
        time.sleep(100)
    """
)


def sleeper(folder: Path) -> Path:
    path = folder / "java"
    path.write_text("#!/bin/sh\nexec sleep 100\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nodes_end_with_the_tests_however_these_end(tmp_path: Path, number: signal.Signals) -> None:
    base = tmp_path / "nodes"
    base.mkdir()
    tests = subprocess.Popen(
        [sys.executable, "-c", _TESTS, base, sleeper(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert tests.stdout is not None
    assert tests.stdout.readline() == "started\n"
    node = process.running(FormerNode("n", base / "n"))
    assert node is not None
    tests.send_signal(number)
    tests.communicate(timeout=60)
    try:
        assert node.wait(60), "the node outlived the tests"
    finally:
        node.send(signal.SIGKILL)


def test_nodes_and_their_folder_go_when_a_test_fails(tmp_path: Path) -> None:
    base = tmp_path / "nodes"
    base.mkdir()
    node = FormerNode("n", base / "n")

    def failing_test() -> None:
        with guarded(base):
            process.start(node, sleeper(tmp_path), environ=dict(os.environ))
            started.append(process.running(node))
            raise AssertionError("a failing test")

    started: list[process.Process | None] = []
    with pytest.raises(AssertionError, match="a failing test"):
        failing_test()
    (running,) = started
    assert running is not None
    assert not running.is_alive()
    assert not base.exists()


def test_machine_without_java_fails_where_ci_has_to_run_and_skips_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(*args: object, **options: object) -> None:
        raise MissingTool("no Java 17: install one")

    monkeypatch.setattr(cassandra_nodes, "find_distribution", nothing)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Java 17: install one"), nodes_or_skip():
        pass
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="no Java 17: install one"), nodes_or_skip():
        pass
