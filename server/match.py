"""What the route table found in a path."""

from collections.abc import Mapping
from typing import NamedTuple


class Match(NamedTuple):
    """The parts of a path, percent-decoded.

    Attributes
    ----------
    token : str
        Empty where the route has none.
    channels : tuple of str or None
        None where the path leaves them out, which means the default channel.
    service : str
        The service word: npz, raw, xy, ...; empty where the route has no choice of them.
    tail : str
        What follows the service word and its slash; a final slash is kept, for it has a meaning.
    names : mapping
        The other parts, by the names that the route's template gives them.
    """

    token: str = ""
    channels: tuple[str, ...] | None = None
    service: str = ""
    tail: str = ""
    names: Mapping[str, str] = {}
