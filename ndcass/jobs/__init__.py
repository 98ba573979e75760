"""Background work: units along the curve, leases and progress.

`handlers` is what a worker of this version can do, `lanes` what of it waits for what;
`runner.run_jobs` claims and does it.
"""

from collections.abc import Mapping
from functools import partial

from ndcass.jobs.delete import delete_channel
from ndcass.jobs.fold import fold_channel
from ndcass.jobs.histogram import count_channel
from ndcass.jobs.index import INDEX_JOB, index_channel
from ndcass.jobs.pyramid import Turn, at_once, propagate_channel, refresh_channel
from ndcass.jobs.runner import Handler
from ndcass.propagation import PROPAGATE_JOB
from ndcass.statistics import HISTOGRAM_JOB
from ndcass.store.base import DELETE_JOB, REFRESH_JOB
from ndcass.store.folding import FOLD_JOB


def handlers(turn: Turn = at_once) -> Mapping[str, Handler]:
    """Job kind -> what does it; `turn` is waited for before what keeps a processor busy."""
    return {
        DELETE_JOB: delete_channel,
        FOLD_JOB: fold_channel,
        HISTOGRAM_JOB: partial(count_channel, turn=turn),
        INDEX_JOB: partial(index_channel, turn=turn),
        PROPAGATE_JOB: partial(propagate_channel, turn=turn),
        REFRESH_JOB: partial(refresh_channel, turn=turn),
    }


# What an edit made old waits for nothing else, and nothing else waits for a pyramid of hours.
_LANES = {REFRESH_JOB: "refresh", PROPAGATE_JOB: "pyramid"}


def lanes(known: Mapping[str, Handler]) -> Mapping[str, Mapping[str, Handler]]:
    """Handlers by the lane that a worker has for them; in a lane they take turns."""
    found: dict[str, dict[str, Handler]] = {}
    for kind, handler in known.items():
        found.setdefault(_LANES.get(kind, "other"), {})[kind] = handler
    return found


HANDLERS: Mapping[str, Handler] = handlers()
