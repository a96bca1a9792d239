"""Clients that behave badly, in a process of their own: benchmarks/serving_soak.py starts and kills it.

    python -m benchmarks.serving_nuisance abandon http://127.0.0.1:8000/v1/recommendations body.json 8

`abandon` sends requests and reads nothing; `slow` reads one byte a second from each. Both print `sent` once every
request has left, and go on until they are killed.
"""

import argparse
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

RECEIVE_BUFFER = 4096  # as small as the system allows: what is not read soon stays with the server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("abandon", "slow"))
    parser.add_argument("url")
    parser.add_argument("body", type=Path, help="file that is posted")
    parser.add_argument("count", type=int, help="connections")
    args = parser.parse_args()
    connections = [post(args.url, args.body.read_bytes()) for _ in range(args.count)]
    print("sent", flush=True)
    while True:
        time.sleep(1)
        if args.kind == "slow":
            for connection in connections:
                connection.recv(1)


def post(url: str, body: bytes) -> socket.socket:
    """A connection over which a whole request has gone out."""
    parts = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    connection.connect((parts.hostname, parts.port))
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


if __name__ == "__main__":
    main()
