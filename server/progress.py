"""The deadlines of requests, which move on as long as a body or an answer moves."""

import asyncio
import time

# Deadlines are looked at this often, or oftener where they are short.
CHECK_S = 0.5


class Progress:
    """One request on its way; made, begun and ended by `Deadlines`."""

    __slots__ = ("_deadline_s", "_last_s", "_reason", "_timeout_s", "expired", "network_s", "task")

    def __init__(self, *, timeout_s: float, transfer_s: float) -> None:
        now_s = time.monotonic()
        self.task: asyncio.Task[object] | None = None
        self._timeout_s = timeout_s
        self._last_s = now_s + transfer_s
        self._deadline_s = now_s + timeout_s
        self._reason = ""
        self.expired = False
        self.network_s = 0.0

    def waits(self, limit_s: float, reason: str) -> None:
        """The request waits for its client now, for so long at the most."""
        self._deadline_s = min(time.monotonic() + limit_s, self._last_s)
        self._reason = reason

    def moved(self, waited_s: float = 0.0) -> None:
        """Some bytes came or went; `waited_s` is how long that took."""
        self.network_s += waited_s
        self._deadline_s = min(time.monotonic() + self._timeout_s, self._last_s)
        self._reason = ""

    def check(self, now_s: float) -> None:
        """Cancel the request if its deadline is over."""
        if now_s > self._deadline_s and not self.expired and self.task is not None:
            self.expired = True
            self.task.cancel()

    @property
    def reason(self) -> str:
        """Why it expired."""
        if self._reason and self._deadline_s < self._last_s:
            return self._reason
        if self._deadline_s < self._last_s:
            return f"the request made no progress for {self._timeout_s:g} s"
        return "the request took longer than a transfer may"


class Deadlines:
    """The requests of a process that are on their way, and one task that looks at them all.

    A timer for every request, and for every piece of its body, would take longer than to send a
    small answer.

    Parameters
    ----------
    timeout_s : float
        How long a request may go without progress.
    transfer_s : float
        How long it may take in all.
    shortest_s : float
        The shortest of all limits that `Progress.waits` is called with.
    """

    def __init__(self, *, timeout_s: float, transfer_s: float, shortest_s: float) -> None:
        self._timeout_s = timeout_s
        self._transfer_s = transfer_s
        self._check_s = min(CHECK_S, timeout_s / 4, shortest_s / 4)
        self._running: set[Progress] = set()

    def new(self) -> Progress:
        """The progress of a request that came just now."""
        return Progress(timeout_s=self._timeout_s, transfer_s=self._transfer_s)

    def begin(self, progress: Progress) -> None:
        """Watch over the current task, which does what the request asks."""
        progress.task = asyncio.current_task()
        self._running.add(progress)

    def end(self, progress: Progress) -> None:
        """Watch no longer."""
        self._running.discard(progress)

    def cancel(self) -> None:
        """Cancel all requests: the process ends."""
        for progress in list(self._running):
            if progress.task is not None:
                progress.task.cancel()

    @property
    def check_s(self) -> float:
        """How often `check` is to be called."""
        return self._check_s

    async def check(self) -> None:
        """Cancel the requests whose deadline is over."""
        now_s = time.monotonic()
        for progress in list(self._running):
            progress.check(now_s)
