"""The embedded models as shipped: their sizes, their structure, their quality on text they were not trained on."""

import gzip
import importlib.util
import json
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe, DeepseekV2TopkRouter
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router

import okr
from okr.loaders import EMBEDDED, Loaded, expert_counts, generation_defaults, passages, sources

TRAINED_ON = {
    "speech": "sotu",
    "drama": "shakespeare",
    "bible": "web_bible",
    "novel": "austen",
    "sea-story": "moby_dick",
}
LIMITS = {"tiny-deepseek-moe": (9_000_000, 1.8, 2.1), "tiny-switch": (7_000_000, 2.1, 2.5)}


def folder(name: str) -> Path:
    return Path(sources.resolve(name).location)


@pytest.fixture(params=EMBEDDED)
def loaded(request: pytest.FixtureRequest) -> Loaded:
    return okr.load(request.param)


def bits_per_byte(loaded: Loaded, text: str) -> float:
    """Of the second half of ``text``: an encoder reads the first half, a decoder-only model has it as its prompt."""
    ids = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    half = len(ids) // 2
    labels = torch.tensor(ids[half:])
    if loaded.model.config.is_encoder_decoder:
        start = generation_defaults(loaded.model)["decoder_start_token_id"]
        source = torch.tensor([[*ids[:half][-128:], loaded.tokenizer.eos_token_id]])
        inputs = {"input_ids": source, "decoder_input_ids": torch.tensor([[start, *ids[half:-1]]])}
    else:
        inputs = {"input_ids": torch.tensor([[loaded.tokenizer.bos_token_id, *ids[:-1]]])}
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[0, -len(labels) :]
    nats = cross_entropy(logits, labels, reduction="sum").item()
    return nats / math.log(2) / len(loaded.tokenizer.decode(ids[half:]).encode())


@pytest.mark.parametrize("name", EMBEDDED)
def test_files_sizes_and_card(name: str) -> None:
    most, _, _ = LIMITS[name]
    files = {f.name: f for f in folder(name).iterdir()}
    assert sum(f.stat().st_size for f in files.values()) <= most
    assert {"config.json", "model.safetensors", "tokenizer.json", "training.json", "README.md"} <= files.keys()
    measured = json.loads(files["training.json"].read_text())
    card = files["README.md"].read_text(encoding="utf-8")
    for text, bits in measured["bits_per_byte"].items():
        assert f"| {text} | {bits:.2f} |" in card


def test_the_document_shows_what_was_measured() -> None:
    document = (Path(__file__).parents[3] / "docs" / "embedded-models.md").read_text(encoding="utf-8")
    measured = [json.loads((folder(n) / "training.json").read_text()) for n in sorted(EMBEDDED)]
    for text in TRAINED_ON.values():
        assert f"| {text} | " + " | ".join(f"{m['bits_per_byte'][text]:.2f}" for m in measured) + " |" in document


@pytest.mark.parametrize("name", EMBEDDED)
def test_measured_quality_is_within_its_limits(name: str) -> None:
    _, mean, worst = LIMITS[name]
    measured = json.loads((folder(name) / "training.json").read_text())
    assert set(measured["bits_per_byte"]) == set(TRAINED_ON.values())
    assert measured["mean"] <= mean
    assert max(measured["bits_per_byte"].values()) <= worst
    experts = expert_counts(okr.load(name).model.config).num_experts
    assert set(measured["experts_in_use"].values()) == {experts}


def test_quality_as_loaded_agrees_with_what_was_measured(loaded: Loaded) -> None:
    measured = json.loads((folder(loaded.source) / "training.json").read_text())["bits_per_byte"]
    for register, text in TRAINED_ON.items():
        some = [p.text for p in passages() if p.register == register][::6]
        bits = sum(bits_per_byte(loaded, t) for t in some) / len(some)
        assert abs(bits - measured[text]) < 0.35, (register, bits, measured[text])


@pytest.mark.parametrize("preset", ["tiny", "tiny-switch"])
def test_generated_words_are_words(preset: str) -> None:
    """At least 90% of them, as tools/make_words.py measured (93.8% and 92.1%); less a margin of six standard errors,
    so that a stream of random numbers from another platform fails by chance once in 10**8."""
    spec = importlib.util.spec_from_file_location("make_words", Path(__file__).parents[3] / "tools" / "make_words.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    words = gzip.decompress((Path(__file__).parent / "words.txt.gz").read_bytes()).decode()
    known, made = set(words.split("\n")), tool.written(preset)
    measured = tool.share(made, known)
    assert measured >= 0.92 - 6 * math.sqrt(0.92 * 0.08 / len(made))
    assert tool.share([word[::-1] for word in made], known) < 0.5, "what is no word is not found"


def test_every_expert_runs_on_the_passages(loaded: Loaded) -> None:
    ran: dict[str, Counter[int]] = {}
    for path, module in loaded.model.named_modules():
        if isinstance(module, DeepseekV2TopkRouter):
            module.register_forward_hook(
                lambda m, i, out, path=path: ran.setdefault(path, Counter()).update(out[2].flatten().tolist())
            )
        elif isinstance(module, SwitchTransformersTop1Router):
            module.register_forward_hook(
                lambda m, i, out, path=path: ran.setdefault(path, Counter()).update(
                    next(part for part in out if not part.is_floating_point()).argmax(-1).flatten().tolist()
                )
            )
    for passage in passages(70):
        bits_per_byte(loaded, passage.text)
    assert ran
    assert {len(c) for c in ran.values()} == {expert_counts(loaded.model.config).num_experts}


def test_the_structure_of_tiny_deepseek_moe() -> None:
    model = okr.load("tiny-deepseek-moe").model
    counts = expert_counts(model.config)
    assert (counts.num_experts, counts.top_k, counts.shared) == (64, 6, 2)
    assert [isinstance(layer.mlp, DeepseekV2Moe) for layer in model.model.layers] == [False, True, True, True]
    assert 3e6 <= model.num_parameters() <= 6e6


def test_the_structure_of_tiny_switch() -> None:
    model = okr.load("tiny-switch").model
    counts = expert_counts(model.config)
    assert (counts.num_experts, counts.top_k) == (8, 1)
    routers = [p for p, m in model.named_modules() if isinstance(m, SwitchTransformersTop1Router)]
    assert {p.split(".")[0] for p in routers} == {"encoder", "decoder"}
