"""What can be ingested: files that hold a volume, read a band at a time.

Folders of TIFF or PNG sections, TIFF with several pages, ``.npy``, NIfTI and HDF5. Opening a
source looks at the headers of all its files, so that a bad one is found before anything is sent;
voxels are read when asked for, and never the whole volume.

The libraries of the formats are imported where they are used: they take longer to load than most
commands to run.
"""

import contextlib
import hashlib
import logging
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ndcass.cli.failure import CommandFailed

Voxels = npt.NDArray[Any]  # which type is only known at run time
Dtype = np.dtype[Any]  # likewise

TIFF_SUFFIXES = (".tif", ".tiff")
SECTION_SUFFIXES = (*TIFF_SUFFIXES, ".png")
HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
KNOWN = "a folder of .tif or .png sections, .tif, .png, .npy, .nii, .nii.gz, .h5"

# PNG refuses larger pictures as a decompression bomb; sections of a microscope are that large.
MAX_SECTION_PIXELS = 1 << 34


class Shape(NamedTuple):
    """Timesteps and voxels of a source."""

    t: int
    z: int
    y: int
    x: int

    def __str__(self) -> str:
        time = f", {self.t} timesteps" if self.t > 1 else ""
        return f"{self.x} x {self.y} x {self.z} voxels (x, y, z){time}"


class Reader(Protocol):
    """An open source."""

    shape: Shape
    dtype: Dtype

    def read(self, t: int, z: range, y: range) -> Voxels:
        """The rows `y` of the sections `z` of a timestep, of full width, order z, y, x."""


@dataclass(frozen=True, slots=True)
class Source:
    """An open source and what tells it from another one.

    Attributes
    ----------
    name : str
        The file or folder as it was given, with the path of the array inside it if there is one.
    fingerprint : str
        Digest of the names, sizes and times of change of its files.
    """

    name: str
    reader: Reader
    fingerprint: str

    @property
    def shape(self) -> Shape:
        return self.reader.shape

    @property
    def dtype(self) -> Dtype:
        return self.reader.dtype


@contextlib.contextmanager
def open_source(path: Path, *, dataset: str | None = None) -> Iterator[Source]:
    """Open what is at `path`.

    Parameters
    ----------
    path : Path
    dataset : str, optional
        Path of the array inside an HDF5 file; by default the only one it has.

    Raises
    ------
    CommandFailed
        If there is nothing that can be read, or its parts do not fit together.
    """
    lower = path.name.lower()
    if dataset is not None and not lower.endswith(HDF5_SUFFIXES):
        raise CommandFailed(f"--dataset is for HDF5 files; {path} is none")
    if not path.exists():
        raise CommandFailed(f"there is no {path}")
    with contextlib.ExitStack() as stack:
        name = str(path)
        if path.is_dir():
            files = _sections(path)
            reader: Reader = SectionReader(files)
        else:
            files = [path]
            if lower.endswith(TIFF_SUFFIXES):
                reader = stack.enter_context(contextlib.closing(TiffReader(path)))
            elif lower.endswith(".png"):
                reader = SectionReader(files)
            elif lower.endswith(".npy"):
                reader = ArrayReader(_open_npy(path), path)
            elif lower.endswith(HDF5_SUFFIXES):
                inner, array = stack.enter_context(_open_hdf5(path, dataset))
                name = f"{path}:{inner}"
                reader = ArrayReader(array, path)
            elif lower.endswith(NIFTI_SUFFIXES):
                reader = NiftiReader(path)
            else:
                raise CommandFailed(f"{path} is of no known kind; known are {KNOWN}")
        yield Source(name, reader, _fingerprint(files))


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class ArrayReader:
    """An array that a file holds and that is read by slicing: ``.npy`` and HDF5."""

    def __init__(self, array: Any, path: Path) -> None:  # memmap or h5py.Dataset
        self._array = array
        self.shape = _shape_of(array.shape, path)
        self.dtype = _plain_dtype(array.dtype, path)

    def read(self, t: int, z: range, y: range) -> Voxels:
        where: tuple[slice | int, ...] = (slice(z.start, z.stop), slice(y.start, y.stop))
        if self._array.ndim == 2:
            return np.asarray(self._array[where[1]])[np.newaxis]
        return np.asarray(self._array[(t, *where) if self._array.ndim == 4 else where])


def _open_npy(path: Path) -> Voxels:
    try:
        array: Voxels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CommandFailed(f"{path} is no .npy that can be read: {error}") from error
    return array


@contextlib.contextmanager
def _open_hdf5(path: Path, dataset: str | None) -> Iterator[tuple[str, Any]]:
    """The path of an array inside a file, and the array: h5py has no types."""
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise CommandFailed(f"{path} is no HDF5 file that can be read: {error}") from error
    with file:
        arrays: list[str] = []

        def note(inner: str, item: Any) -> None:  # h5py has no types
            if isinstance(item, h5py.Dataset) and item.ndim in (2, 3, 4):
                arrays.append(inner)

        file.visititems(note)
        listed = ", ".join(arrays) or "none"
        if dataset is None and len(arrays) != 1:
            raise CommandFailed(f"choose one of the arrays in {path} with --dataset: {listed}")
        inner = (dataset or arrays[0]).strip("/")
        if inner not in arrays:
            raise CommandFailed(f"{path} has no array {inner}; its arrays: {listed}")
        yield inner, file[inner]


