"""How many bytes are in flight to each host, and whose turn it is when there is no more room.

Pure bookkeeping: a host is whatever has `is_up`, which is False while it is known to be away.
"""

import asyncio
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

# A host is the driver's, which has no types.
Host = Any


class Lanes:
    """Bytes in flight by host. Who would put too many on all of his hosts waits.

    Nobody overtakes: a host that somebody waits for has no room for those who come later. So a
    large request is not kept out by a stream of small ones.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes: Counter[Host] = Counter()
        # Who waits, in the order in which they came: the host that has room, which hosts may do,
        # and for how much.
        self._waiting: dict[asyncio.Future[Host], tuple[Sequence[Host], int]] = {}
        self._wanted: Counter[Host] = Counter()  # hosts by how many wait for them

    def sorted(self, hosts: Sequence[Host]) -> list[Host]:
        """Hosts that are up first, then those with less in flight; else as they came."""
        used = self.used_bytes
        return sorted(hosts, key=lambda host: (host.is_up is False, used[host]))

    async def enter(self, hosts: Sequence[Host], size_bytes: int) -> Host:
        """The first of the hosts that has room, which is then taken; waits for one."""
        host = self._with_room(hosts, size_bytes, kept=self._wanted)
        if host is not None:
            self.force(host, size_bytes)
            return host
        turn: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (hosts, size_bytes)
        self._wanted.update(hosts)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._forget(turn)
                self._wake()  # those behind may pass now
            elif not turn.cancelled():
                self.leave(turn.result(), size_bytes)  # the turn came and nobody was there
            raise

    def force(self, host: Host, size_bytes: int) -> None:
        """Take room whether there is any or not: for another attempt of what is already counted."""
        self.used_bytes[host] += size_bytes

    def leave(self, host: Host, size_bytes: int) -> None:
        """Give room back."""
        self.used_bytes[host] -= size_bytes
        if not self.used_bytes[host]:
            del self.used_bytes[host]  # hosts come and go
        self._wake()

    def _with_room(
        self, hosts: Sequence[Host], size_bytes: int, *, kept: Container[Host]
    ) -> Host | None:
        """The first host that is up, not kept for others, and has room; None if there is none.

        If all of them are away it is the first: the request shall fail, not wait.
        """
        for host in hosts:
            used = self.used_bytes[host]
            # A request above the limit goes alone.
            fits = not used or used + size_bytes <= self.limit_bytes
            if fits and host.is_up is not False and host not in kept:
                return host
        return hosts[0] if all(host.is_up is False for host in hosts) else None

    def _wake(self) -> None:
        """Give room to those who wait, in their order."""
        kept: set[Host] = set()
        served: list[asyncio.Future[Host]] = []
        for turn, (hosts, size_bytes) in self._waiting.items():
            if len(kept) == len(self._wanted):
                break  # whoever comes after wants one of these hosts
            if turn.done():  # cancelled, and has not run since
                served.append(turn)
                continue
            host = self._with_room(hosts, size_bytes, kept=kept)
            if host is None:
                kept.update(hosts)
            else:
                self.force(host, size_bytes)
                turn.set_result(host)
                served.append(turn)
        for turn in served:
            self._forget(turn)

    def _forget(self, turn: asyncio.Future[Host]) -> None:
        hosts, _ = self._waiting.pop(turn)
        for host in hosts:
            self._wanted[host] -= 1
            if not self._wanted[host]:
                del self._wanted[host]
