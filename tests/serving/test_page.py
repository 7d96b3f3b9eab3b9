"""docs/how-to/serve.md runs as it is written, on a port that is free."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from pages import SERVED, blocks, shown
from servers import free_port, small_machine


def test_the_page_runs_as_written(tmp_path: Path) -> None:
    port, printed, ran = free_port(), "", 0
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, **small_machine(), "PATH": path}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    server = None
    try:
        for kind, text in blocks(SERVED):
            command = ["bash", "-euo", "pipefail", "-c", text.replace("localhost:8000", f"localhost:{port}")]
            if kind == "shell":  # in another terminal
                command[-1] = text.strip() + f" --port {port}"
                with (tmp_path / "server.log").open("wb") as log:
                    server = subprocess.Popen(
                        command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                wait_for(port, server, tmp_path / "server.log")
            elif kind == "bash":
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
                assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr[-3000:]}"
                printed, ran = done.stdout, ran + 1
            elif kind == "text":
                assert shown(text, printed) == [], printed
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert ran >= 2


def wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(log.read_text(errors="replace")[-4000:])
