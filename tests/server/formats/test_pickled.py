import os
import pickle
import pickletools
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndcass.errors import BadBody
from ndcass.server.formats.pickled import dump_array, load_array
from tests.server.formats.bodies import TYPES, Array, arrays, layout_of, numbers

# The standard library warns of odd backslashes in names, which damaged pickles may have.
pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")

BOX = numbers((2, 3, 4, 5), "<u2")

# Every byte value, so that the text form of the voxels meets each.
ALL_BYTES = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)


class Subclass(np.ndarray):
    """An ndarray that is none of ours."""


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (self.command,))


def dumped(array: Array) -> bytes:
    return bytes(dump_array(array))


def lines_of_python_2(array: Array) -> bytes:
    """The pickle that Python 2 makes by default (protocol 0)."""
    voxels = "".join(
        f"\\x{byte:02x}" if byte < 32 or byte > 126 or byte in b"'\\" else chr(byte)
        for byte in array.tobytes()
    )
    shape = "".join(f"I{length}\n" for length in array.shape)
    order, code = array.dtype.str[0], array.dtype.str[1:]
    return (
        "cnumpy.core.multiarray\n_reconstruct\np0\n(cnumpy\nndarray\np1\n(I0\ntp2\nS'b'\np3\n"
        f"tp4\nRp5\n(I1\n({shape}tp6\ncnumpy\ndtype\np7\n(S'{code}'\np8\nI0\nI1\ntp9\nRp10\n"
        f"(I3\nS'{order}'\np11\nNNNI-1\nI-1\nI0\ntp12\nbI00\nS'{voxels}'\np13\ntp14\nb."
    ).encode("ascii")


def refused(content: bytes, words: str = ".") -> None:
    with pytest.raises(BadBody, match=words):
        load_array(content, layout_of(BOX))


@given(arrays())
def test_python_3_reads_it_with_default_arguments(array: Array) -> None:
    read = pickle.loads(dumped(array))
    assert type(read) is np.ndarray
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_program_is_numpy_s_own_but_for_the_older_name(dtype: str) -> None:
    array = ALL_BYTES.view(dtype)

    def program(content: bytes) -> list[tuple[str, Any]]:
        """Opcodes and arguments, with what the memo holds in place of each reference to it."""
        memo: dict[int, tuple[str, Any]] = {}
        out: list[tuple[str, Any]] = []
        argument: Any  # whatever stands in the pickle
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "BINPUT":
                memo[int(argument)] = out[-1]
            elif opcode.name == "BINGET":
                out.append(memo[int(argument)])
            else:
                out.append((opcode.name, argument))
        return out

    theirs = pickle.dumps(array, protocol=2)
    assert theirs.count(b"numpy._core.multiarray") == 1
    theirs = theirs.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert program(dumped(array)) == program(theirs)


def test_only_opcodes_of_protocol_2_are_used() -> None:
    assert {op.proto for op, _, _ in pickletools.genops(dumped(ALL_BYTES))} <= {0, 1, 2}


@given(arrays(), st.integers(0, 5))
def test_every_protocol_is_read(array: Array, protocol: int) -> None:
    read = load_array(pickle.dumps(array, protocol), layout_of(array))
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    assert read.tobytes() == array.tobytes()


@given(arrays())
def test_the_lines_of_python_2_are_read(array: Array) -> None:
    content = lines_of_python_2(array)
    read = load_array(content, layout_of(array))
    assert read.dtype == array.dtype
    assert read.tobytes() == array.tobytes()
    assert np.array_equal(pickle.loads(content, encoding="latin1"), array, equal_nan=True)


def test_a_text_of_python_2_without_its_quotes_is_refused() -> None:
    content = lines_of_python_2(BOX)
    for damaged in (b"S", b"S'", b"S\"u2'", b"Su2", b"S'u2"):
        refused(content.replace(b"S'u2'", damaged))
    refused(content[: content.index(b"S'u2'") + 5])


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "view",
    [
        np.asfortranarray,
        lambda a: a.transpose(0, 3, 2, 1),
        lambda a: a.transpose(0, 2, 1, 3),
        lambda a: a[:, :, ::2],
        lambda a: a[:, ::-1],
    ],
)
def test_every_order_of_memory_is_read(view: Callable[[Array], Array], protocol: int) -> None:
    array = view(BOX)
    read = load_array(pickle.dumps(array, protocol), layout_of(array))
    assert read.flags.c_contiguous
    assert np.array_equal(read, array)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("shape", [(1, 1, 64, 63), (1, 1, 64, 64), (1, 3, 200, 333)])
def test_arrays_around_and_above_the_size_of_a_block_are_read(
    shape: tuple[int, ...], protocol: int
) -> None:
    array = numbers(shape)
    for content in (pickle.dumps(array, protocol), dumped(array)):
        assert np.array_equal(load_array(content, layout_of(array)), array)


