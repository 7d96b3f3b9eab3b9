"""Hub, mirror and offline: what is asked, and what is said when the answer is no."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from mirror import COMMIT, serve, stop

import okr
from okr.loaders import hub, sources


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("DEEPSEEK_MOE_LOCAL_PATH", raising=False)
    monkeypatch.setattr(sources, "DEEPSEEK_FOLDER", str(tmp_path / "DeepSeek-MoE"))


def failure(source: str) -> str:
    with pytest.raises(okr.ModelLoadError) as caught:
        okr.load(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mirror_then_its_cache_then_nothing(deepseek_checkpoint: Path, tmp_path: Path) -> None:
    """One process, since the hub's client reads HF_ENDPOINT only when it is imported."""
    script = Path(__file__).with_name("mirror.py")
    environment = {"HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script, deepseek_checkpoint], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"mirror: owner/name {COMMIT} DeepseekForCausalLM"
    assert re.fullmatch(
        r"okr http://127.0.0.1:\d+ cannot be reached: owner/name is taken from the local cache", lines[1]
    )
    assert lines[2].startswith(f"cache: owner/name {COMMIT} ")
    assert re.fullmatch(
        r"error: owner/other was not found. .*at http://127.0.0.1:\d+ \(it cannot be reached.*", lines[3]
    )


def test_no_network_names_every_place_of_the_guide_s_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = serve(None)
    stop(server)  # a port that was free a moment ago refuses the connection
    monkeypatch.setattr(constants, "ENDPOINT", f"http://user:sesame@127.0.0.1:{server.server_port}")
    assert failure("deepseek-moe") == (
        "deepseek-ai/deepseek-moe-16b-base was not found. Looked in: DEEPSEEK_MOE_LOCAL_PATH (not set); "
        f"{tmp_path}/DeepSeek-MoE (there is no such folder); hub deepseek-ai/deepseek-moe-16b-base at "
        f"http://127.0.0.1:{server.server_port} (it cannot be reached and the model is not in the cache). What to do: "
        "check the network, or set HF_ENDPOINT to a mirror, set DEEPSEEK_MOE_LOCAL_PATH to the model's folder, or give "
        "the path of a local folder"
    )


def test_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    class Offline:
        def model_info(self, *args: object, **kwargs: object) -> None:
            raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr(hub, "HfApi", Offline)
    text = failure("owner/name")
    assert "(HF_HUB_OFFLINE is set and it is not in the cache). What to do: unset HF_HUB_OFFLINE, or give" in text
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *args: "/cache/snapshots/0/config.json")
    assert not hub.reachable(sources.resolve("owner/name"))


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "(no such model, or a private one). What to do: check the name, or log in"),
        (403, "GatedRepo", "(access to it must be granted first). What to do: ask for access on its page"),
        (500, "", "(it answered HTTP 500). What to do: check the network, or set HF_ENDPOINT to a mirror"),
    ],
)
def test_what_the_hub_answers(monkeypatch: pytest.MonkeyPatch, status: int, code: str, words: str) -> None:
    server = serve(None, status, code)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    try:
        text = failure("owner/name")
    finally:
        stop(server)
    assert text.startswith(
        "owner/name was not found. Looked in: folder owner/name (there is no such folder); hub owner/name"
    )
    assert words in text
