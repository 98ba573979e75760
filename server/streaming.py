"""Bodies on their way: received in chunks, sent in pieces, never whole unless a format needs it."""

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

from ndcass.concurrency import run_cpu
from ndcass.errors import BadBody, InvalidOption, TooLarge
from ndcass.server.app_keys import SETTINGS
from ndcass.server.exchange import exchange_of
from ndcass.server.formats.base import StreamDecoder, StreamEncoder, Voxels, as_voxels
from ndcass.server.headers import expects_continue, set_headers
from ndcass.server.intake import Sink, past_aiohttp

# One call to the socket: a larger one is cut by the kernel anyhow.
PIECE_BYTES = 1 << 20
# What a format may add to the voxels: headers, frames of data that do not compress, names in HDF5.
OVERHEAD_BYTES = 1 << 20
OVERHEAD_SHARE = 0.05
# Chunks are gathered to this much before they go to a thread to be decompressed.
GATHER_BYTES = 256 << 10
ENCODINGS = frozenset({"gzip", "lz4"})

Pieces = AsyncGenerator[bytes | memoryview, None]


@dataclass(frozen=True, slots=True)
class Body:
    """What is known of a body before it is read.

    `limit_bytes` is the most it may have, as it is sent.
    """

    encoding: str | None
    limit_bytes: int

    @classmethod
    def of(
        cls, request: web.Request, voxel_bytes: int, *, limit: int, share: float = OVERHEAD_SHARE
    ) -> Self:
        """Check what the headers say against the size of the box.

        `share` is how much larger than its voxels a body of the format may be.

        Raises
        ------
        TooLarge
            If the box, or the announced length, is more than a body may have.
        BadBody
            If the announced length cannot be one of this box.
        InvalidOption
            If the Content-Encoding is unknown.
        """
        if voxel_bytes > limit:
            raise TooLarge("box", asked=voxel_bytes, limit=limit)
        length = request.content_length
        if length is not None and length > limit:
            raise TooLarge("body", asked=length, limit=limit)
        encoding = request.headers.get("Content-Encoding", "").strip().lower() or None
        if encoding == "identity":
            encoding = None
        if encoding is not None and encoding not in ENCODINGS:
            raise InvalidOption(
                f"Content-Encoding {encoding[:40]} is unknown; known are "
                f"{', '.join(sorted(ENCODINGS))}"
            )
        most = voxel_bytes + int(voxel_bytes * share) + OVERHEAD_BYTES
        if length is not None and length > most:
            raise BadBody(f"the body has {length} bytes, the box only {voxel_bytes}")
        return cls(encoding, most)

    def expected_bytes(self, request: web.Request) -> int:
        """How long it is, or at most where its length is not announced."""
        return self.limit_bytes if request.content_length is None else request.content_length

    async def read(self, request: web.Request) -> memoryview:
        """The whole body, for formats that can only be read so."""
        buffer = bytearray()
        async for chunk in chunks(request):
            if len(buffer) + len(chunk) > self.limit_bytes:
                raise BadBody(f"the body has more than the {self.limit_bytes} bytes of this box")
            buffer += chunk
        if self.encoding is not None:
            raise InvalidOption("Content-Encoding goes with npz and raw bodies only")
        return memoryview(buffer)


def _patience(request: web.Request) -> tuple[float, str]:
    """For how long a client may send nothing, and what is said of one that does."""
    wait_s = request.app[SETTINGS].server.receive_timeout_s
    return wait_s, f"nothing of the body came for {wait_s:g} s"


async def _ask_for_body(request: web.Request) -> None:
    """Let a client that waits for it send its body: permission, URL and size are in order."""
    exchange_of(request).asked_for_body = True
    if expects_continue(request) and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer, nothing has been sent yet


async def chunks(request: web.Request) -> AsyncGenerator[bytes, None]:
    """The body as it arrives.

    Raises
    ------
    DeadlineExceeded
        If the client sends nothing for too long.
    BadBody
        If the connection ends before the body does.
    """
    wait_s, silent = _patience(request)
    progress = exchange_of(request).progress
    await _ask_for_body(request)
    while True:
        began_s = time.perf_counter()
        progress.waits(wait_s, silent)
        try:
            chunk = await request.content.readany()
        except web.RequestPayloadError as error:
            raise BadBody("the body ended too early") from error
        progress.moved(time.perf_counter() - began_s)
        if not chunk:
            return
        yield chunk


async def whole_body(request: web.Request, what: str, *, limit_bytes: int) -> bytearray:
    """A body whose size nothing tells before it is there; TooLarge above the limit."""
    length = request.content_length
    if length is not None and length > limit_bytes:
        raise TooLarge(what, asked=length, limit=limit_bytes)
    body = bytearray()
    async with contextlib.aclosing(chunks(request)) as arriving:
        async for chunk in arriving:
            body += chunk
            if len(body) > limit_bytes:
                raise TooLarge(what, asked=len(body), limit=limit_bytes)
    return body


async def receive_plain(request: web.Request, size: int, sink: Sink) -> None:
    """Have a body fill a sink while it arrives: of `size` bytes, as announced, and not encoded.

    Raises
    ------
    BadBody
        If the connection ends before the body does.
    DeadlineExceeded
        If the client sends nothing for too long.
    """
    wait_s, silent = _patience(request)
    await _ask_for_body(request)
    left = size
    try:
        while chunk := request.content.read_nowait():  # it came with the headers, or just after
            left -= len(chunk)
            await sink.feed(chunk)
    except web.RequestPayloadError as error:
        raise BadBody("the body ended too early") from error
    if not left:
        return
    progress = exchange_of(request).progress
    with past_aiohttp(request, left, progress, wait_s=wait_s, silent=silent) as intake:
        while left:
            room = sink.room()[:left]
            await intake.fill(room)
            left -= len(room)
            await sink.filled(len(room))


