"""Background work: units along the curve, leases and progress.

`HANDLERS` is what a worker of this version can do; `runner.run_jobs` claims and does it.
"""

from collections.abc import Mapping

from ndcass.jobs.delete import delete_channel
from ndcass.jobs.fold import fold_channel
from ndcass.jobs.histogram import count_channel
from ndcass.jobs.runner import Handler
from ndcass.statistics import HISTOGRAM_JOB
from ndcass.store.base import DELETE_JOB
from ndcass.store.folding import FOLD_JOB

HANDLERS: Mapping[str, Handler] = {
    DELETE_JOB: delete_channel,
    FOLD_JOB: fold_channel,
    HISTOGRAM_JOB: count_channel,
}
