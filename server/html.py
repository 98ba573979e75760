"""Pages as HTML: the frame of all of them, what is public, and one project. Every name is escaped.

Plain, and readable without a script; the slice browser is ``html_view.py``.
"""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from ndcass.geometry import Box, Level
from ndcass.model import Channel, Dataset
from ndcass.resources import PublicProject
from ndcass.server.assets import ASSETS
from ndcass.server.view import default_window, overview_level

# Pictures are at most so wide and high, cut from the middle of the volume.
PREVIEW_PIXELS = 512
PYRAMIDS = ("not built", "under propagation", "built")

_PAGE = Template((Path(__file__).parent / "templates" / "page.html").read_text("utf-8"))

_EMPTY = """
<h1>Nothing to see yet</h1>
<p>There is no public volume here. Put one in:</p>
<pre>export NDCASS_API_KEY=...      # printed at the first start of the server
ndcass ingest STACK TOKEN/CHANNEL</pre>
<p class="dim">STACK is a folder of TIFF or PNG sections, a multi-page TIFF, a .npy or an HDF5 file.
Private volumes are not listed here; they answer to whoever has a key for them.</p>
"""


def page(title: str, body: str, *, script: str = "") -> str:
    """A whole page; `script` is the name of an asset."""
    return _PAGE.substitute(
        title=escape(title),
        icon=ASSETS["icon.svg"].path,
        style=ASSETS["console.css"].path,
        script=f'<script defer src="{ASSETS[script].path}"></script>' if script else "",
        body=body,
    )


def start_page(projects: Sequence[PublicProject], *, left_out: int) -> str:
    """What is public."""
    sections = "\n".join(f"<section>{_project(found, 'h2')}</section>" for found in projects)
    body = f"<h1>Public volumes</h1>{sections}" if projects else _EMPTY
    if left_out:
        body += f'<p class="dim">{left_out} more are not shown here.</p>'
    return page("ndcass", body)


def project_page(found: PublicProject) -> str:
    """One project: its channels, and the levels of its dataset."""
    body = f"{_project(found, 'h1')}<h2>Levels</h2>{levels_table(found.dataset)}"
    return page(f"{found.project.name} - ndcass", body)


def trail(*steps: tuple[str, str]) -> str:
    """Where a page is: links to what is above it, as pairs of path and name."""
    links = " &rsaquo; ".join(f'<a href="{path}">{escape(name)}</a>' for path, name in steps)
    return f'<nav aria-label="above this page"><p class="dim">{links}</p></nav>'


def _project(found: PublicProject, heading: str) -> str:
    dataset, project = found.dataset, found.project
    text = project.project_description or dataset.dataset_description
    cards = "".join(_channel(found, channel) for channel in found.channels)
    name = escape(project.name)
    info = ""
    if found.token:
        info = f' &middot; <a href="/nd/sd/{found.token}/info/">info</a>'
        if heading != "h1":
            name = f'<a href="/view/{found.token}/">{name}</a>'
    return (
        f"<{heading}>{name} "
        f'<span class="dim">in {escape(dataset.name)}</span></{heading}>'
        + (f"<p>{escape(text)}</p>" if text else "")
        + f'<p class="dim">{_size(dataset)}{info}</p>'
        + (f'<div class="channels">{cards}</div>' if cards else "<p>No channels yet.</p>")
    )


def _size(dataset: Dataset) -> str:
    level = dataset.level(0)
    count = dataset.scalinglevels + 1
    return (
        f"{times(level.size_zyx)} voxels of {times(level.voxelres_zyx)}"
        f" &middot; {count} level{'s' if count > 1 else ''}"
    )


def times(numbers_zyx: Sequence[float]) -> str:
    """Sizes as people read them: x first."""
    texts = (f"{n}" if isinstance(n, int) else f"{n:g}" for n in reversed(numbers_zyx))
    return " &times; ".join(texts)


