"""Processes of nodes, with a script in the place of Java."""

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndcass.cluster import process
from ndcass.cluster.layout import LOG_NAME, MAIN_CLASS
from ndcass.cluster.lifecycle import FormerNode
from ndcass.cluster.process import RECORD_NAME, Process
from ndcass.errors import ClusterError


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FormerNode]:
    """A node that is killed at the end."""
    node = FormerNode("n1", tmp_path / "n1")
    yield node
    process.kill(node)


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "java"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def start(node: FormerNode, java: Path) -> Process:
    return process.start(node, java, environ={"PATH": os.environ["PATH"]})


def await_output(node: FormerNode, text: str) -> None:
    path = node.folder / "logs" / process.OUTPUT_NAME
    deadline = time.monotonic() + 20
    while text not in path.read_text():
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.02)


def test_started_node_is_known_again_until_it_is_stopped(tmp_path: Path, node: FormerNode) -> None:
    assert process.running(node) is None
    started = start(node, script(tmp_path, "exec sleep 100"))
    assert process.running(node) == started
    assert process.stop(node, timeout_s=20) is True
    assert process.running(node) is None
    assert not started.is_alive()


def test_node_is_not_started_twice(tmp_path: Path, node: FormerNode) -> None:
    java = script(tmp_path, "exec sleep 100")
    started = start(node, java)
    with pytest.raises(ClusterError, match=f"runs already, as process {started.pid}"):
        start(node, java)
    assert process.running(node) == started


def test_node_is_in_a_session_of_its_own(tmp_path: Path, node: FormerNode) -> None:
    started = start(node, script(tmp_path, "exec sleep 100"))
    assert os.getsid(started.pid) == started.pid != os.getsid(0)


def test_node_gets_files_options_and_class(tmp_path: Path, node: FormerNode) -> None:
    java = script(tmp_path, 'echo "$@"; echo "arenas $MALLOC_ARENA_MAX"; exec sleep 100')
    process.start(node, java, environ={"PATH": os.environ["PATH"]}, options=["-Da=1"])
    await_output(node, "arenas 4")
    said = (node.folder / "logs" / process.OUTPUT_NAME).read_text().splitlines()
    arguments = f"@{node.folder}/conf/jvm.args -Da=1 {MAIN_CLASS}"
    assert said == [arguments, "arenas 4"]


def test_node_that_does_not_end_is_killed(tmp_path: Path, node: FormerNode) -> None:
    java = script(tmp_path, "trap '' TERM; echo ready; while true; do sleep 1; done")
    started = start(node, java)
    await_output(node, "ready")
    assert process.stop(node, timeout_s=0.3) is False
    assert not started.is_alive()


def test_paused_node_can_be_stopped(tmp_path: Path, node: FormerNode) -> None:
    started = start(node, script(tmp_path, "exec sleep 100"))
    started.send(signal.SIGSTOP)
    assert started.is_alive()
    assert process.stop(node, timeout_s=20) is True


def test_node_that_ended_is_not_running_though_nobody_waited_for_it(
    tmp_path: Path, node: FormerNode
) -> None:
    started = start(node, script(tmp_path, "exit 1"))
    assert started.wait(20)
    assert process.running(node) is None


def test_node_is_alive_while_any_of_its_threads_is(tmp_path: Path, node: FormerNode) -> None:
    """The first thread of a JVM ends before those that still hold its ports."""
    program = "import ctypes, threading, time; t = threading.Thread(target=time.sleep, args=[100])"
    program += "; t.start(); print('ready', flush=True); ctypes.CDLL(None).pthread_exit(None)"
    started = start(node, script(tmp_path, f'exec {sys.executable} -c "{program}"'))
    await_output(node, "ready")
    stat = Path(f"/proc/{started.pid}/stat")
    deadline = time.monotonic() + 20
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the first thread does not end"
        time.sleep(0.02)
    assert started.is_alive()
    process.kill(node)
    assert not started.is_alive()


def test_process_that_took_the_number_is_not_touched(tmp_path: Path, node: FormerNode) -> None:
    started = start(node, script(tmp_path, "exec sleep 100"))
    path = node.folder / RECORD_NAME
    former = dataclasses.replace(started, started_ticks=started.started_ticks - 1)
    path.write_text(json.dumps(dataclasses.asdict(former)))
    assert process.running(node) is None
    process.kill(node)
    assert process.stop(node, timeout_s=0) is True
    former.send(signal.SIGKILL)
    assert started.is_alive()
    path.write_text(json.dumps(dataclasses.asdict(started)))


def test_process_of_before_the_machine_started_is_not_taken_for_a_node(
    tmp_path: Path, node: FormerNode
) -> None:
    started = start(node, script(tmp_path, "exec sleep 100"))
    assert not dataclasses.replace(started, boot_id="another").is_alive()


def test_java_that_cannot_be_run_is_an_error(tmp_path: Path, node: FormerNode) -> None:
    with pytest.raises(OSError, match="No such file"):
        start(node, tmp_path / "none")
    assert process.running(node) is None


def test_tail_begins_at_the_first_error_since_the_start(tmp_path: Path, node: FormerNode) -> None:
    log = node.folder / "logs" / LOG_NAME
    log.parent.mkdir(parents=True)
    log.write_text("ERROR of a former start\n")
    start(node, script(tmp_path, "exec sleep 100"))
    assert process.log_tail(node) == []
    with log.open("a") as file:
        file.write("INFO one\nINFO two\nERROR bad\n\tat line\nINFO three\n")
    assert process.log_tail(node, lines=2) == ["ERROR bad", "\tat line"]


def test_tail_without_an_error_is_the_end_of_log_and_output(
    tmp_path: Path, node: FormerNode
) -> None:
    start(node, script(tmp_path, "echo 'WARNING: old'; echo 'Error: no such option'"))
    await_output(node, "option")
    log = node.folder / "logs" / LOG_NAME
    log.write_text("INFO one\nINFO two\n")
    assert process.log_tail(node, lines=2) == ["INFO two", "Error: no such option"]


def test_tail_of_a_node_that_never_ran_is_empty(node: FormerNode) -> None:
    assert process.log_tail(node) == []
