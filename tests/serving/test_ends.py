"""A server that is killed has lost no trace that a client has its answer of, and one that dies tells no secret."""

import base64
import concurrent.futures
import json
import os
import signal
import urllib.error
from pathlib import Path
from typing import Any

import pytest
from servers import PROMPTS, SECRET, Server

import okr
from okr import Key, Trace


def test_the_journal_has_every_answer_when_the_server_is_killed(key_file: Path, tmp_path: Path, model: Any) -> None:
    """A killed server has lost the trace of no answer that a client has; started again it goes on."""
    arguments = ["tiny", "--key", str(key_file), "--traces", str(tmp_path / "traces"), "--max-model-len", "256"]
    engine = okr.prepare(model)
    had = set()
    for _ in range(2):
        with Server([*arguments, "--enforce-eager"], tmp_path) as running:  # noqa: SIM117 - the pool ends first
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                waiting = [pool.submit(running.complete, prompt, max_tokens=60, n=2) for prompt in PROMPTS * 2]
                for done in concurrent.futures.as_completed(waiting):
                    had.add(done.result()["id"])
                    if len(had) % 7 == 0:
                        break
                running.kill(signal.SIGKILL)
                for other in waiting:
                    error = other.exception()
                    if error is None:
                        had.add(other.result()["id"])
                    else:
                        assert isinstance(error, urllib.error.URLError | OSError | ValueError)
        names = [path.name for path in (tmp_path / "traces").glob("*.safetensors")]
        for answer in had:
            assert len([name for name in names if answer in name]) == 2, answer
    traces = [Trace.load(path) for path in (tmp_path / "traces").glob("*.safetensors")]
    assert all(okr.verify(engine, trace, Key(SECRET)).watermarked for trace in traces)
    assert not list((tmp_path / "traces").glob("*.part")) or had


def secret_forms() -> list[bytes]:
    """The secret as it may be written down."""
    forms = [
        SECRET,
        SECRET.hex().encode(),
        base64.b64encode(SECRET),
        base64.urlsafe_b64encode(SECRET),
        repr(SECRET).encode(),
    ]
    return [*forms, SECRET.hex().upper().encode(), str(list(SECRET)).encode(), ",".join(map(str, SECRET)).encode()]


def test_the_secret_is_nowhere_to_be_seen(key_file: Path, tmp_path: Path) -> None:
    """Neither in the log, the metrics, the models, the command lines, the environments, an answer, a trace, nor in what
    the server prints when its worker dies."""
    held = json.loads(key_file.read_text())
    forms = secret_forms() + [str(value).encode() for value in held.values() if len(str(value)) >= 32]
    arguments = ["tiny", "--key", str(key_file), "--traces", str(tmp_path / "traces"), "--enforce-eager"]
    with Server([*arguments, "--max-model-len", "256"], tmp_path) as running:
        answer = json.dumps(running.complete("The whale", max_tokens=8))
        shown = [answer, running.get("/metrics"), running.get("/v1/models"), running.get("/version")]
        processes = running.pids()
        seen = [Path(f"/proc/{pid}/{part}").read_bytes() for pid in processes for part in ("cmdline", "environ")]
        assert len(processes) >= 3
        worker = next(pid for pid in processes if b"Worker" in Path(f"/proc/{pid}/comm").read_bytes())
        os.kill(worker, signal.SIGABRT)
        with pytest.raises((OSError, urllib.error.URLError)):
            running.complete("The whale", max_tokens=200)
    seen += [text.encode() for text in shown] + [running.log.encode()]
    seen += [path.read_bytes() for path in (tmp_path / "traces").iterdir()]
    assert not [form for form in forms for text in seen if form in text]
    assert "APIServer" in running.log
    assert Key(SECRET).id in answer