def levels_table(
    dataset: Dataset, states: Sequence[str] = (), *, shown: int | None = None, link: str = ""
) -> str:
    """The levels of a dataset; of a channel also how they are, and where to see them.

    Parameters
    ----------
    dataset : Dataset
    states : sequence of str
        HTML, one a level; without any there is no such column.
    shown : int, optional
        The level that the page shows.
    link : str
        What a level's number leads to, with ``LEVEL`` in its place.
    """
    rows = ""
    for number in range(dataset.scalinglevels + 1):
        level = dataset.level(number)
        name = str(number)
        if link:
            href = escape(link.replace("LEVEL", name))
            name = f'<a data-keep href="{href}">level {name}</a>'
        cells = [name, times(level.size_zyx), times(level.voxelres_zyx), times(level.cuboid_zyx)]
        cells += states[number : number + 1]
        current = ' aria-current="true"' if number == shown else ""
        rows += f"<tr{current}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    names = ["level", "voxels", "size of one", "cuboid", *(["state"] if states else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide" role="region" aria-label="levels" tabindex="0">{table}</div>'


def _channel(found: PublicProject, channel: Channel) -> str:
    level = found.dataset.level(min(channel.resolution, found.dataset.scalinglevels))
    shown = overview_level(found.dataset, channel)
    text = channel.channel_description
    name = escape(channel.name)
    if found.token:
        name = f'<a href="/view/{found.token}/{channel.name}/">{name}</a>'
    return (
        '<div class="channel">'
        + (_picture(found.token, channel, shown) if found.token else "")
        + f"<div><h3>{name}</h3>"
        + (f"<p>{escape(text)}</p>" if text else "")
        + facts(channel, level)
        + "</div></div>"
    )


def _picture(token: str, channel: Channel, level: Level) -> str:
    window = default_window(channel)
    path = f"/nd/sd/{token}/{channel.name}/xy/{_middle_plane(level)}"
    path += f"window/{window[0]},{window[1]}/" if window else ""
    alt = f"middle section of {escape(channel.name)}"
    view = f"/view/{token}/{channel.name}/"
    return f'<a href="{view}"><img loading="lazy" alt="{alt}" src="{path}"></a>'


def facts(channel: Channel, level: Level) -> str:
    """What a channel is and how far it reaches at a level."""
    found = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _facts(channel, level))
    return f"<dl>{found}</dl>"


def _facts(channel: Channel, level: Level) -> Iterator[tuple[str, str]]:
    yield "type", f"{channel.channel_type}, {channel.channel_datatype}"
    legal = level.dataset_box()
    for axis, low, high in zip("xyz", legal.start_zyx[::-1], legal.stop_zyx[::-1], strict=True):
        yield axis, f"{low} to {high - 1}"
    start, end = channel.time_range
    if end - start > 1:
        yield "time", f"{start} to {end - 1}"
    if level.level:
        yield "level", str(level.level)
    yield "pyramid", PYRAMIDS[channel.propagate]
    if channel.readonly:
        yield "writing", "read-only"


def _middle(level: Level, most_zyx: tuple[int, int, int]) -> Box:
    """A box in the middle of a level, of at most so many voxels an axis."""
    legal = level.dataset_box()
    starts, stops = [], []
    for low, high, most in zip(legal.start_zyx, legal.stop_zyx, most_zyx, strict=True):
        size = min(most, high - low)
        starts.append(low + (high - low - size) // 2)
        stops.append(starts[-1] + size)
    return Box((starts[0], starts[1], starts[2]), (stops[0], stops[1], stops[2]))


def _middle_plane(level: Level) -> str:
    box = _middle(level, (1, PREVIEW_PIXELS, PREVIEW_PIXELS))
    (z, y0, x0), (_, y1, x1) = box.start_zyx, box.stop_zyx
    return f"{level.level}/{x0},{x1}/{y0},{y1}/{z}/"
