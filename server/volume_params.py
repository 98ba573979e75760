"""The tail of a cutout or slice URL -> a typed request.

Here the URL's order x, y, z becomes z, y, x. The trap to know: a time range counts only when it
follows the z range and a slash closes it, because old clients send ``.../0,1`` and expect an answer
without a time axis.
"""

import re
from typing import NamedTuple

from ndcass.errors import InvalidOption, InvalidRequest
from ndcass.geometry import Box, Zyx
from ndcass.merge import WriteOp

# Longer numbers are nonsense; without a bound, reading them would take time. Zeros before them do
# not count; they are given back to no other part of a pattern, so that a mismatch is found at once.
_ZEROS = r"(?:0(?=[0-9]))*+"
_NUMBER = rf"{_ZEROS}([0-9]{{1,19}})"
_VOLUME = re.compile(
    rf"{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}(.*)\Z", re.DOTALL
)
_PLANES = {
    "xy": re.compile(
        rf"{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER}(/.*)\Z", re.DOTALL
    ),
    "xz": re.compile(
        rf"{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER}/{_NUMBER},{_NUMBER}(/.*)\Z", re.DOTALL
    ),
    "yz": re.compile(
        rf"{_NUMBER}/{_NUMBER}/{_NUMBER},{_NUMBER}/{_NUMBER},{_NUMBER}(/.*)\Z", re.DOTALL
    ),
}
_VOXEL = re.compile(rf"{_NUMBER}/{_NUMBER}/{_NUMBER}/{_NUMBER}/?\Z")
# Of any length: what is too long here is refused, not taken for something else.
_TIME_RANGE = re.compile(r"/([0-9]++),([0-9]++)/")
_ONLY_TIME = re.compile(r"/[0-9,]+/?")
_TIMESTEP = re.compile(r"/([0-9]++)(?:/|\Z)")
_WINDOW = re.compile(r"/window/([^/]*)/")
_FILTER = re.compile(r"/filter/([^/]*)/")
_BOUNDS = re.compile(r"(-?[0-9]{1,19}(?:\.[0-9]{0,19})?),(-?[0-9]{1,19}(?:\.[0-9]{0,19})?)\Z")
_IDS = re.compile(rf"{_ZEROS}[0-9]{{1,20}}(?:,{_ZEROS}[0-9]{{1,20}})*\Z")
MAX_TIMESTEP = (1 << 62) - 1
_TIMESTEP_DIGITS = len(str(MAX_TIMESTEP))

WRITE_OPS = {
    "merge": WriteOp.MERGE,
    "replace": WriteOp.REPLACE,
    "preserve": WriteOp.PRESERVE,
    "exception": WriteOp.EXCEPTION,
}


class VolumeParams(NamedTuple):
    """A request for a box.

    Attributes
    ----------
    level : int
    box : Box
        Dataset coordinates of the level, order z, y, x.
    times : tuple of int or None
        Half-open range of timesteps; None where the URL has none.
    neariso : bool
    window : tuple of str or None
        Bounds as they were written, for `window_bounds`.
    filter_ids : tuple of int or None
    rest : str
        What follows the box, among which may be conflict words.
    """

    level: int
    box: Box
    times: tuple[int, int] | None
    neariso: bool
    window: tuple[str, str] | None
    filter_ids: tuple[int, ...] | None
    rest: str

    @property
    def words(self) -> frozenset[str]:
        """All words behind the box."""
        return frozenset(self.rest.split("/"))


def parse_volume(tail: str) -> VolumeParams:
    """The tail of a volume URL, behind the service word and its slash.

    Raises
    ------
    InvalidRequest
        If it is no box.
    """
    match = _VOLUME.match(tail)
    if match is None:
        raise InvalidRequest(
            f"{tail[:200]!r} is no box: level/x0,x1/y0,y1/z0,z1 with unsigned numbers"
        )
    *numbers, rest = match.groups()
    level, x0, x1, y0, y1, z0, z1 = map(int, numbers)
    time = _TIME_RANGE.match(rest)
    times = (timestep(time[1]), timestep(time[2])) if time else None
    return _params(level, Box((z0, y0, x0), (z1, y1, x1)), times, rest)


