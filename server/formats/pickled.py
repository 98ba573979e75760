"""The one pickle we speak: that of a plain ndarray, written by hand and read without running it.

What lives here: the program of opcodes that rebuilds an array, both ways. What does not: the Blosc
frame around it.

A pickle is a program, and even an allow-list of functions lets it allocate at will, set attributes
of what it may name, and hand numpy states it never checks. So `load_array` never calls what a
pickle names. It follows the few opcodes that arrays are made of on stand-ins, a bounded number of
them, and takes type, shape and bytes from what is left.
"""

import codecs
import io
import pickle
import pickletools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndcass.errors import BadBody
from ndcass.server.formats.base import (
    Dtype,
    Layout,
    as_voxels,
    check_dtype,
    check_shape,
    text_shape,
)

# An array takes some 60 operations; what takes many more is something else.
MAX_OPERATIONS = 256
# What an array's pickle needs besides its voxels is less than a tenth of this.
MAX_OVERHEAD_BYTES = 8192
# Each byte from 0x80 on takes two as text in UTF-8 (protocols 1 and 2 of Python 3).
TEXT_EXPANSION = 2
# Protocol 0 is lines of characters, the default of Python 2: it spells a zero as \x00, and Python 3
# as \u0000. Only pickles up to this length may grow so, as they lie in memory twice more.
ESCAPED_EXPANSION = 6
MAX_ESCAPED_BYTES = 16 << 20

# The names of the functions an array's pickle may call, by what they are here.
GLOBALS: Mapping[str, str] = {
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy.core.numeric _frombuffer": "frombuffer",
    "numpy._core.numeric _frombuffer": "frombuffer",
    "numpy ndarray": "ndarray",
    "numpy dtype": "dtype",
    "_codecs encode": "encode",
}

# Voxels made text at a time; they stay in the cache meanwhile.
BLOCK_BYTES = 1 << 16
# From this length on an argument is voxels, if anything.
LONG_BYTES = 1 << 12
# Width of the length before a text.
LENGTH_BYTES = 4

PLAIN_KINDS = frozenset("biufc")


def most_bytes(voxel_bytes: int) -> int:
    """The longest that a pickle of an array may be."""
    escaped = min(ESCAPED_EXPANSION * voxel_bytes, MAX_ESCAPED_BYTES)
    return max(TEXT_EXPANSION * voxel_bytes, escaped) + MAX_OVERHEAD_BYTES


def escaping_bytes(voxel_bytes: int) -> int:
    """The memory that reading protocol 0 takes besides what all protocols take."""
    return 2 * min(ESCAPED_EXPANSION * voxel_bytes, MAX_ESCAPED_BYTES)


def dump_array(array: np.ndarray[Any, Dtype]) -> bytearray:
    """The pickle of an array of a plain type.

    Protocol 2, as Python 3 writes it, with numpy's older module name: Python 2 with numpy 1 and
    Python 3 with numpy 2 read it alike, with default arguments (data plane 3.4). The voxels travel
    as latin-1 text, the only form of bytes that both know.
    """
    out = bytearray(_head(array.dtype.str, array.shape))
    start = len(out)
    voxels = as_voxels(np.ascontiguousarray(array))
    # By blocks, as the text of all voxels would lie in memory twice more.
    for at in range(0, len(voxels), BLOCK_BYTES):
        out += str(voxels[at : at + BLOCK_BYTES], "latin1").encode()
    out[start - LENGTH_BYTES : start] = (len(out) - start).to_bytes(LENGTH_BYTES, "little")
    out += _text(b"latin1") + pickle.TUPLE2 + pickle.REDUCE + pickle.TUPLE + pickle.BUILD
    out += pickle.STOP
    return out