async def receive(
    request: web.Request,
    body: Body,
    decoder: StreamDecoder,
    feed: Callable[[Voxels], Awaitable[None]],
    *,
    in_thread: bool,
) -> None:
    """Decode a body while it arrives and hand on its voxels; fails as `decoded` does."""
    async with contextlib.aclosing(
        decoded(request, body, decoder, in_thread=in_thread)
    ) as arriving:
        async for piece in arriving:
            await feed(piece)


async def decoded(
    request: web.Request, body: Body, decoder: StreamDecoder, *, in_thread: bool
) -> AsyncGenerator[Voxels, None]:
    """The voxels of a body while it arrives.

    Raises
    ------
    BadBody
        If it does not decode to what the URL announces.
    """
    received = 0
    gathered = bytearray()
    async with contextlib.aclosing(chunks(request)) as arriving:
        async for chunk in arriving:
            received += len(chunk)
            if received > body.limit_bytes:
                raise BadBody(f"the body has more than the {body.limit_bytes} bytes of this box")
            if not in_thread:
                for piece in decoder.feed(chunk):
                    yield piece
                continue
            gathered += chunk
            if len(gathered) >= GATHER_BYTES:
                # One chunk, in steps of bounded size in a thread: a small one may hold very much.
                steps = iter(decoder.feed(bytes(gathered)))
                gathered.clear()
                while (step := await run_cpu(_next, steps)) is not None:
                    yield step
    if gathered:
        steps = iter(decoder.feed(bytes(gathered)))
        while (step := await run_cpu(_next, steps)) is not None:
            yield step
    for piece in decoder.finish():
        yield piece


def _next(steps: Iterator[Voxels]) -> Voxels | None:
    return next(steps, None)


class VoxelResponse(web.StreamResponse):
    """A small answer to GET in one piece, sent with its headers by one call.

    aiohttp would copy it behind its headers; that, and to put these together step by step, takes
    longer than to read the voxels.
    """

    def __init__(self, voxels: memoryview, headers: dict[str, str]) -> None:
        super().__init__()
        self._voxels = voxels
        self._own_headers = headers

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send all of it."""
        if self._eof_sent:
            return None
        assert isinstance(request, web.Request)  # no other kind comes to a handler
        writer = request.writer
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        self._eof_sent = True
        head = self._head(request)
        transport.writelines((head, self._voxels))
        writer.output_size += len(head) + len(self._voxels)
        await writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `prepare` sent it all."""

    def _head(self, request: web.Request) -> bytes:
        headers = self._own_headers
        headers["Content-Length"] = str(len(self._voxels))
        headers["Date"] = rfc822_formatted_time()
        set_headers(request, exchange_of(request), self, headers)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        version = request.version
        if not self._keep_alive:
            headers["Connection"] = "close"
        elif version < HttpVersion11:
            headers["Connection"] = "keep-alive"
        lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
        return f"HTTP/{version.major}.{version.minor} 200 OK\r\n{lines}\r\n\r\n".encode()


async def encoded(
    encoder: StreamEncoder,
    slabs: AsyncGenerator[npt.NDArray[Any], None],  # which type is only known at run time
    transform: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None,
) -> Pieces:
    """A body in pieces, none of them empty, while its voxels are read.

    `transform`, if there is one, makes what is sent of each slab, in a thread.
    """
    head = encoder.head()
    if head:
        yield head
    async with contextlib.aclosing(slabs) as voxels:
        async for slab in voxels:
            if transform is not None:
                slab = await run_cpu(transform, slab)
            view = as_voxels(np.ascontiguousarray(slab))
            piece = await run_cpu(encoder.piece, view) if encoder.cpu else encoder.piece(view)
            if piece:
                yield piece
    tail = await run_cpu(encoder.tail) if encoder.cpu else encoder.tail()
    if tail:
        yield tail


async def send_pieces(
    request: web.Request,
    pieces: Pieces,
    *,
    content_type: str,
    headers: Mapping[str, str],
    length: int | None,
) -> web.StreamResponse:
    """Send an answer piece by piece.

    The first piece is made before the status is sent, so that what fails early is still an error. A
    piece may be overwritten when the next is asked for: it has left the process by then.
    """
    response = web.StreamResponse(headers={**headers, "Content-Type": content_type})
    if length is not None:
        response.content_length = length
    async with contextlib.aclosing(pieces):
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        first = await anext(pieces, b"")
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left")
        transport.set_write_buffer_limits(high=0)
        try:
            await response.prepare(request)
            await _send(request, response, first)
            async for piece in pieces:
                await _send(request, response, piece)
            await response.write_eof()
        except BaseException:
            # A client must not take what it got for the whole.
            transport.abort()
            raise
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, piece: bytes | memoryview
) -> None:
    wait_s = request.app[SETTINGS].server.send_timeout_s
    progress = exchange_of(request).progress
    view = memoryview(piece)
    for at in range(0, len(view), PIECE_BYTES):
        began_s = time.perf_counter()
        progress.waits(wait_s, "the client took nothing for too long")
        await response.write(view[at : at + PIECE_BYTES])
        await response._payload_writer.drain()  # type: ignore[union-attr]  # set by prepare
        progress.moved(time.perf_counter() - began_s)
