"""Binds and closes one port in a loop, and says how often the port was still taken: by nobody but a look at the socket.

    python3 docs/examples/bind_and_close.py SECONDS
"""

import socket
import sys
import time

binds = refused = 0
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    with socket.socket() as it:
        try:
            it.bind(("127.90.9.9", 8000))
        except OSError:
            refused += 1
    binds += 1
print(f"{binds} binds, {refused} refused")