@pytest.mark.parametrize("protocol", range(6))
def test_truncated_and_trailing_bytes_of_a_large_array_are_refused(protocol: int) -> None:
    array = numbers((1, 3, 200, 333))
    content = pickle.dumps(array, protocol)
    for wrong in (content[:-1], content[: len(content) // 2], content[:300], content + b"."):
        with pytest.raises(BadBody):
            load_array(wrong, layout_of(array))


def test_a_long_text_that_is_no_latin_1_is_refused() -> None:
    array = numbers((1, 1, 64, 128))
    content = dumped(array)
    for bad in (b"\xc4\x80", b"\xff\xff"):  # U+0100, and no UTF-8 at all
        place = content.index(b"\xc3")
        with pytest.raises(BadBody):
            load_array(content[:place] + bad + content[place + 2 :], layout_of(array))


def test_a_large_array_is_read_in_little_more_memory_than_it_takes() -> None:
    array = numbers((1, 4, 1024, 1024))
    for content in (pickle.dumps(array, 5), dumped(array)):
        tracemalloc.start()
        load_array(content, layout_of(array))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.2 * array.nbytes


def test_a_byte_string_of_python_2_is_read() -> None:
    # As Python 2 and numpy 1 write it: SHORT_BINSTRING, which Python 3 takes for text.
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b"
        b"\x87Rq\x03(K\x01(K\x01K\x01K\x01K\x02tcnumpy\ndtype\nq\x04U\x02u2K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x01\x80\xff\xfetb."
    )
    expected = np.array([0x8001, 0xFEFF], dtype="<u2").reshape(1, 1, 1, 2)
    assert np.array_equal(load_array(content, layout_of(expected)), expected)


def test_a_pickle_that_runs_a_command_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for protocol in range(6):
        refused(pickle.dumps(Runs(f"touch {trace}"), protocol), "system")
        hidden = np.array([Runs(f"touch {trace}")], dtype=object).reshape(1, 1, 1, 1)
        refused(pickle.dumps(hidden, protocol))
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "thing",
    [
        None,
        5,
        "text",
        [1, 2],
        {"a": 1},
        (BOX,),
        [BOX],
        np.uint16(7),
        BOX.dtype,
        np.ndarray,
        BOX.view(Subclass),
        BOX.astype(object),
        BOX.view([("a", "u1"), ("b", "u1")]),
        BOX.astype("S3"),
        np.ma.masked_array(BOX),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_no_array_of_numbers_is_refused(thing: object, protocol: int) -> None:
    refused(pickle.dumps(thing, protocol))


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (BOX[:1], "holds 1 channels"),
        (BOX[:, :2], r"shape \(2, 2, 4, 5\), expected is \(2, 3, 4, 5\)"),
        (BOX[:, None], "5 axes, expected are 4"),
        (BOX.astype(">u2"), "holds >u2 voxels, the channel is <u2"),
        (BOX.astype("<i2"), "holds <i2"),
        (BOX.astype("<u4"), "holds <u4"),
        (BOX.astype(bool), r"holds \|b1"),
    ],
)
def test_another_array_is_refused(array: Array, words: str, protocol: int) -> None:
    refused(pickle.dumps(array, protocol), words)


@pytest.mark.parametrize("protocol", range(6))
def test_every_truncation_is_refused(protocol: int) -> None:
    content = pickle.dumps(BOX, protocol)
    for length in range(len(content)):
        refused(content[:length])


def test_an_attribute_of_a_named_function_cannot_be_set() -> None:
    # GLOBAL, then a state for it: an allow-list of real functions would let this through.
    refused(b"cnumpy.core.multiarray\n_reconstruct\n(N}U\x01ab.")
    refused(b"c_codecs\nencode\nNb.", "sets a state elsewhere")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05]" * 20_000 + b".",  # lists
        b"(" * 20_000 + b".",
        b"K\x01" + b"2" * 100 + b".",  # DUP
        b"K\x01r\xff\xff\xff\x7f.",  # a memo of two thousand million entries
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00punycodetR.",
        b"c_codecs\nencode\nK\x01R.",
        b"\x8a\xff" + b"\x7f" * 255 + b".",
        b"\x96\xff\xff\xff\xff\xff\xff\xff\x00.",
        b"t.",
        b"\x87.",
        b"R.",
        b"b.",
        b"h\x05.",
        b"",
        b".",
        b"cnumpy\ndtype\n(tR.",
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
        b"cnumpy\nndarray\n(I4\ntR.",
    ],
)
def test_a_hostile_program_is_refused_in_little_memory(content: bytes) -> None:
    tracemalloc.start()
    refused(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_cleanly(content: bytes) -> None:
    refused(content)


@given(st.integers(0, 400), st.integers(1, 255), st.sampled_from([0, 2, 5]))
def test_a_flipped_byte_is_refused_or_read_as_such_an_array(
    place: int, flip: int, protocol: int
) -> None:
    content = bytearray(pickle.dumps(BOX, protocol))
    content[place % len(content)] ^= flip
    try:
        read = load_array(bytes(content), layout_of(BOX))
    except BadBody:
        return
    assert read.shape == BOX.shape
    assert read.dtype == BOX.dtype
