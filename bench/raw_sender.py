"""Bytes from RAM to the socket: the least. ``python -m bench.raw_sender PORT SIZE``."""

import socket
import sys
import threading


def serve(connection: socket.socket, answer: tuple[bytes, bytes]) -> None:
    """Answer every request on a connection, whatever it asks for."""
    waiting = b""
    while chunk := connection.recv(65536):
        waiting += chunk
        while b"\r\n\r\n" in waiting:
            _, waiting = waiting.split(b"\r\n\r\n", 1)
            for piece in answer:
                connection.sendall(piece)


def main() -> None:
    """Listen until the process is ended."""
    port, size = int(sys.argv[1]), int(sys.argv[2])
    answer = (
        f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode(),
        bytes(range(256)) * (size // 256),
    )
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, answer), daemon=True).start()


if __name__ == "__main__":
    main()
