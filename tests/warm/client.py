"""``client.py SOCKET WORDS...``: what ``python WORDS...`` does, in a fork of the server behind SOCKET.

The fork has this process's streams, folder and environment, and its exit status becomes this process's.
"""

import json
import os
import socket
import sys
from pathlib import Path


def main() -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(sys.argv[1])
        told = json.dumps({"words": sys.argv[2:], "folder": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(server, [len(told).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(told)
        return int(server.recv(8) or sys.exit("the server of warm processes is gone"))


if __name__ == "__main__":
    sys.exit(main())
