"""Cassandra's own ``nodetool``, asked about a node of this machine.

Every call starts a JVM for about a second; what can be asked by CQL is asked by CQL (`status`).
"""

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndcass.cluster import process, ring
from ndcass.cluster.layout import MODULE_OPTIONS, TOOL_LOGGING
from ndcass.cluster.process import files_folder
from ndcass.cluster.ring import TOOL_CLASS
from ndcass.cluster.site import Site
from ndcass.cluster.spec import Cluster, Node
from ndcass.errors import ClusterError, MissingTool

# A second where there is nothing else to do; a machine that is busy takes its time.
ASK_TIMEOUT_S = 120.0
# JVMs that run side by side: each takes a core while it starts.
MOST_AT_ONCE = 2
_POLL_S = 0.05
_REMINDER_S = 15.0
_LAST_LINES = 8
_NOISE = ("See 'nodetool help", "-- StackTrace --", "\tat ")


class ToolFailed(ClusterError):
    """``nodetool`` could not do what it was asked for; `log` is what the node said last."""

    def __init__(self, node: Node, command: str, reason: str) -> None:
        super().__init__(f"nodetool {command} at node {node.name}: {reason}")
        self.node = node.name
        self.log = process.log_tail(node)


@dataclass(frozen=True, slots=True)
class Tool:
    """How ``nodetool`` is started for one node."""

    java: Path
    jars: Path
    logging: Path
    """What it may print beside its results."""
    home: Path
    """Where it keeps a history of its commands."""
    jmx_port: int

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The whole command line."""
        return [
            str(self.java),
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # it lives for a second
            f"-Dlogback.configurationFile={self.logging}",
            f"-Duser.home={self.home}",
            *MODULE_OPTIONS,
            "-cp",
            f"{self.jars}/*",
            TOOL_CLASS,
            "-h",
            "127.0.0.1",
            "-p",
            str(self.jmx_port),
            *arguments,
        ]


def local_tool(site: Site, node: Node) -> Tool:
    """For a node that ndcass started here."""
    software = site.distribution
    logging = files_folder(node) / TOOL_LOGGING
    return Tool(software.java, software.jars, logging, node.folder, node.jmx_port)


def machine_tool(cluster: Cluster, node: Node) -> Tool:
    """For a node of a rendered cluster, on its own machine.

    Raises
    ------
    ClusterError
        If this is another machine: JMX is open to the node's own one only.
    MissingTool
        If what belongs on its machine is not there.
    """
    if not _is_mine(node.address):
        raise ClusterError(
            f"node {node.name} is on another machine, {node.address}, and takes commands there "
            "only: run this there"
        )
    machine = cluster.machine
    logging = machine.files / TOOL_LOGGING
    for path in (machine.java, machine.jars, logging):
        if not path.exists():
            raise MissingTool(f"there is no {path}: `ndcass cluster render` says what goes there")
    home = node.folder if os.access(node.folder, os.W_OK) else Path(tempfile.gettempdir())
    return Tool(machine.java, machine.jars, logging, home, node.jmx_port)


def pass_through(tool: Tool, arguments: Sequence[str], *, environ: Mapping[str, str]) -> int:
    """Run a command with the input and output of this process; its exit code."""
    ran = subprocess.run(  # noqa: S603 - the Java of this machine
        tool.command(arguments), env=dict(environ), check=False
    )
    # A shell says it so when a signal ended a program.
    return ran.returncode if ran.returncode >= 0 else 128 - ran.returncode


def ask(site: Site, node: Node, *arguments: str, timeout_s: float = ASK_TIMEOUT_S) -> str:
    """What a command prints.

    Raises
    ------
    ToolFailed
        If it ends badly or takes too long. What the node then does is unknown.
    """
    return ask_each(site, {node: arguments}, timeout_s=timeout_s)[node]


def ask_all(
    site: Site, nodes: Sequence[Node], *arguments: str, timeout_s: float = ASK_TIMEOUT_S
) -> dict[Node, str]:
    """What a command prints at each of some nodes, two at a time.

    Raises
    ------
    ToolFailed
        If it ends badly at one.
    """
    return ask_each(site, dict.fromkeys(nodes, arguments), timeout_s=timeout_s)


def ask_each(
    site: Site, commands: Mapping[Node, Sequence[str]], *, timeout_s: float = ASK_TIMEOUT_S
) -> dict[Node, str]:
    """What a command of its own prints at each of some nodes, two at a time.

    Raises
    ------
    ToolFailed
        If one ends badly.
    """
    answers: dict[Node, str] = {}
    failures: list[ToolFailed] = []
    for answer in answers_of(site, commands, timeout_s=timeout_s):
        if isinstance(answer.outcome, ToolFailed):
            failures.append(answer.outcome)
        else:
            answers[answer.node] = answer.outcome
    if failures:
        raise failures[0]
    return answers


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed at a node, or why it did not."""

    node: Node
    outcome: str | ToolFailed