def load_array(content: bytes, layout: Layout) -> np.ndarray[Any, Dtype]:
    """The array that a pickle holds, protocols 0 to 5, checked against `layout`.

    Raises
    ------
    BadBody
        If it is no pickle of an ndarray of numbers, or type or shape differ.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument) in enumerate(_operations(content)):
            if number >= MAX_OPERATIONS:
                raise BadBody("the pickle in the body holds more than one array")
            machine.step(opcode, argument)
    # What the readers of arguments, the stack and the memo raise for a damaged program.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise BadBody("the pickle in the body is damaged or no ndarray") from error
    return _checked(machine.result(), layout)


def _head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The program up to the voxels, the length of which is its last four bytes."""
    return (
        pickle.PROTO
        + b"\x02"
        + _global("numpy.core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray")
        + _integer(0)
        + pickle.TUPLE1
        + _latin1(b"b")
        + pickle.TUPLE3
        + pickle.REDUCE
        + pickle.MARK
        + _integer(1)  # version of the state
        + _tuple(*(_integer(n) for n in shape))
        + _global("numpy", "dtype")
        + _text(dtype[1:].encode())
        + pickle.NEWFALSE  # align
        + pickle.NEWTRUE  # copy
        + pickle.TUPLE3
        + pickle.REDUCE
        # Version, byte order, no fields; size and alignment are those of the type.
        + _tuple(
            _integer(3),
            _text(dtype[:1].encode()),
            *[pickle.NONE] * 3,
            *[_integer(-1)] * 2,
            _integer(0),
        )
        + pickle.BUILD
        + pickle.NEWFALSE  # C order
        + _global("_codecs", "encode")
        + pickle.BINUNICODE
        + bytes(LENGTH_BYTES)
    )


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _integer(value: int) -> bytes:
    if 0 <= value < 256:
        return pickle.BININT1 + value.to_bytes(1, "little")
    return pickle.BININT + value.to_bytes(4, "little", signed=True)


def _text(utf8: bytes) -> bytes:
    return pickle.BINUNICODE + len(utf8).to_bytes(LENGTH_BYTES, "little") + utf8


