"""The slice browser as HTML: a picture, where it is, what can be done from there.

Everything works as links and as a form; ``static/console.js`` makes some of it quicker. What it
needs to know stands in the attribute `data-view` of the picture's frame.
"""

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from html import escape

from ndcass.histogram import Histogram
from ndcass.model import TokenView
from ndcass.propagation import LevelState
from ndcass.server.html import facts, levels_table, page, trail
from ndcass.server.view import AXES, FORMATS, View, has_window

# Bars of a histogram, so that each is seen.
BARS = 128
_CHART_HEIGHT = 100
_KEYS = (
    ("&larr; &uarr; &rarr; &darr;", "move"),
    ("PgUp PgDn", "one section back, on"),
    ("Home End", "the first, the last"),
    ("+ &minus;", "finer, coarser"),
)


def view_page(
    opened: TokenView,
    view: View,
    *,
    states: Sequence[LevelState],
    histogram: Histogram | None,
) -> str:
    """The page of a channel.

    Parameters
    ----------
    opened : TokenView
    view : View
    states : sequence of LevelState
        Of the levels that derive from the base.
    histogram : Histogram, optional
        Of the whole channel.
    """
    channel, dataset = view.channel, opened.dataset
    text = escape(channel.channel_description)
    base = dataset.level(min(channel.resolution, dataset.scalinglevels))
    link = view.link(**{"from": view.level.level}).replace(
        f"level={view.level.level}&", "level=LEVEL&"
    )
    table = levels_table(
        dataset,
        [
            escape(level_text(number, base=base.level, states=states))
            for number in range(dataset.scalinglevels + 1)
        ],
        shown=view.level.level,
        link=link,
    )
    body = (
        trail(("/", "Public volumes"), (f"/view/{view.token}/", opened.project.name))
        + f"<h1>{escape(channel.name)}</h1>"
        + (f"<p>{text}</p>" if text else "")
        + f'<div class="browser">{_figure(view)}{_controls(view, dataset.scalinglevels)}</div>'
        + f"<h2>This box in every format</h2>{_downloads(view)}"
        + f"<h2>Levels</h2>{table}"
        + (f"<h2>Histogram</h2>{_histogram(view, histogram)}" if histogram is not None else "")
        + f"<h2>Channel</h2>{facts(channel, base)}"
    )
    return page(f"{channel.name} of {opened.project.name} - ndcass", body, script="console.js")


# -- the picture


def _figure(view: View) -> str:
    return (
        f'<figure id="view" tabindex="0" aria-describedby="keys" data-view="{_script_data(view)}">'
        f'<img id="picture" src="{escape(view.picture_path)}" alt="{escape(_place(view))}">'
        f'<figcaption id="place" aria-live="polite">{escape(_place(view))}</figcaption></figure>'
    )


def _place(view: View) -> str:
    """Where the picture is, in words; ``static/console.js`` says it alike."""
    box = view.box
    across, down, cut = AXES[view.plane]
    ranges = [
        f"{'zyx'[axis]} {box.start_zyx[axis]} to {box.stop_zyx[axis] - 1}"
        for axis in (across, down)
    ]
    time = f", t {view.t}" if view.is_series else ""
    return (
        f"{view.plane} at {view.cut} {box.start_zyx[cut]}{time}: {', '.join(ranges)}, "
        f"level {view.level.level}"
    )


def _script_data(view: View) -> str:
    legal = view.level.dataset_box()
    data = {
        "base": f"/nd/sd/{view.token}/{view.channel.name}",
        "plane": view.plane,
        "level": view.level.level,
        "start": dict(zip("zyx", legal.start_zyx, strict=True)),
        "stop": dict(zip("zyx", legal.stop_zyx, strict=True)),
        "extents": dict(zip("zyx", view.extents_zyx, strict=True)),
        "centre": dict(zip("zyx", view.centre_zyx, strict=True)),
        "times": view.channel.time_range if view.is_series else None,
        "t": view.t,
        "window": view.window,
    }
    return escape(json.dumps(data))


# -- the controls


def _controls(view: View, last_level: int) -> str:
    return (
        '<form class="controls" id="controls" method="get">'
        f"{_hidden(view)}{_section(view)}{_moves(view, last_level)}{_position(view)}"
        f"{_window(view)}"
        '<div class="row"><button>Show</button></div>'
        f'<p class="keys" id="keys">Keys: {"; ".join(f"<kbd>{k}</kbd> {t}" for k, t in _KEYS)}</p>'
        "</form>"
    )


def _hidden(view: View) -> str:
    fields = {"plane": view.plane, "level": view.level.level}
    return "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in fields.items())


def _section(view: View) -> str:
    """Sliders for the section and the timestep."""
    cut = AXES[view.plane][2]
    legal = view.level.dataset_box()
    found = _slider(
        view.cut,
        "section",
        view.centre_zyx[cut],
        low=legal.start_zyx[cut],
        high=legal.stop_zyx[cut] - 1,
    )
    if view.is_series:
        start, stop = view.channel.time_range
        found += _slider("t", "time", view.t, low=start, high=stop - 1)
    back, on = (escape(view.moved(cut=step).link()) for step in (-1, 1))
    return (
        f"<fieldset><legend>Section</legend>{found}"
        f'<div class="row pads"><a data-move="cut,-1" href="{back}">&minus; section</a>'
        f'<a data-move="cut,1" href="{on}">section +</a></div></fieldset>'
    )


