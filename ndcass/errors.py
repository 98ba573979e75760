"""Every error that ndcass raises on purpose, as one tree.

::

    NdcassError
    ├── InvalidRequest            what was asked makes no sense; nothing was changed
    │   ├── OutOfBounds           a box or a level that the dataset does not have
    │   ├── BadBody               a body that does not decode to what the URL announces
    │   ├── Malformed             a value that clients of the original never sent with success
    │   └── InvalidOption         a bad value of something only ndcass offers (its additions)
    ├── TooLarge                  more than a limit allows
    ├── NotFound                  a name that does not exist
    ├── AlreadyExists             a name that is taken
    ├── Conflict                  not possible in the present state
    │   └── ReadOnly              a write to a read-only channel
    ├── Unauthenticated           no known key, where one is needed
    ├── PermissionDenied          a known caller who may not
    ├── DeadlineExceeded          the request took longer than it may
    ├── ConfigError               a setting that is unknown or makes no sense
    ├── ClusterError              nodes that could not be started, stopped or asked
    │   └── MissingTool           a program or a file that nodes need is not there
    └── StoreError                the store failed; absent cuboids are no error
        ├── StoreUnavailable      the store does not answer at present
        ├── StoreTimeout          the store answered too late; the outcome is unknown
        │   └── TransactionUnknown  a conditional change that may or may not have happened
        ├── StoreFull             no space left; nothing of the write was kept
        ├── CorruptValue          a stored value that does not fit its checksum
        └── IncompatibleStore     a store made by another or a newer ndcass

``server/http_errors.py`` turns classes into statuses. Texts speak to the client: what was sent and
what is allowed, never a path, a host or a query.
"""


class NdcassError(Exception):
    """Base of every error that ndcass raises on purpose."""


class InvalidRequest(NdcassError):
    """The request makes no sense; nothing was changed."""


class OutOfBounds(InvalidRequest):
    """A box, level or timestep that the dataset does not have."""


class BadBody(InvalidRequest):
    """A body that does not decode to what the URL announces."""


class Malformed(InvalidRequest):
    """A value, an object or a file of objects that makes no sense; the original failed on it."""


class InvalidOption(InvalidRequest):
    """A bad value of an option that only ndcass offers."""


class TooLarge(NdcassError):
    """More was asked for or sent than a limit allows."""

    def __init__(self, what: str, *, asked: int, limit: int, unit: str = "bytes") -> None:
        super().__init__(f"{what}: {asked} {unit} asked for, at most {limit} {unit} are allowed")
        self.asked = asked
        self.limit = limit


class NotFound(NdcassError):
    """A name that does not exist."""


class AlreadyExists(NdcassError):
    """A name that is taken."""


class Conflict(NdcassError):
    """Not possible in the present state."""


class ReadOnly(Conflict):
    """A write to a read-only channel."""


class Unauthenticated(NdcassError):
    """No known API key, where one is needed."""


class PermissionDenied(NdcassError):
    """The caller is known and may not do this."""


class DeadlineExceeded(NdcassError):
    """The request took longer than it may."""


class ConfigError(NdcassError):
    """A setting that is unknown or makes no sense."""


class ClusterError(NdcassError):
    """Nodes could not be started, stopped or asked. For those who run them: it names paths."""


class MissingTool(ClusterError):
    """A program or a file that nodes need is not there; the text says how to get it."""


class StoreError(NdcassError):
    """The store failed. A cuboid that was never written is no error."""


class StoreUnavailable(StoreError):
    """The store does not answer at present."""


class StoreTimeout(StoreError):
    """The store answered too late; whether a write happened is unknown."""


class TransactionUnknown(StoreTimeout):
    """A conditional change may or may not have happened; settle it by reading, not by retrying."""


class StoreFull(StoreError):
    """No space is left; nothing of the write was kept."""


class CorruptValue(StoreError):
    """A stored value that does not fit its checksum."""


class IncompatibleStore(StoreError):
    """A store that another program or a newer ndcass made."""
