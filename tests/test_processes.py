"""The guard of the gateways that tests start: none of them outlives the tests."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.cassandra_nodes import ROOT

WITHIN_S = 60.0
# A test process that starts a gateway, says where it is and hangs.
_TESTS = textwrap.dedent(
    """
    import signal, sys, time
    from pathlib import Path
    from tests.processes import gateway

    signal.signal(signal.SIGINT, signal.default_int_handler)  # also if these run in the background
    with gateway(Path(sys.argv[1]), workers=2) as running:
        print(running.process.pid, running.port, flush=True)
        time.sleep(100)
    """
)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_gateway_and_its_workers_end_with_the_tests_however_these_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    tests = subprocess.Popen(
        [sys.executable, "-c", _TESTS, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert tests.stdout is not None
    group, port = map(int, tests.stdout.readline().split())
    assert listens(port)

    tests.send_signal(number)
    tests.communicate(timeout=WITHIN_S)

    deadline = time.monotonic() + WITHIN_S
    while listens(port):
        if time.monotonic() > deadline:
            os.killpg(group, signal.SIGKILL)
            pytest.fail("a worker outlived the tests")
        time.sleep(0.1)