def _latin1(ascii_bytes: bytes) -> bytes:
    """A byte string, as the call that makes one on both Pythons."""
    encoded = _text(ascii_bytes) + _text(b"latin1") + pickle.TUPLE2 + pickle.REDUCE
    return _global("_codecs", "encode") + encoded


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _operations(content: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each operation; `Any` is whatever stands in the pickle.

    Long arguments, the voxels, are not copied: bytes come as a view, text as a `_LongText`.
    """
    file, view = io.BytesIO(content), memoryview(content)
    while True:
        code = file.read(1).decode("latin1")
        opcode = _OPCODES[code]
        argument: Any = None  # whatever stands in the pickle
        if (long := _long_argument(view, file.tell(), code)) is not None:
            end, voxels = long
            file.seek(end)
            argument = _LongText(voxels) if opcode.name in _TEXTS else voxels
        elif opcode.name == "STRING":
            argument = _escaped(file.readline())
        elif opcode.arg is not None:
            argument = opcode.arg.reader(file)
        yield opcode.name, argument
        if opcode.name == "STOP":
            break
    if file.tell() != len(content):
        raise ValueError("bytes follow the end of the pickle")


def _escaped(line: bytes) -> str:
    """The byte string of Python 2 that a line spells, as latin-1; pickletools reads ASCII only."""
    text = line.removesuffix(b"\n")
    quote = text[:1]
    if text == line or len(text) < 2 or quote not in (b"'", b'"') or text[-1:] != quote:
        raise ValueError("the pickle has a text without quotes")
    content: bytes = codecs.escape_decode(text[1:-1])[0]
    return content.decode("latin1")


def _long_argument(view: memoryview, at: int, code: str) -> tuple[int, memoryview] | None:
    """End and content of a long argument that begins at `at`; None if it is not long."""
    width = _LENGTH_BYTES.get(code, 0)
    start = at + width
    length = int.from_bytes(view[at:start], "little")
    if length < LONG_BYTES:
        return None
    if start + length > len(view):
        raise ValueError("the pickle is truncated")
    return start + length, view[start : start + length]


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
# Opcodes whose argument may be long, and the width of its length.
_LENGTH_BYTES: Mapping[str, int] = {
    "T": 4,  # BINSTRING
    "B": 4,  # BINBYTES
    "X": 4,  # BINUNICODE
    "\x8d": 8,  # BINUNICODE8
    "\x8e": 8,  # BINBYTES8
    "\x96": 8,  # BYTEARRAY8
}
_TEXTS = frozenset({"BINUNICODE", "BINUNICODE8"})


@dataclass(frozen=True, slots=True)
class _LongText:
    """Text that is not decoded yet."""

    utf8: memoryview

    def latin1(self) -> bytearray:
        """The byte that each character stands for; ValueError if one stands for none."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        out = bytearray()
        # By blocks, as decoded text would lie in memory twice more.
        for at in range(0, len(self.utf8), BLOCK_BYTES):
            out += decoder.decode(self.utf8[at : at + BLOCK_BYTES]).encode("latin1")
        decoder.decode(b"", final=True)
        return out


@dataclass(frozen=True, slots=True)
class _Global:
    """Something a pickle names; never the thing itself."""

    name: str


@dataclass(slots=True)
class _Dtype:
    """A type under construction: the code, and the byte order that its state adds."""

    code: str
    order: str = ""


@dataclass(slots=True)
class _Array:
    """An array under construction."""

    shape: object = None
    dtype: object = None
    content: object = None
    order: object = "C"
    axis_order: object = None


_MARK = _Global("mark")


class _Machine:
    """Stack and memo of a pickle; knows the opcodes that arrays are made of and no others."""

    def __init__(self) -> None:
        # Whatever a pickle pushes: plain values and stand-ins.
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Carry out one operation; `Any` is whatever stands in the pickle."""
        if opcode in _PUSHED:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            self._push_tuple(len(self._stack) - _TUPLES[opcode])
        elif opcode in _OPERATIONS:
            _OPERATIONS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise BadBody(f"the pickle in the body is no plain ndarray: it uses {opcode}")

    def result(self) -> _Array:
        """What is left at the end, which must be one array."""
        if len(self._stack) != 1 or not isinstance(self._stack[0], _Array):
            raise BadBody("the pickle in the body is no ndarray")
        return self._stack[0]

    def push_global(self, name: str) -> None:
        if name not in GLOBALS:
            raise BadBody(
                f"the pickle in the body names {name[:80].replace(' ', '.')}, only ndarrays of "
                f"numbers are read"
            )
        self._stack.append(_Global(GLOBALS[name]))

    def push_stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self.push_global(f"{module} {name}")

    def push_marked(self, _: Any) -> None:
        start = max(i for i, item in enumerate(self._stack) if item is _MARK)
        items = self._stack[start + 1 :]
        self._stack[start:] = [tuple(items)]

    def put(self, index: Any) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: Any) -> None:
        self._stack.append(self._memo[index])

    def reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Global) or function.name not in _CALLS:
            raise BadBody("the pickle in the body is no plain ndarray: it calls something else")
        self._stack.append(_CALLS[function.name](*arguments))

    def build(self, _: Any) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, _Dtype):
            _set_dtype(target, state)
        elif isinstance(target, _Array):
            _set_array(target, state)
        else:
            raise BadBody("the pickle in the body is no plain ndarray: it sets a state elsewhere")

    def _push_tuple(self, start: int) -> None:
        if start < 0:
            raise IndexError("stack underflow")
        self._stack[start:] = [tuple(self._stack[start:])]


# Opcodes whose argument is the value they push.
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_CONSTANTS: Mapping[str, Any] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "MARK": _MARK,
}
_TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_OPERATIONS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "TUPLE": _Machine.push_marked,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _reconstruct(kind: object, shape: object, typecode: object) -> _Array:
    """An empty array, whose state follows."""
    del shape, typecode  # always (0,) and b"b": the state replaces both
    if kind != _Global("ndarray"):
        raise BadBody("the pickle in the body is a subclass of ndarray; only ndarray is read")
    return _Array()


def _frombuffer(
    content: object, dtype: object, shape: object, order: object, axis_order: object = None
) -> _Array:
    """A whole array, as protocol 5 spells it."""
    return _Array(shape, dtype, content, order, axis_order)


def _dtype(code: object, align: object = False, copy: object = False) -> _Dtype:
    del align, copy  # of no meaning for plain types
    if isinstance(code, bytes):
        code = code.decode("latin1")
    if not isinstance(code, str) or code[:1] not in PLAIN_KINDS or not code[1:].isdigit():
        raise BadBody("the pickle in the body is no array of plain numbers")
    return _Dtype(code[:8])


def _encode(text: object, encoding: object) -> bytes | bytearray:
    if encoding == "latin1":
        if isinstance(text, _LongText):
            return text.latin1()
        if isinstance(text, str):
            return text.encode("latin1")
    raise BadBody("the pickle in the body encodes something else than latin-1 text")


_CALLS: Mapping[str, Callable[..., Any]] = {
    "reconstruct": _reconstruct,
    "frombuffer": _frombuffer,
    "dtype": _dtype,
    "encode": _encode,
}


def _set_dtype(target: _Dtype, state: Any) -> None:
    """Take the byte order; refuse fields and subarrays."""
    _, order, subtype, names, fields = state[:5]
    if subtype is not None or names is not None or fields is not None:
        raise BadBody("the pickle in the body is an array of records, not of numbers")
    target.order = order.decode("latin1") if isinstance(order, bytes) else order


def _set_array(target: _Array, state: Any) -> None:
    # Numbered states came with numpy 1.0; before, the same without the number.
    target.shape, target.dtype, fortran, target.content = state[-4:]
    target.order = "F" if fortran else "C"


def _checked(built: _Array, layout: Layout) -> np.ndarray[Any, Dtype]:
    """The real array, once shape, type and size are known to be right."""
    if not isinstance(built.dtype, _Dtype) or built.dtype.order not in ("<", ">", "|", "="):
        raise BadBody("the pickle in the body is an ndarray without a type")
    shape = built.shape
    if not isinstance(shape, tuple) or any(type(n) is not int or n < 0 for n in shape):
        raise BadBody("the pickle in the body is an ndarray without a shape")
    sent = built.dtype.order.replace("|", "") + built.dtype.code
    content = built.content
    if isinstance(content, str):  # a byte string of Python 2
        content = content.encode("latin1")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise BadBody("the pickle in the body is an ndarray without voxels")
    axes = _axis_order(built, len(shape))
    check_shape(shape if axes is None else [shape[axis] for axis in axes], layout)
    try:
        check_dtype(np.dtype(sent), layout.dtype)
    except TypeError as error:
        raise BadBody(f"the pickle in the body has the type {sent}") from error
    if len(content) != layout.nbytes:
        raise BadBody(
            f"the pickle in the body holds {len(content)} bytes of voxels, its shape "
            f"{text_shape(shape)} needs {layout.nbytes}"
        )
    voxels = np.frombuffer(content, dtype=layout.dtype)
    if axes is not None:
        return np.ascontiguousarray(voxels.reshape(shape).transpose(axes))
    return np.ascontiguousarray(voxels.reshape(shape, order="F" if built.order == "F" else "C"))


def _axis_order(built: _Array, rank: int) -> tuple[int, ...] | None:
    """The order in which numpy 2 stored the axes of an array that lies neither way round."""
    axes = built.axis_order
    if built.order != "K" or axes is None:
        return None
    if not isinstance(axes, tuple) or sorted(axes) != list(range(rank)):
        raise BadBody("the pickle in the body is an ndarray whose order of axes makes no sense")
    return axes
