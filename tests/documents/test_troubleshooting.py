"""Every entry of docs/troubleshooting.md happens as it says, and its remedy is in the message or works."""

import re
import resource
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import okr
from okr.loaders import memory_guard

PAGE = Path(__file__).resolve().parents[2] / "docs" / "troubleshooting.md"
SETTING = {"epsilon": 2.0, "zone": "max", "strength": float("inf")}


def no_router(model, tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(okr.RouterNotFound, match="未找到任何gate层") as caught:
        okr.discover(LlamaForCausalLM(config))
    assert any("gate_proj" in line for line in caught.value.log)


def out_of_memory(model, tmp_path):
    def work():
        with memory_guard("while generating"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.75 GiB.")

    with pytest.raises(okr.OutOfMemory) as caught:
        work()
    for remedy in ("2.75 GiB", "batch size", "maximum length", "8bit or 4bit", "max_memory"):
        assert remedy in str(caught.value)


def model_does_not_load(model, tmp_path):
    with pytest.raises(okr.ModelLoadError, match=r"config\.json"):
        okr.load(tmp_path)


def key_file_is_refused(model, tmp_path):
    file = tmp_path / "key.json"
    okr.Key.generate().save(file)
    file.chmod(0o644)
    with pytest.raises(okr.InvalidKey, match="chmod 600"):
        okr.Key.load(file)
    file.chmod(0o600)
    okr.Key.load(file)


def trace_of(model):
    with okr.record(model) as recorder:
        ids = torch.arange(1, 9)[None]
        return recorder.generate(input_ids=ids, max_new_tokens=4, do_sample=False).traces[0]


def disk_is_full(model, tmp_path):
    """The whole story, with the command that goes on, is experiment/test_full_disk.py."""
    trace, file = trace_of(model), tmp_path / "one.safetensors"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(okr.InvalidTrace, match=re.escape(f"cannot write trace {file}: ")):
            trace.save(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def trace_is_refused(model, tmp_path):
    file = tmp_path / "one.safetensors"
    trace_of(model).save(file)
    with torch.no_grad():
        model.get_submodule(okr.discover(model)[0].path).weight.mul_(1.5)
    with pytest.raises(okr.InvalidTrace, match="another model"):
        okr.verify(model, okr.Trace.load(file), okr.Key.generate(), **SETTING)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(okr.InvalidTrace):
        okr.Trace.load(file)


def cannot_tell(model, tmp_path):
    verdict = okr.verify(model, trace_of(model), okr.Key.generate(), **{**SETTING, "epsilon": 0.0})
    assert str(verdict).startswith("cannot tell: no opportunities")
    verdict = okr.detect(model, list(range(3, 12)), okr.Key.generate(), **SETTING, decoys=19)
    assert str(verdict).startswith("cannot tell: ")
    assert "16" in str(verdict)
    assert not verdict.watermarked


ENTRIES = {
    "No router found (未找到任何gate层)": no_router,
    "Out of memory (显存不足)": out_of_memory,
    "The model does not load (模型加载失败)": model_does_not_load,
    "The key file is refused": key_file_is_refused,
    "The disk is full": disk_is_full,
    "A trace is refused": trace_is_refused,
    '"cannot tell"': cannot_tell,
}


@pytest.mark.parametrize("entry", re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
def test_an_entry_happens_as_it_says(entry, deepseek, tmp_path):
    ENTRIES[entry](deepseek, tmp_path)