def answers_of(
    site: Site, commands: Mapping[Node, Sequence[str]], *, timeout_s: float
) -> list[Answer]:
    """The answers of all nodes, also of those that fail."""
    answers = []
    todo = list(commands.items())
    with contextlib.ExitStack() as stack:
        running: list[_Call] = []
        while todo or running:
            while todo and len(running) < MOST_AT_ONCE:
                node, arguments = todo.pop(0)
                running.append(stack.enter_context(_called(site, node, arguments, timeout_s)))
            time.sleep(_POLL_S)
            for call in list(running):
                outcome = call.poll()
                if outcome is not None:
                    answers.append(Answer(call.node, outcome))
                    running.remove(call)
    return answers


def views_from(
    site: Site, observers: Iterable[Node], *, timeout_s: float = ASK_TIMEOUT_S
) -> dict[Node, dict[str, str]]:
    """How nodes see all: address -> ``UN``, ``DN``, ...; without observers that do not answer."""
    answers = answers_of(site, dict.fromkeys(observers, ("status",)), timeout_s=timeout_s)
    return {
        answer.node: ring.views(answer.outcome)
        for answer in answers
        if not isinstance(answer.outcome, ToolFailed)
    }


class _Call:
    """One command while it runs."""

    def __init__(
        self,
        site: Site,
        node: Node,
        arguments: Sequence[str],
        timeout_s: float,
        *,
        started: "subprocess.Popen[bytes]",
        output: Path,
    ) -> None:
        self.node = node
        self._site = site
        self._name = arguments[0]
        self._process = started
        self._output = output
        self._began = time.monotonic()
        self._deadline = self._began + timeout_s
        self._reminder = self._began + _REMINDER_S

    def poll(self) -> str | ToolFailed | None:
        """What it printed, once it has ended; None before."""
        code = self._process.poll()
        now = time.monotonic()
        if code is None and now < self._deadline:
            if now > self._reminder:
                self._reminder = now + _REMINDER_S
                self._site.report(f"{self.node.name}: {self._name}, {now - self._began:.0f} s")
            return None
        if code is None:
            allowed = self._deadline - self._began
            return ToolFailed(self.node, self._name, f"did not end within {allowed:.0f} s")
        text = self._output.read_text(encoding="utf-8", errors="replace")
        return ToolFailed(self.node, self._name, reason_in(text)) if code else text


@contextlib.contextmanager
def _called(site: Site, node: Node, arguments: Sequence[str], timeout_s: float) -> Iterator[_Call]:
    """Start a command; it does not outlive the block."""
    with tempfile.NamedTemporaryFile(prefix="ndcass-nodetool-") as output:
        started = subprocess.Popen(  # noqa: S603 - the Java of this machine
            local_tool(site, node).command(arguments),
            env=dict(site.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _Call(site, node, arguments, timeout_s, started=started, output=Path(output.name))
        finally:
            if started.poll() is None:
                started.kill()
            started.wait()


def reason_in(text: str) -> str:
    """Why ``nodetool`` failed, from what it printed: without its stack of calls."""
    lines = [line.strip() for line in text.splitlines() if not line.startswith(_NOISE)]
    said = [line.removeprefix("error: ").removeprefix("nodetool: ") for line in lines if line]
    return "; ".join(said[-_LAST_LINES:]) or "it failed without a word"


def _is_mine(address: str) -> bool:
    """Whether an address belongs to this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
