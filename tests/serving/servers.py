"""Starts ``okr serve`` and other processes of vLLM, and ends them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

START_S = 240
SECRET = bytes(range(32))
PROMPTS = ["The whale", "And it came to pass", "Call me Ishmael.", "In the beginning", "Once more", "The captain said"]


def small_machine() -> dict[str, str]:
    """The environment in which vLLM takes little of a processor and of its memory."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


class Server:
    """A server in its own process group; ``log`` is what it printed so far."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output = folder / "server.log"
        line = [sys.executable, "-m", "okr.cli", "serve", *arguments, "--port", str(self.port), "--host", "127.0.0.1"]
        environment = {**os.environ, **small_machine()}
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                line, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
            )

    def __enter__(self) -> "Server":
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log[-4000:]}")
            try:
                if self.get("/health") is not None:
                    return self
            except OSError:
                time.sleep(0.2)
        self.kill()
        raise RuntimeError(f"the server did not start in {START_S} s:\n{self.log[-4000:]}")

    def __exit__(self, *raised: Any) -> None:
        self.kill(signal.SIGTERM)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End all of the server's processes."""
        for sent in (how, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    @property
    def log(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def traces(self) -> Path:
        return self.folder / "traces"

    def pids(self) -> list[int]:
        """The processes of the server's group."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getpgid(int(entry.name)) == self.process.pid:
                        found.append(int(entry.name))
                except ProcessLookupError:
                    continue
        return found

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return str(answer.read().decode())

    def complete(self, prompt: Any, **asked: Any) -> dict[str, Any]:
        """The JSON of one completion, with token ids."""
        body = {"model": "tiny", "prompt": prompt, "return_token_ids": True} | asked
        request = urllib.request.Request(
            self.url + "/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return dict(json.loads(answer.read()))
