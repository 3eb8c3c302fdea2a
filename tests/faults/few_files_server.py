"""The server as a user starts it, where the system lets a process have few files and sockets.

FILES=64 python tests/faults/few_files_server.py --port 0
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

SERVER = Path(__file__).resolve().parent.parent.parent / "server.py"

if __name__ == "__main__":
    most = int(os.environ["FILES"])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most // 2, most))
    os.execv(sys.executable, [sys.executable, str(SERVER), *sys.argv[1:]])
