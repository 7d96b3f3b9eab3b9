"""Experts read from llama.cpp: they are those of our own engine, and those of a baked model prove its key."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pages import ROOT, blocks
from scripts import script

import okr
from okr import InvalidConfig, Key, RouterNotFound, Trace
from okr.baking import Checkpoint, bake, measure, texts_of
from okr.baking.models import checkpoint_folder
from okr.cli import execute
from okr.collect.llama_cpp import collected
from okr.loaders import Loaded, passages

MODEL, KEY, STRENGTH = "tiny-deepseek-moe", Key(bytes(range(32))), 0.15
PROMPT, NEW = 24, 40
FLOAT32 = 0  # ggml's number; the cache of keys and values is float16 otherwise


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"metadata": {"llama.block_count": "4"}}, RouterNotFound, "no experts"),
        ({"metadata": {"deepseek.expert_count": "0"}}, RouterNotFound, "no experts"),
        ({"_logits_all": False}, InvalidConfig, "logits_all=True"),
        ({"lora_path": "adapter.gguf"}, InvalidConfig, "LoRA"),
        ({"cache": object()}, InvalidConfig, "cache"),
    ],
)
def test_what_cannot_be_collected_is_refused(changes: dict[str, Any], error: type[Exception], said: str) -> None:
    """Before llama.cpp is asked for anything."""
    fields = {"metadata": {"deepseek.expert_count": "64"}, "_logits_all": True, "lora_path": None, "cache": None}
    with pytest.raises(error, match=said), collected(SimpleNamespace(**fields | changes)):
        pass


@pytest.fixture(scope="module")
def llama_cpp() -> Any:
    for name in ("llama_cpp", "gguf"):
        pytest.importorskip(name, reason="needs llama.cpp: pip install llama-cpp-python gguf")
    import llama_cpp

    return llama_cpp


@pytest.fixture(scope="module")
def original() -> Loaded:
    return okr.load(MODEL, dtype="float32")


@pytest.fixture(scope="module")
def folders(llama_cpp: Any, original: Loaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of the original and of the baked checkpoint."""
    source, target = checkpoint_folder(MODEL), tmp_path_factory.mktemp("baked") / "model"
    texts = texts_of(original, [passage.text for passage in passages(4)])
    bake(source, target, KEY, measure(okr.prepare(original.model), Checkpoint(source), MODEL, texts), STRENGTH)
    return {"original": source, "baked": target}


@pytest.fixture
def opened(llama_cpp: Any, folders: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``opened(which, kind, **options)``: a checkpoint in llama.cpp."""
    models = []

    def open_model(which: str, kind: str = "F32", **options: Any) -> Any:
        file = tmp_path / f"{which}-{kind}.gguf"
        script("studies/gguf_file").write_gguf(folders[which], file, kind)
        common = {"n_ctx": 256, "n_threads": 1, "logits_all": True, "verbose": False, "seed": 5}
        models.append(llama_cpp.Llama(str(file), **common | options))
        return models[-1]

    yield open_model
    for model in models:
        model.close()


def prompt(original: Loaded, number: int) -> list[int]:
    return original.tokenizer(passages(20)[number].text)["input_ids"][:PROMPT]


def text(engine: Any, given: list[int], new: int = NEW) -> list[int]:
    """``given`` and tokens that the engine samples."""
    drawn = engine.generate(list(given), temp=1.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0)
    return given + [next(drawn) for _ in range(new)]


def trace_of(engine: Any, folder: Path, given: list[int]) -> Trace:
    with collected(engine) as routing:
        return routing.trace(text(engine, given), model=str(folder), prompt_length=PROMPT)


def test_logits_and_experts_are_those_of_our_own_engine(original: Loaded, opened: Any, folders: Any) -> None:
    """Also where the prompt comes in several batches, and each of these in several parts."""
    engine = opened("original", type_k=FLOAT32, type_v=FLOAT32, n_batch=16, n_ubatch=5)
    trace = trace_of(engine, folders["original"], prompt(original, 0))
    ids = torch.tensor(trace.token_ids[None, :-1].astype(np.int64))
    with okr.record(original.model) as session:
        own = session.generate(ids, max_new_tokens=1, do_sample=False).traces[0]
    logits = original.model(ids).logits[0].detach().numpy()
    assert np.abs(engine.scores[: len(logits)] - logits).max() < 1e-3
    assert (np.sort(trace.experts, -1) == np.sort(own.experts, -1)).mean() > 0.999


@pytest.mark.parametrize(("kind", "level"), [("F32", 1e-6), ("Q8_0", 1e-6), ("Q4_0", 1e-3)])
def test_a_baked_model_proves_its_key_and_the_original_does_not(
    kind: str, level: float, original: Loaded, opened: Any, folders: Any
) -> None:
    baked = trace_of(opened("baked", kind), folders["baked"], prompt(original, 1))
    assert baked.header.key_id == KEY.id
    assert okr.verify(original.model, baked, KEY, skip_prompt=True).p_value <= level
    plain = trace_of(opened("original", kind), folders["original"], prompt(original, 1))
    setting = {"zone": "boundary", "epsilon": math.inf, "strength": STRENGTH}
    assert okr.verify(original.model, plain, KEY, skip_prompt=True, **setting).p_value > 0.05


def test_the_example_of_the_page_runs_as_written(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("baked").symlink_to(folders["baked"])
    script("studies/gguf_file").write_gguf(Path("baked"), Path("baked.gguf"), "Q4_0")
    page = blocks(ROOT / "docs" / "how-to" / "bake.md")
    (code,) = [text for language, text in page if language == "py" and "llama_cpp" in text]
    exec(compile(code, "bake.md", "exec"), {"__name__": "__main__"})
    KEY.save(Path("key.json"))
    assert execute(["verify", "baked", "llama.okrtrace", "--key", "key.json"]) == 0


def test_every_text_of_a_block_has_its_own_experts(original: Loaded, opened: Any, folders: Any) -> None:
    """The engine keeps what two texts have in common in its cache, and does not run it again."""
    engine = opened("baked")
    prompts = [prompt(original, 1), prompt(original, 2), prompt(original, 1)]
    with collected(engine) as routing:
        together = [routing.trace(text(engine, one), model=MODEL, prompt_length=PROMPT) for one in prompts]
    for trace in together:
        with collected(engine) as routing:
            engine.eval(trace.token_ids.tolist())
            alone = routing.trace(trace.token_ids, model=MODEL, prompt_length=PROMPT)
        assert (np.sort(trace.experts, -1) == np.sort(alone.experts, -1)).mean() > 0.99


def test_the_engine_is_as_before_after_the_block(original: Loaded, opened: Any) -> None:
    engine, given = opened("original"), prompt(original, 3)
    before, context = text(engine, given), engine.ctx
    with suppress(KeyError), collected(engine) as routing:
        assert engine.ctx != context
        within = text(engine, given)
        raise KeyError
    seen = routing.array()
    after = text(engine, given)
    assert engine.ctx == context
    assert before == within == after
    assert (routing.array() == seen).all()