def parse_plane(plane: str, tail: str) -> VolumeParams:
    """The tail of a slice URL: `plane` is xy, xz or yz, its third axis has one coordinate.

    Raises
    ------
    InvalidRequest
        If it is no plane; the slash behind the third axis is part of one.
    """
    match = _PLANES[plane].match(tail)
    if match is None:
        raise InvalidRequest(f"{tail[:200]!r} is no {plane} plane; it ends with a slash")
    numbers = [int(number) for number in match.groups()[:-1]]
    level, corner = numbers[0], numbers[1:]
    start: Zyx
    stop: Zyx
    if plane == "xy":
        x0, x1, y0, y1, z = corner
        start, stop = (z, y0, x0), (z + 1, y1, x1)
    elif plane == "xz":
        x0, x1, y, z0, z1 = corner
        start, stop = (z0, y, x0), (z1, y + 1, x1)
    else:
        x, y0, y1, z0, z1 = corner
        start, stop = (z0, y0, x), (z1, y1, x + 1)
    rest = match.groups()[-1]
    time = _TIMESTEP.match(rest)
    times = None
    if time is not None:
        t = timestep(time[1])
        times = (t, t + 1)
    return _params(level, Box(start, stop), times, rest)


def parse_voxel(tail: str) -> VolumeParams:
    """The tail of a URL of one voxel: level, x, y and z, perhaps with a final slash.

    Raises
    ------
    InvalidRequest
        If it is no voxel.
    """
    match = _VOXEL.match(tail)
    if match is None:
        raise InvalidRequest(f"{tail[:200]!r} is no voxel: level/x/y/z with unsigned numbers")
    level, x, y, z = map(int, match.groups())
    return VolumeParams(level, Box((z, y, x), (z + 1, y + 1, x + 1)), None, False, None, None, "")


def timestep(digits: str) -> int:
    """A timestep of any number of digits; InvalidRequest if it is beyond `MAX_TIMESTEP`."""
    if len(digits) < _TIMESTEP_DIGITS:
        return int(digits)
    significant = digits.lstrip("0") or "0"
    if len(significant) > _TIMESTEP_DIGITS or int(significant) > MAX_TIMESTEP:
        raise InvalidRequest(f"timestep {significant[:40]} is beyond {MAX_TIMESTEP}")
    return int(significant)


def _params(level: int, box: Box, times: tuple[int, int] | None, rest: str) -> VolumeParams:
    if len(rest) <= 1 or (times is not None and _ONLY_TIME.fullmatch(rest)):  # nothing more to find
        return VolumeParams(level, box, times, False, None, None, rest)
    return VolumeParams(level, box, times, "/neariso/" in rest, _window(rest), _filter(rest), rest)


def _window(rest: str) -> tuple[str, str] | None:
    match = _WINDOW.search(rest)
    if match is None:
        return None
    bounds = _BOUNDS.match(match[1])
    if bounds is None:
        raise InvalidRequest(f"window/{match[1][:80]}/ is not window/low,high/")
    return bounds[1], bounds[2]


def _filter(rest: str) -> tuple[int, ...] | None:
    match = _FILTER.search(rest)
    if match is None:
        return None
    return filter_ids(match[1])


def filter_ids(ids: str) -> tuple[int, ...]:
    """The labels of a filter as it is written; InvalidRequest if it is no list of them."""
    if not _IDS.match(ids):
        raise InvalidRequest(f"filter/{ids[:80]}/ is not a list of ids")
    return tuple(int(label.lstrip("0") or "0") for label in ids.split(","))


def window_bounds(bounds: tuple[str, str], datatype: str) -> tuple[float, float]:
    """The numbers of an explicit window; whole ones except on float channels.

    Raises
    ------
    InvalidRequest
        If there is a fraction on a channel of integers.
    """
    if datatype.startswith("float"):
        return float(bounds[0]), float(bounds[1])
    if any("." in bound for bound in bounds):
        raise InvalidRequest(f"the window of a {datatype} channel has whole bounds")
    return int(bounds[0]), int(bounds[1])


def write_op(option: str | None, words: frozenset[str], *, annotation: bool) -> WriteOp:
    """How posted voxels meet stored ones: `?write=`, else a conflict word on labels, else merge.

    Raises
    ------
    InvalidOption
        If `option` is unknown.
    """
    if option is not None:
        if option not in WRITE_OPS:
            raise InvalidOption(
                f"write={option[:80]} is unknown; known are {', '.join(sorted(WRITE_OPS))}"
            )
        return WRITE_OPS[option]
    if annotation:
        for word in ("preserve", "exception"):
            if word in words:
                return WRITE_OPS[word]
    return WriteOp.MERGE
