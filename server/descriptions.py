"""What a token leads to, described as clients want it: JSON, HDF5 and Viking's XML.

Vectors are x, y, z and levels are texts here, because the wire has them so (control plane 3).
"""

import io
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np

from ndcass.errors import TooLarge
from ndcass.geometry import Level, levels_of
from ndcass.model import Channel, Dataset, TokenView
from ndcass.tile import TILE_PIXELS

# One element a section; beyond this the XML is of no use to a viewer and tens of megabytes large.
MAX_SECTIONS = 1_000_000


def info_document(view: TokenView) -> dict[str, Any]:
    """The answer of `info`; `Any` is what JSON can hold."""
    return {
        "channels": channels_document(view),
        "dataset": _dataset_info(view),
        "metadata": {},
        "project": {
            "name": view.project.name,
            "description": view.project.project_description,
            "ndstore_version": view.project.nd_version,
            "schema_version": view.project.schema_version,
            "s3backend": view.project.s3backend,
        },
    }


def channels_document(view: TokenView) -> dict[str, Any]:
    """The channels of `info`; `Any` is what JSON can hold."""
    return {channel.name: _channel_info(channel) for channel in view.channels}


def _channel_info(channel: Channel) -> dict[str, Any]:
    return {
        "channel_type": channel.channel_type,
        "datatype": channel.channel_datatype,
        "description": channel.channel_description,
        "exceptions": channel.exceptions,
        "propagate": channel.propagate,
        "readonly": channel.readonly,
        "resolution": channel.resolution,
        "timerange": [channel.starttime, channel.endtime],
        "windowrange": [channel.startwindow, channel.endwindow],
    }


def _dataset_info(view: TokenView) -> dict[str, Any]:
    dataset = view.dataset
    levels = levels_of(dataset.geometry)
    return {
        "name": dataset.name,
        "description": dataset.dataset_description,
        "scaling": "xyz" if dataset.scalingoption else "zslices",
        "scalinglevels": dataset.scalinglevels,
        "resolutions": [level.level for level in levels],
        "imagesize": {str(v.level): _xyz(v.size_zyx) for v in levels},
        "offset": {str(v.level): _xyz(v.offset_zyx) for v in levels},
        "voxelres": {str(v.level): _xyz(v.voxelres_zyx) for v in levels},
        "cube_dimension": {str(v.level): _xyz(v.cuboid_zyx) for v in levels},
        "supercube_dimension": {str(v.level): _xyz(v.supercuboid_zyx) for v in levels},
        # Neuroglancer wants these of every dataset, also where they say nothing new.
        "neariso_scaledown": {str(v.level): v.neariso_scaledown for v in levels},
        "neariso_imagesize": {str(v.level): _xyz(v.neariso_size_zyx) for v in levels},
        "neariso_offset": {str(v.level): _xyz(v.neariso_offset_zyx) for v in levels},
        "neariso_voxelres": {str(v.level): _xyz(v.neariso_voxelres_zyx) for v in levels},
        "timerange": _time_range(view.channels),
    }


def _time_range(channels: Sequence[Channel]) -> list[int]:
    """From the first to the last timestep of any channel."""
    if not channels:
        return [0, 0]
    return [min(c.starttime for c in channels), max(c.endtime for c in channels)]


def _xyz(zyx: tuple[Any, Any, Any]) -> list[Any]:
    """Numbers of whatever type, the other way round."""
    return list(reversed(zyx))


# -- HDF5


