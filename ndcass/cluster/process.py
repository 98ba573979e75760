"""The process of a node on this machine: starting it, knowing it again, ending it.

A record in the node's folder says which process it is, by more than its number: numbers are used
again, and a stranger must not be killed. Only the record is trusted, and only while it fits.
"""

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from ndcass.cluster.layout import JVM_ARGUMENTS, LOG_NAME, MAIN_CLASS, TEMPORARY_NAME
from ndcass.errors import ClusterError

RECORD_NAME = "process.json"
OUTPUT_NAME = "output.log"
FILES_NAME = "conf"
POLL_S = 0.1
# After SIGKILL the system takes the process away; only a stuck disk delays that.
KILL_TIMEOUT_S = 30.0

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STARTED_FIELD = 19  # of /proc/PID/stat, counted behind the name
_ENDED = "ZX"
_LOG_TAIL_BYTES = 256 << 10


class HasFolder(Protocol):
    """A node, or one that is described no more."""

    @property
    def name(self) -> str: ...

    @property
    def folder(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine, not to be taken for a later one with its number."""

    pid: int
    started_ticks: int
    boot_id: str
    log_offset: int = 0
    """How long its log was before it: what stands there is of former processes."""

    def is_alive(self) -> bool:
        """Whether it still runs; one that ended and was not yet waited for does not."""
        found = _state(self.pid)
        if found is None or found[1] != self.started_ticks or self.boot_id != _boot_id():
            return False
        if found[0] not in _ENDED or _has_other_threads(self.pid):
            return True
        with contextlib.suppress(ChildProcessError):  # it may be another's child
            os.waitpid(self.pid, os.WNOHANG)
        return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            # The handle keeps the number from being used again between the check and the signal.
            handle = os.pidfd_open(self.pid)
            try:
                if self.is_alive():
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)

    def wait(self, timeout_s: float) -> bool:
        """Wait until it has ended; False if it has not within the time."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_S)
        return True


def files_folder(node: HasFolder) -> Path:
    """Where the files of a local node are."""
    return node.folder / FILES_NAME


def running(node: HasFolder) -> Process | None:
    """The process of a node, if it runs."""
    process = _recorded(node.folder)
    return process if process is not None and process.is_alive() else None


def start(
    node: HasFolder, java: Path, *, environ: Mapping[str, str], options: Sequence[str] = ()
) -> Process:
    """Start a node whose files are laid out, and return at once.

    Parameters
    ----------
    environ : mapping
        What the process sees.
    options : sequence of str
        JVM options for this start alone.

    Raises
    ------
    ClusterError
        If it runs already.
    """
    if (already := running(node)) is not None:
        raise ClusterError(f"node {node.name} runs already, as process {already.pid}")
    log = node.folder / "logs" / LOG_NAME
    log.parent.mkdir(parents=True, exist_ok=True)
    # Libraries that a JVM unpacks stay behind when it is killed.
    temporary = node.folder / TEMPORARY_NAME
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    log_offset = log.stat().st_size if log.exists() else 0
    command = [str(java), f"@{files_folder(node) / JVM_ARGUMENTS}", *options, MAIN_CLASS]
    output = str(node.folder / "logs" / OUTPUT_NAME)
    writing = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    # In a session of its own it outlives this process and its terminal. And it is nobody's
    # `Popen`, which would complain that it still runs.
    pid = os.posix_spawn(
        java,
        command,
        # Fewer arenas: each of the many threads would otherwise keep memory of its own.
        {**environ, "MALLOC_ARENA_MAX": "4"},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, writing, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    state = _state(pid)
    assert state is not None, "a child stays until it is waited for"
    process = Process(pid, state[1], _boot_id(), log_offset)
    _write_record(node.folder, process)
    return process


def stop(node: HasFolder, *, timeout_s: float) -> bool:
    """Ask a node to end, and kill it if it does not.

    Returns
    -------
    bool
        Whether it ended by itself. A node that does not run counts as such.

    Raises
    ------
    ClusterError
        If not even killing it helps.
    """
    process = running(node)
    if process is None:
        return True
    ask_to_end(node)
    if process.wait(timeout_s):
        return True
    kill(node)
    return False


def ask_to_end(node: HasFolder) -> None:
    """Ask a node to write down what it has in memory, and to end; returns at once."""
    process = running(node)
    if process is not None:
        process.send(signal.SIGCONT)  # one that was paused could not end
        process.send(signal.SIGTERM)


def kill(node: HasFolder) -> None:
    """End a node as a loss of power would: it cannot react.

    Raises
    ------
    ClusterError
        If it runs on all the same.
    """
    process = running(node)
    if process is None:
        return
    process.send(signal.SIGKILL)
    if not process.wait(KILL_TIMEOUT_S):
        raise ClusterError(f"node {node.name}: process {process.pid} cannot be killed")


def log_tail(node: HasFolder, *, lines: int = 20) -> list[str]:
    """What a node said since it was started last: from its first error on, else the end."""
    process = _recorded(node.folder)
    logged = _lines(node.folder / "logs" / LOG_NAME, process.log_offset if process else 0)
    worst = next((n for n, line in enumerate(logged) if line.startswith("ERROR")), None)
    if worst is not None:
        return logged[worst : worst + lines]
    # A JVM that does not like its options says so before there is a log.
    printed = [
        line
        for line in _lines(node.folder / "logs" / OUTPUT_NAME, 0)
        if not line.startswith("WARNING: ")
    ]
    return [*logged, *printed][-lines:]


def _lines(path: Path, offset: int) -> list[str]:
    """The lines behind an offset, or the last part of them if they are many."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            offset = 0 if offset > size else offset  # the log was rolled
            file.seek(max(offset, size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _recorded(folder: Path) -> Process | None:
    try:
        content = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Process(**content)


def _write_record(folder: Path, process: Process) -> None:
    """Whole or not at all: half a record would lose a process."""
    unfinished = folder / f"{RECORD_NAME}.new"
    unfinished.write_text(json.dumps(asdict(process)), encoding="utf-8")
    unfinished.replace(folder / RECORD_NAME)


def _state(pid: int) -> tuple[str, int] | None:
    """State of a process and when it started, in ticks since the machine did."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[_STARTED_FIELD])


def _has_other_threads(pid: int) -> bool:
    """Whether threads outlive the first one: they keep ports and files until they end."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except FileNotFoundError:
        return False


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
