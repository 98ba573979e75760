"""``/openapi.json``: made from the route table, so that it cannot go stale."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from ndcass.server.http_errors import Plane
from ndcass.server.routing import Route, plane_of

DESCRIPTIONS = {
    "token": "the name that leads to a project: letters, digits, underscores",
    "channels": "one or more channel names with commas between",
    "channel": "a channel name, or `default`",
    "image": "an image or time-series channel of the same project",
    "count": "how many",
    "values": "a state for all channels, or one each: 1 to build, 0 to give up",
    "colours": (
        "channel names with commas between, each perhaps with a colon and one of C, M, Y, R, G, B"
    ),
    "rest": "whatever it may be",
    "alpha": "how much of the first layer is seen: 0, 1, or a fraction with one or two decimals",
    **{
        f"{n}_{what}": f"{text} of the {n} layer"
        for n in ("first", "second")
        for what, text in (
            ("server", "host or host:port"),
            ("token", "token"),
            ("channel", "channel"),
        )
    },
    "slices": "how many slices before and behind",
    "job": "the id of a job",
    "region": "`x0,y0,z0-x1,y1,z1`, half open, in voxels of the channel's base resolution",
    "percent": "a percentage, as 50 or 95.99",
    "dataset": "a dataset name: letters, digits, underscores, hyphens",
    "project": "a project name: letters, digits, underscores, hyphens",
    "channel_name": "a channel name: letters, digits, underscores",
    "token_name": "a token name: letters, digits, underscores",
    "box": (
        "`level/x0,x1/y0,y1/z0,z1/`, half open, in voxels of the level; then, each between "
        "slashes, `t0,t1`, `neariso`, `window/low,high`, `filter/id,id`"
    ),
    "plane": (
        "as a box, but the axis that the plane cuts has one coordinate "
        "(`level/x0,x1/y0,y1/z/` for xy); then, each between slashes, `t`, `neariso`, "
        "`window/low,high`, `filter/id,id`"
    ),
    "tile": (
        "`z/row_column_level.png` (y or x instead of z where the plane cuts that axis), before it "
        "perhaps `filter/id,id/` and `t/`; tiles have 512 x 512 pixels and begin at coordinate 0"
    ),
    "viking_tile": "`level/Xcolumn_Yrow_Zslice.png`",
    "voxel": "`level/x/y/z/`, in voxels of the level",
    "corner": "`level/x/y/z/`: where the first voxel of the first page goes",
    "nifti_options": "nothing, `create/` to make the channel, `annotations/` for labels, or both",
    "ids": "one or more labels with commas between",
    "object": "the id of an object",
    "words": "options of objects, each between slashes, as `update/` or `preserve/`",
    "predicates": (
        "`field/value/` for each field that is to have a value, `confidence/lt/0.5/` and "
        "`confidence/gt/0.5/`, `limit/100/`; or nothing"
    ),
    "field": "the name of a field or of a key",
    "value": "what it is to be; lists with commas between",
    "level": "a resolution level",
    "object_data": (
        "nothing, `nodata/`, `json/`, `voxels/level/`, `boundingbox/level/`, `cuboids/level/`, or "
        "`cutout/level/` with perhaps `x0,x1/y0,y1/z0,z1/`"
    ),
    "kind": "a type code of objects, 1 to 9",
    "graph": "a format, as `graphml/`, and perhaps `x0,x1/y0,y1/z0,z1/`",
}
TAGS = {Plane.DATA: "volumes", Plane.RESOURCE: "resources", Plane.OWN: "operations"}
# What only some operations take: (method, service word) -> where, name, meaning.
_WRITE = ("query", "write", "merge, replace, preserve or exception: how voxels meet stored ones")
_DTYPE = ("header", "X-Volume-Dtype", "numpy's name of the channel's type, as <u2")
OPTIONS = {
    ("GET", "raw"): [("query", "encoding", "gzip or lz4: compress the answer")],
    ("POST", "raw"): [_WRITE, _DTYPE],
    ("POST", "npz"): [_WRITE],
    ("POST", "blosc"): [_WRITE],
    ("POST", "blaze"): [_WRITE],
    ("POST", "hdf5"): [_WRITE],
    ("POST", "tiff"): [_WRITE],
}
_PART = re.compile(r"\{([a-z_]+)\}")


def openapi_document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of a route table; `Any` is what JSON can hold."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.refuses:
            continue
        for path, service in route.expanded():
            paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, service)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ndcass",
            "version": version("ndcass"),
            "description": (
                "Brain image volumes as boxes. Every path also answers below /nd and /ocp; "
                "`ca` means `sd`. GET answers to HEAD as well."
            ),
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`Token` and the API key, with a space between",
                }
            }
        },
        "security": [{}, {"key": []}],
    }


def _operation(route: Route, path: str, service: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "tags": [TAGS[plane_of(route.template)]],
        "responses": {
            "default": {"description": "what went wrong, as text; as JSON for who accepts it"},
            _success(route): {"description": "done"},
        },
    }
    parameters = [_parameter("path", name, DESCRIPTIONS[name]) for name in _PART.findall(path)]
    parameters += [_parameter(*option) for option in OPTIONS.get((route.method, service), ())]
    if parameters:
        operation["parameters"] = parameters
    if route.aliases:
        operation["description"] = "Also: " + ", ".join(f"`{alias}`" for alias in route.aliases)
    return operation


def _parameter(place: str, name: str, text: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "schema": {"type": "string"},
        "description": text,
    }


def _success(route: Route) -> str:
    if plane_of(route.template) is Plane.RESOURCE:
        return {"POST": "201", "DELETE": "204"}.get(route.method, "200")
    return "200"
