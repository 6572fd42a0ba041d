"""Two test suites that both start a server on the same address, because both set SO_REUSEPORT.

    bindwatch run -- python3 docs/examples/two_servers.py

Nothing fails: each suite's server binds, listens and answers. But the connections of either suite go to whichever
server the kernel picks. Uses 127.0.0.3:9926 only.
"""

import collections
import socket
import subprocess
import sys

ADDRESS = ("127.0.0.3", 9926)


def serve(name: str) -> None:
    """A server that answers every connection with its name, until its standard input ends."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(ADDRESS)
    listener.listen()
    print("ready", flush=True)
    import selectors

    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                return
            connection, _ = listener.accept()
            connection.sendall(name.encode())
            connection.close()


def suite(name: str) -> "subprocess.Popen[str]":
    """Starts the server of a suite and waits until it listens."""
    server = subprocess.Popen(
        [sys.executable, __file__, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None and server.stdout.readline() == "ready\n"
    return server


def main() -> None:
    servers = [suite("suite-A"), suite("suite-B")]
    answers = collections.Counter()
    for _ in range(100):
        with socket.create_connection(ADDRESS) as connection:
            answers[connection.recv(64).decode()] += 1
    print("100 connections of suite-A's tests were answered by:", dict(sorted(answers.items())))
    for server in servers:
        server.communicate()


if __name__ == "__main__":
    serve(sys.argv[1]) if len(sys.argv) > 1 else main()
