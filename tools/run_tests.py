"""Run the tests as two sessions of pytest side by side.

One has the tests on Cassandra nodes, which mostly wait for the nodes, the other one all the rest;
together they take little longer than the longer one. What both say is printed line by line, behind
the name of the session. Ended early, it takes both with it.

    python tools/run_tests.py             all but the slow ones
    python tools/run_tests.py -k tiles    arguments are those of pytest
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from typing import IO

SESSIONS = {
    "cassandra": "cassandra and not slow",
    "rest": "not cassandra and not slow",
}
# What pytest says if it was given no test to run: no failure, as long as the other session was.
NONE_RUN = 5
# To stop nodes and gateways takes a while.
END_WITHIN_S = 60


def main(arguments: list[str]) -> int:
    """Run both; the first exit code that is not 0, or 5 if there was no test at all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A shell has what it starts in the background ignore it, and the sessions are ended by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sessions = {name: _started(marks, arguments) for name, marks in SESSIONS.items()}
    printing = threading.Lock()
    printers = [
        threading.Thread(target=_print_lines, args=(name, session.stdout, printing))
        for name, session in sessions.items()
    ]
    for printer in printers:
        printer.start()
    try:
        codes = [session.wait() for session in sessions.values()]
    finally:
        for session in sessions.values():
            _end(session)
        for printer in printers:
            printer.join()
    failed = [code for code in codes if code not in (0, NONE_RUN)]
    for name, code in zip(sessions, codes, strict=True):
        print(f"{name}: exit code {code}")
    return failed[0] if failed else min(codes)


def _started(marks: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "pytest", "-m", marks, *arguments]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _end(session: subprocess.Popen[str]) -> None:
    """Let a session that still runs end what it started, as it does if somebody types Ctrl-C."""
    if session.poll() is None:
        session.send_signal(signal.SIGINT)
    try:
        session.wait(END_WITHIN_S)
    except subprocess.TimeoutExpired:
        session.kill()
        session.wait()


def _print_lines(name: str, lines: IO[str] | None, printing: threading.Lock) -> None:
    assert lines is not None  # it is a pipe
    for line in lines:
        with printing:
            print(f"{name:9} | {line}", end="", flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
