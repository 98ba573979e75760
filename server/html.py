"""The start page as HTML: plain, without a script, every name escaped."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from ndcass.geometry import Box, Level, text_xyz
from ndcass.model import Channel
from ndcass.resources import PublicProject

# Pictures are at most so wide and high, cut from the middle of the volume.
PREVIEW_PIXELS = 512
# A box to try, small enough for any network.
SAMPLE_VOXELS = 64

_PAGE = Template((Path(__file__).parent / "templates" / "start.html").read_text("utf-8"))

_EMPTY = """
<h2>Nothing to see yet</h2>
<p>There is no public volume here. Put one in:</p>
<pre>export NDCASS_API_KEY=...      # printed at the first start of the server
ndcass ingest STACK TOKEN/CHANNEL</pre>
<p class="dim">STACK is a folder of TIFF or PNG sections, a multi-page TIFF, a .npy or an HDF5 file.
Private volumes are not listed here; they answer to whoever has a key for them.</p>
"""


def start_page(projects: Sequence[PublicProject], *, left_out: int) -> str:
    """The whole page."""
    body = "\n".join(_project(found) for found in projects) or _EMPTY
    if left_out:
        body += f'<p class="dim">{left_out} more are not shown here.</p>'
    return _PAGE.substitute(body=body)


def _project(found: PublicProject) -> str:
    dataset, project = found.dataset, found.project
    text = project.project_description or dataset.dataset_description
    cards = "".join(_channel(found, channel) for channel in found.channels)
    info = f' &middot; <a href="/nd/sd/{found.token}/info/">info</a>' if found.token else ""
    return (
        f"<section><h2>{escape(project.name)} "
        f'<span class="dim">in {escape(dataset.name)}</span></h2>'
        + (f"<p>{escape(text)}</p>" if text else "")
        + f'<p class="dim">{_size(found)}{info}</p>'
        + (f'<div class="channels">{cards}</div>' if cards else "<p>No channels yet.</p>")
        + "</section>"
    )


def _size(found: PublicProject) -> str:
    level = found.dataset.level(0)
    voxels = " &times; ".join(str(n) for n in reversed(level.size_zyx))
    voxel = " &times; ".join(f"{n:g}" for n in reversed(level.voxelres_zyx))
    count = found.dataset.scalinglevels + 1
    return f"{voxels} voxels of {voxel} &middot; {count} level{'s' if count > 1 else ''}"


def _channel(found: PublicProject, channel: Channel) -> str:
    # Levels finer than the one that was uploaded hold nothing.
    level = found.dataset.level(min(channel.resolution, found.dataset.scalinglevels))
    facts = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in _facts(channel, level))
    text = channel.channel_description
    return (
        '<div class="channel">'
        + (_picture(found.token, channel, level) if found.token else "")
        + f"<div><h3>{escape(channel.name)}</h3>"
        + (f"<p>{escape(text)}</p>" if text else "")
        + f"<dl>{facts}</dl>"
        + (_links(found.token, channel, level) if found.token else "")
        + "</div></div>"
    )


def _picture(token: str, channel: Channel, level: Level) -> str:
    path = f"/nd/sd/{token}/{channel.name}/xy/{_middle_plane(level)}"
    alt = f"middle section of {escape(channel.name)}"
    return f'<a href="{path}"><img loading="lazy" alt="{alt}" src="{path}"></a>'


def _links(token: str, channel: Channel, level: Level) -> str:
    box = f"{level.level}/{text_xyz(_middle(level, (SAMPLE_VOXELS,) * 3))}/"
    links = " ".join(
        f'<a href="/nd/sd/{token}/{channel.name}/{service}/{box}">{service}</a>'
        for service in ("npz", "raw", "hdf5")
    )
    return f"<p>A box from the middle: {links}</p>"


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
