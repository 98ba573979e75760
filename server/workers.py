"""Several worker processes on one port: started, watched, started again, stopped.

What a worker does is the caller's affair. Workers share one listening socket, so a connection waits
for whoever is free, and none is lost when a worker dies before it took it.
"""

import logging
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from ndcass.errors import NdcassError

log = logging.getLogger("ndcass.server")

# A worker that lives longer than this did not fail at its start.
YOUNG_S = 10.0
# So many deaths of young workers in a row, and there is no sense in going on.
MOST_YOUNG_DEATHS = 6
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
# What a worker may take beyond its grace before it is killed.
KILL_AFTER_S = 10.0


class WorkersFailed(NdcassError):
    """Workers die again and again right after their start."""


class Supervisor:
    """Keeps `count` workers running until SIGTERM or SIGINT comes.

    Parameters
    ----------
    start : callable
        Starts the worker of a number and returns its process.
    count : int
    grace_s : float
        How long a worker may take to end.
    """

    def __init__(self, start: Callable[[int], BaseProcess], *, count: int, grace_s: float) -> None:
        self._start = start
        self._grace_s = grace_s
        self._count = count
        self._running: dict[int, tuple[BaseProcess, float]] = {}
        self._due: dict[int, float] = {}  # worker -> when to start it again
        self._young_deaths = 0
        self._stopping = False
        self._kill_at = float("inf")

    def run(self, *, on_stop: Callable[[], None]) -> None:
        """Until told to stop; `on_stop` is called when that happens.

        Raises
        ------
        WorkersFailed
            If workers keep dying; all are stopped then.
        """
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        self._due = dict.fromkeys(range(self._count), 0.0)
        try:
            while not self._stopping:
                self._start_due()
                self._reap()
            on_stop()
            while self._running:
                self._reap()
        finally:
            self._kill()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._young_deaths >= MOST_YOUNG_DEATHS:
            raise WorkersFailed(f"{self._young_deaths} workers died right after their start")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Pass it on; the second one does not wait any more."""
        if self._stopping:
            self._kill()
        else:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._kill_at = time.monotonic() + self._grace_s + KILL_AFTER_S
        for process, _ in self._running.values():
            process.terminate()

    def _kill(self) -> None:
        for process, _ in self._running.values():
            process.kill()
        for process, _ in self._running.values():
            process.join(KILL_AFTER_S)

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker, at in self._due.items() if at <= now]:
            if self._stopping:
                return
            del self._due[worker]
            self._running[worker] = (self._start(worker), now)
        if self._stopping:  # a signal came while one was started
            for process, _ in self._running.values():
                process.terminate()

    def _reap(self) -> None:
        """Wait until something happens, and see who died."""
        sentinels = [process.sentinel for process, _ in self._running.values()]
        until = min([*self._due.values(), self._kill_at], default=float("inf"))
        # A signal does not end the wait, so it is short.
        pause_s = max(0.01, min(0.5, until - time.monotonic()))
        if sentinels:
            wait(sentinels, timeout=pause_s)
        else:
            time.sleep(pause_s)
        for worker, (process, since) in list(self._running.items()):
            if process.is_alive():
                continue
            del self._running[worker]
            process.join()
            if not self._stopping:
                self._died(worker, process, time.monotonic() - since)
        if time.monotonic() > self._kill_at:
            log.error("workers did not end in time and are killed")
            self._kill()

    def _died(self, worker: int, process: BaseProcess, age_s: float) -> None:
        log.error("worker %d (pid %s) ended with %s", worker, process.pid, process.exitcode)
        self._young_deaths = self._young_deaths + 1 if age_s < YOUNG_S else 0
        if self._young_deaths >= MOST_YOUNG_DEATHS:
            self._stop()
            return
        pause_s = min(FIRST_PAUSE_S * 2**self._young_deaths, LONGEST_PAUSE_S)
        self._due[worker] = time.monotonic() + pause_s