def _slider(name: str, what: str, value: int, *, low: int, high: int) -> str:
    return (
        # An output is something that a label can mean, so the label says what it does mean.
        f'<div><label for="{name}-slider"><span>{what}, {name} '
        f'<output id="{name}-value" for="{name}-slider">{value}</output> '
        f'<span class="dim">of {low} to {high}</span></span></label>'
        f'<input type="range" id="{name}-slider" name="{name}" '
        f'min="{low}" max="{high}" value="{value}"></div>'
    )


def _moves(view: View, last_level: int) -> str:
    planes = "".join(
        f'<a data-keep href="{escape(view.link(plane=plane))}"'
        f"{_current(plane == view.plane)}>{plane}</a>"
        for plane in AXES
    )
    pads = "".join(
        f'<a data-move="{axis},{step}" aria-label="{name}" '
        f'href="{escape(view.moved(**{axis: step}).link())}">{arrow}</a>'
        for name, arrow, axis, step in (
            ("left", "&larr;", "across", -1),
            ("up", "&uarr;", "down", -1),
            ("down", "&darr;", "down", 1),
            ("right", "&rarr;", "across", 1),
        )
    )
    number = view.level.level
    zooms = "".join(
        f'<a data-keep data-zoom="{name}" href="{escape(view.link(level=other))}">{name}</a>'
        for name, other in (("finer", number - 1), ("coarser", number + 1))
        if 0 <= other <= last_level
    )
    return (
        f'<fieldset><legend>Plane and place</legend><div class="row pads">{planes}</div>'
        f'<div class="row pads">{pads}</div><div class="row pads">{zooms}'
        f'<span class="dim">level {number} of 0 to {last_level}</span></div></fieldset>'
    )


def _current(is_current: bool) -> str:
    return ' aria-current="true"' if is_current else ""


def _position(view: View) -> str:
    """The middle of the picture, but for the axis that has a slider."""
    across, down, _ = AXES[view.plane]
    legal = view.level.dataset_box()
    labels = "".join(
        f'<label>{"zyx"[axis]}<input type="number" name="{"zyx"[axis]}" '
        f'min="{legal.start_zyx[axis]}" max="{legal.stop_zyx[axis] - 1}" '
        f'value="{view.centre_zyx[axis]}"></label>'
        for axis in (across, down)
    )
    return f'<fieldset><legend>Middle</legend><div class="row">{labels}</div></fieldset>'


def _window(view: View) -> str:
    if not has_window(view.channel):
        return ""
    values = view.window or ("", "")
    labels = "".join(
        f'<label>{text}<input inputmode="decimal" name="{name}" value="{escape(value)}"></label>'
        for text, name, value in (("black", "low", values[0]), ("white", "high", values[1]))
    )
    return f'<fieldset><legend>Brightness</legend><div class="row">{labels}</div></fieldset>'


def _downloads(view: View) -> str:
    links = [
        f'<a data-service="{name}" href="{escape(view.box_path(name))}">{name}</a>'
        for name in FORMATS
        if view.fits(name)
    ]
    picture = f'<a data-service="picture" href="{escape(view.picture_path)}">png</a>'
    return f"<p>{' &middot; '.join([picture, *links])}</p>"


# -- the histogram


def _histogram(view: View, histogram: Histogram) -> str:
    if not histogram.voxels:
        return "<p>No voxel but zeros was counted.</p>"
    low, high = int(histogram.minimum), int(histogram.maximum)
    p1, median, p99 = (f"{histogram.percentile(Fraction(p)):g}" for p in (1, 50, 99))
    text = (
        f"{histogram.voxels} voxels that are not 0, from {low} to {high}; mean "
        f"{histogram.mean:.1f}, deviation {histogram.stddev:.1f}; 1 % are below {p1}, half "
        f"below {median}, 99 % below {p99}"
    )
    outline = _outline(histogram.counts[low : high + 1].tolist())
    return (
        f'<div class="histogram"><svg role="img" aria-label="{text}" '
        f'viewBox="0 0 {BARS} {_CHART_HEIGHT}" preserveAspectRatio="none">'
        f'<path d="{outline}"/></svg>'
        f'<p class="axis"><span>{low}</span><span>{high}</span></p></div>'
        f'<p class="dim">{text} &middot; '
        f'<a href="/nd/stats/{view.token}/{view.channel.name}/all/">all of it</a></p>'
    )


def _outline(counts: Sequence[int]) -> str:
    """Groups of bins as one outline, the highest as high as the chart."""
    groups = min(BARS, len(counts))
    edges = [len(counts) * n // groups for n in range(groups + 1)]
    # A mean, since groups may differ by one bin.
    heights = [sum(counts[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    most, width = max(heights), BARS / groups
    steps = (f"V{_CHART_HEIGHT * (1 - height / most):.2f}h{width:.3f}" for height in heights)
    return f"M0 {_CHART_HEIGHT}{''.join(steps)}V{_CHART_HEIGHT}Z"


# -- levels

_STATES = {
    "absent": "made from the base when it is read",
    "building": "being built",
    "stale": "stale",
    "fresh": "fresh",
}


def level_text(level: int, *, base: int, states: Sequence[LevelState]) -> str:
    """How a level comes about, and whether it is as new as what was written last."""
    if level == base:
        return "stored: what was uploaded"
    texts = [_state_text(state) for state in states if state.level == level]
    # Levels finer than the base have no state.
    return "; ".join(texts) or _STATES["absent"]


def _state_text(state: LevelState) -> str:
    text = _STATES[state.state]
    if state.stale_cuboids:
        text += (
            f" ({state.stale_cuboids} cuboid{'s' if state.stale_cuboids > 1 else ''} to rebuild)"
        )
    return f"near-isotropic {text}" if state.neariso else text