def projinfo(view: TokenView) -> bytes:
    """The answer of `projinfo`; takes milliseconds, so it belongs in `run_cpu`."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        project = file.create_group("PROJECT")
        _texts(
            project,
            NAME=view.project.name,
            HOST=view.project.host,
            ND_VERSION=view.project.nd_version,
            SCHEMA_VERSION=view.project.schema_version,
        )
        _write_dataset(file.create_group("DATASET"), view.dataset)
        channels = file.create_group("CHANNELS")
        for channel in view.channels:
            _write_channel(channels.create_group(channel.name), channel)
    return buffer.getvalue()


def _write_dataset(group: h5py.Group, dataset: Dataset) -> None:
    levels = levels_of(dataset.geometry)
    _texts(group, NAME=dataset.name)
    group["RESOLUTIONS"] = np.array([level.level for level in levels], dtype="<i8")
    for name in ("IMAGE_SIZE", "OFFSET", "CUBE_DIMENSION", "VOXELRES"):
        group.create_group(name)
    for level in levels:
        _write_level(group, level)


def _write_level(group: h5py.Group, level: Level) -> None:
    key = str(level.level)
    group["IMAGE_SIZE"][key] = np.array(_xyz(level.size_zyx), dtype="<i8")
    group["OFFSET"][key] = np.array(_xyz(level.offset_zyx), dtype="<i8")
    group["CUBE_DIMENSION"][key] = np.array(_xyz(level.cuboid_zyx), dtype="<i8")
    group["VOXELRES"][key] = np.array(_xyz(level.voxelres_zyx), dtype="<f8")


def _write_channel(group: h5py.Group, channel: Channel) -> None:
    _texts(
        group,
        NAME=channel.name,
        TYPE=channel.channel_type,
        DATATYPE=channel.channel_datatype,
    )
    group["RESOLUTION"] = np.array([channel.resolution], dtype=np.uint8)
    group["PROPAGATE"] = np.array([channel.propagate], dtype=np.uint8)
    for name, flag in (
        ("READONLY", channel.readonly),
        ("EXCEPTIONS", channel.exceptions),
        ("DEFAULT", channel.default),
    ):
        group[name] = np.array([flag], dtype=np.bool_)
    group["WINDOWRANGE"] = np.array([channel.startwindow, channel.endwindow], dtype="<i8")
    group["TIMERANGE"] = np.array([channel.starttime, channel.endtime], dtype="<i8")


def _texts(group: h5py.Group, **texts: str) -> None:
    """Texts as the original wrote them, in ASCII; UTF-8 where that does not do."""
    for name, text in texts.items():
        encoding = "ascii" if text.isascii() else "utf-8"
        # HDF5's own strings end at a NUL.
        value = text.replace("\0", "")
        group.create_dataset(name, data=[value], dtype=h5py.string_dtype(encoding))


# -- Viking


def viking_xml(view: TokenView, *, tile_host: str) -> bytes:
    """The answer of `volume.vikingxml`; the order of the root's attributes counts.

    Raises
    ------
    TooLarge
        If there are more sections than `MAX_SECTIONS`.
    """
    dataset = view.dataset
    if dataset.zimagesize > MAX_SECTIONS:
        raise TooLarge("volume", asked=dataset.zimagesize, limit=MAX_SECTIONS, unit="sections")
    root = ElementTree.Element(
        "Volume",
        {
            "InputChecksum": "",
            "host": tile_host,
            "name": view.token.name,
            "num_sections": str(dataset.zimagesize),
            "num_stos": "0",
            "path": tile_host,
        },
    )
    ElementTree.SubElement(
        root,
        "Scale",
        {"UnitsOfMeasure": "nm", "UnitsPerPixel": _ratio(dataset.xvoxelres, dataset.yvoxelres)},
    )
    tiles = ElementTree.SubElement(
        root,
        "OCPTileServer",
        {
            "CoordSpaceName": "volume",
            "host": tile_host,
            "FilePrefix": "",
            "FilePostfix": ".png",
            "TileXDim": str(TILE_PIXELS),
            "TileYDim": str(TILE_PIXELS),
            "GridXdim": str(dataset.ximagesize // TILE_PIXELS),
            "GridYDim": str(dataset.yimagesize // TILE_PIXELS),
            "MaxLevel": str(dataset.scalinglevels),
        },
    )
    # The default channel first: Viking shows the first one.
    for channel in sorted(view.channels, key=lambda channel: not channel.default):
        ElementTree.SubElement(
            tiles,
            "Channel",
            {"Name": channel.name, "Path": channel.name, "Datatype": channel.channel_datatype},
        )
    for z in range(dataset.zoffset, dataset.zoffset + dataset.zimagesize):
        ElementTree.SubElement(root, "Section", {"Number": str(z)})
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return text


def _ratio(a: float, b: float) -> str:
    """How `a` is to `b`, in the twelve digits of Python 2: clients may compare texts.

    It is no unit, as the attribute says; Viking has read it so for years.
    """
    return str(float(f"{a / b:.12g}"))
