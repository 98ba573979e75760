"""Whether this machine's clock is right, by those of the nodes.

Write ids come from the clocks of the gateways and are ordered by them. A gateway whose clock is off
by more than is allowed for must not write: its writes would sort before or behind those of others,
whatever the order in which they were acknowledged.
"""

import time
from statistics import median

from ndcass.concurrency import bounded_map
from ndcass.errors import StoreError
from ndcass.store.cassandra.driver import Driver, Host

ASKED_AT_ONCE = 8
# The nodes answer in whole milliseconds.
RESOLUTION_MS = 1.0
_QUERY = "SELECT toUnixTimestamp(now()) FROM system.local"


async def clock_fault(driver: Driver, *, max_skew_ms: int, former: str = "") -> str:
    """Why this process may not write; empty if its clock agrees with most nodes' clocks.

    `former` is what was found before: that holds until some node tells better.

    Half of the nodes may be wrong, or away. What the network hides counts for us: a node that
    takes 40 ms to answer cannot show a difference of less than 20.
    """
    nodes = [host for host in driver.hosts() if host.is_up]
    answers = await bounded_map(lambda host: _offset_ms(driver, host), nodes, limit=ASKED_AT_ONCE)
    known = [offset for offset in answers if offset is not None]
    if not known:
        return former
    offset = median(known)
    if abs(offset) <= max_skew_ms:
        return ""
    side = "behind" if offset > 0 else "ahead of"
    return (
        f"the clock of this gateway is {abs(offset):.0f} ms {side} those of the store; at most "
        f"{max_skew_ms} ms are allowed for"
    )


async def _offset_ms(driver: Driver, host: Host) -> float | None:
    """How much later it is at a node, at the least; None if it does not answer."""
    began = time.time()
    try:
        rows = await driver.run(_QUERY, address=host.address)
    except StoreError:
        return None
    ended = time.time()
    offset = float(rows[0][0]) - (began + ended) / 2 * 1000
    hidden = (ended - began) / 2 * 1000 + RESOLUTION_MS
    return max(0.0, abs(offset) - hidden) * (1 if offset > 0 else -1)
