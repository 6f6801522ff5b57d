"""The echo as `multiprocessing.connection` sees it: PORT SIZE.."""

import platform
import random
import sys
import threading
from multiprocessing.connection import Client

port, sizes = int(sys.argv[1]), [int(size) for size in sys.argv[2:]]
payloads = [random.Random(size).randbytes(size) for size in sizes]

with Client(("127.0.0.1", port)) as connection:
    for payload in payloads:
        connection.send_bytes(payload)
        assert connection.recv_bytes() == payload, f"{len(payload)} bytes came back as others"

    # Whoever does not read while it writes is not served for ever: so two threads.
    def send():
        for payload in payloads * 2:
            connection.send_bytes(payload)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for payload in payloads * 2:
        assert connection.recv_bytes() == payload, f"{len(payload)} bytes came back as others"
    sender.join()

print(f"multiprocessing.connection, Python {platform.python_version()}: "
      f"{3 * len(sizes)} frames of {sizes[0]} to {max(sizes)} bytes are equal")