class NiftiReader:
    """NIfTI, whose arrays are x, y, z and perhaps t."""

    def __init__(self, path: Path) -> None:
        import nibabel

        # It would print what it thinks of a bad file, besides raising it.
        nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
        try:
            # Else each read of a packed file would begin at its start.
            image = nibabel.Nifti1Image.from_filename(path, keep_file_open=True)
        except (
            nibabel.filebasedimages.ImageFileError,
            nibabel.spatialimages.HeaderDataError,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            raise CommandFailed(f"{path} is no NIfTI that can be read: {error}") from error
        proxy: Any = image.dataobj  # of an image from a file, which nibabel's types do not tell
        self._proxy = proxy
        self._path = path
        self.shape = _shape_of(tuple(reversed(proxy.shape)), path)
        scaled = (proxy.slope, proxy.inter) != (1, 0)
        self.dtype = _plain_dtype(np.dtype(np.float64) if scaled else proxy.dtype, path)

    def read(self, t: int, z: range, y: range) -> Voxels:
        where: tuple[slice | int, ...] = (slice(None), slice(y.start, y.stop))
        if len(self._proxy.shape) > 2:
            where = (*where, slice(z.start, z.stop))
        if len(self._proxy.shape) > 3:
            where = (*where, t)
        try:
            found = np.asarray(self._proxy[where])
        except (OSError, EOFError, ValueError) as error:
            raise CommandFailed(f"{self._path} ends early or is damaged: {error}") from error
        return found.T.reshape(len(z), len(y), self.shape.x)


class TiffReader:
    """The pages of one TIFF as sections."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(contextlib.closing(_open_tiff(path)))
            pages = self._file.pages
            self.shape, self.dtype = _stack_of(pages[0], len(pages), path)
            for number in range(1, len(pages)):
                shape, dtype = _stack_of(pages[number], len(pages), path)
                if (shape, dtype) != (self.shape, self.dtype):
                    raise CommandFailed(
                        f"page {number} of {path} is {shape.x} x {shape.y} {dtype.name}, "
                        f"page 0 is {self.shape.x} x {self.shape.y} {self.dtype.name}"
                    )
            # ImageJ writes one page for all sections of a large stack. Only the first would come.
            announced = int((self._file.imagej_metadata or {}).get("images", 1))
            if announced > len(pages):
                raise CommandFailed(
                    f"{path} announces {announced} sections and has {len(pages)} pages: save it as "
                    "an image sequence"
                )
            stack.pop_all()

    def read(self, t: int, z: range, y: range) -> Voxels:
        out = np.empty((len(z), len(y), self.shape.x), dtype=self.dtype)
        for number in z:
            out[number - z.start] = _tiff_rows(self._file, number, y, self._path)
        return out

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class SectionReader:
    """Files of one section each, TIFF or PNG."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self.shape, self.dtype = self._stack(files[0])
        for file in files[1:]:
            shape, dtype = self._stack(file)
            if (shape, dtype) != (self.shape, self.dtype):
                raise CommandFailed(
                    f"{file} is {shape.x} x {shape.y} {dtype.name}, "
                    f"{files[0].name} is {self.shape.x} x {self.shape.y} {self.dtype.name}"
                )

    def read(self, t: int, z: range, y: range) -> Voxels:
        out = np.empty((len(z), len(y), self.shape.x), dtype=self.dtype)
        for number in z:
            file = self._files[number]
            if file.suffix.lower() in TIFF_SUFFIXES:
                with contextlib.closing(_open_tiff(file)) as tiff:
                    rows = _tiff_rows(tiff, 0, y, file)
            else:
                rows = _png_rows(file, y)
            if rows.shape != out.shape[1:] or rows.dtype != self.dtype:
                raise CommandFailed(f"{file} has changed since it was opened")
            out[number - z.start] = rows
        return out

    def _stack(self, file: Path) -> tuple[Shape, Dtype]:
        count = len(self._files)
        if file.suffix.lower() not in TIFF_SUFFIXES:
            return _png_header(file, count)
        with contextlib.closing(_open_tiff(file)) as tiff:
            if len(tiff.pages) != 1:
                raise CommandFailed(f"{file} has {len(tiff.pages)} pages; a section has one")
            return _stack_of(tiff.pages[0], count, file)


def _sections(folder: Path) -> list[Path]:
    """The sections in a folder, ordered as people count: 2 before 10."""
    found = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SECTION_SUFFIXES and not file.name.startswith(".")
    ]
    kinds = {"png" if file.suffix.lower() == ".png" else "tiff" for file in found}
    if not found:
        raise CommandFailed(f"{folder} holds no .tif and no .png")
    if len(kinds) > 1:
        raise CommandFailed(f"{folder} holds both .tif and .png: which of them is the volume?")
    return sorted(found, key=lambda file: natural_key(file.name))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sorting key by which numbers inside names count as numbers."""
    parts = re.split(r"(\d+)", name)
    numbered = [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]
    return [part for part in numbered if part[2]]


# -- TIFF


def _open_tiff(path: Path) -> Any:  # tifffile's types are incomplete
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError, ValueError, struct.error) as error:
        raise CommandFailed(f"{path} is no TIFF that can be read: {error}") from error


def _stack_of(page: Any, count: int, path: Path) -> tuple[Shape, Dtype]:  # a TiffPage or TiffFrame
    page = page.aspage()
    if page.dtype is None:
        raise CommandFailed(f"{path} has voxels of a type that TIFF readers do not know")
    rows, columns, *samples = page.shape
    return Shape(1, count, rows, columns), _section_dtype(page.dtype, samples, path)


def _tiff_rows(tiff: Any, number: int, y: range, path: Path) -> Voxels:  # a TiffFile
    page = tiff.pages[number].aspage()
    try:
        if page.is_memmappable:  # no need to read the rows above and below
            offset = page.dataoffsets[0]
            stored = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
            section = np.memmap(path, stored, "r", offset=offset, shape=page.shape)
        else:
            section = page.asarray()
        return _packed(np.asarray(section[y.start : y.stop]))
    except Exception as error:  # whatever the codec of the page raises
        raise CommandFailed(f"cannot read page {number} of {path}: {error}") from error


# -- PNG


def _png_header(path: Path, count: int) -> tuple[Shape, Dtype]:
    with _open_png(path) as picture:
        dtype, samples = _PNG_MODES.get(picture.mode, (None, []))
        if dtype is None:
            raise CommandFailed(f"{path} is a PNG of mode {picture.mode}, which is not supported")
        columns, rows = picture.size
        return Shape(1, count, rows, columns), _section_dtype(np.dtype(dtype), samples, path)


def _png_rows(path: Path, y: range) -> Voxels:
    with _open_png(path) as picture:
        try:
            section = np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise CommandFailed(f"{path} is damaged: {error}") from error
        if picture.mode.startswith("I;16"):
            section = section.astype(np.uint16, copy=False)
        return _packed(section[y.start : y.stop])


# Pillow's name -> type of a sample and samples. A palette's numbers are taken as they are: labels.
_PNG_MODES: dict[str, tuple[str | None, list[int]]] = {
    "1": ("bool", []),
    "L": ("uint8", []),
    "P": ("uint8", []),
    "I;16": ("uint16", []),
    "I;16B": ("uint16", []),
    "RGB": ("uint8", [3]),
    "RGBA": ("uint8", [4]),
}


@contextlib.contextmanager
def _open_png(path: Path) -> Iterator[Any]:  # Pillow's image
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = MAX_SECTION_PIXELS
    try:
        picture = Image.open(path, formats=["PNG"])
    except (OSError, SyntaxError, ValueError) as error:
        raise CommandFailed(f"{path} is no PNG that can be read: {error}") from error
    with picture:
        yield picture


# -- types


def _shape_of(shape: Sequence[int], path: Path) -> Shape:
    """(z, y, x), (t, z, y, x) or one section."""
    if len(shape) not in (2, 3, 4):
        raise CommandFailed(f"{path} has {len(shape)} axes; a volume has z, y, x and perhaps t")
    if 0 in shape:
        raise CommandFailed(f"{path} is empty: its shape is {tuple(shape)}")
    t, z, y, x = (1,) * (4 - len(shape)) + tuple(int(length) for length in shape)
    return Shape(t, z, y, x)


def _section_dtype(sample: Dtype, samples: Sequence[int], path: Path) -> Dtype:
    """The type of the voxels of a picture; see `_packed`."""
    if not samples:
        return _plain_dtype(np.dtype(sample), path)
    if list(samples) in ([3], [4]) and sample == np.uint8:
        return np.dtype("<u4")
    raise CommandFailed(f"{path} has {samples} samples of {np.dtype(sample).name} a pixel")


def _plain_dtype(dtype: Dtype, path: Path) -> Dtype:
    """Numbers in the byte order that ndcass sends; truth values are numbers 0 and 1."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise CommandFailed(f"{path} holds {dtype}, which no channel can")
    return dtype.newbyteorder("<")


def _packed(section: Voxels) -> Voxels:
    """Colours as one number a voxel, red in the lowest byte; without alpha they are opaque."""
    if section.ndim == 2:
        return (
            section.astype(np.uint8)
            if section.dtype.kind == "b"
            else section.astype(section.dtype.newbyteorder("<"), copy=False)
        )
    colours = np.full((*section.shape[:2], 4), 255, dtype=np.uint8)
    colours[..., : section.shape[2]] = section
    packed: Voxels = colours.view("<u4")[..., 0]
    return packed
