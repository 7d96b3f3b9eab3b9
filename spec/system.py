"""What the system clauses are tried on: two tiny random MoE models, and traces made with them."""

import atexit
import copy
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor, nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

okr: Any = import_module("okr")  # its public names are made on first use, which type checkers cannot see
SECRET = bytes(range(100, 132))
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
_SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}
_SIZE |= {"num_key_value_heads": 2, "max_position_embeddings": 128, "intermediate_size": 16}


@cache
def key() -> Any:
    """The key of the tests."""
    return okr.Key(SECRET)


def _spread_routers(model: nn.Module, factor: float) -> nn.Module:
    """Random routers barely tell experts apart; ``factor`` gives their scores the spread of trained ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.mul_(factor)
    return model.eval()


@cache
def softmax_model() -> Any:
    """Mixtral-like: softmax over 8 experts, top-2, weights normalised over the selected."""
    torch.manual_seed(1)
    return _spread_routers(MixtralForCausalLM(MixtralConfig(**_SIZE, num_local_experts=8, num_experts_per_tok=2)), 10)


@cache
def sigmoid_model() -> Any:
    """DeepSeek-V3-like: sigmoid scores with a correction bias, 16 experts in 4 groups of which 2 are allowed, top-4."""
    torch.manual_seed(2)
    config = DeepseekV3Config(
        **_SIZE, moe_intermediate_size=16, n_routed_experts=16, num_experts_per_tok=4, n_group=4, topk_group=2,
        n_shared_experts=1, first_k_dense_replace=1, kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=16,
    )  # fmt: skip
    model = _spread_routers(DeepseekV3ForCausalLM(config), 10)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(torch.linspace(-0.1, 0.1, len(buffer)))
    return model


def models() -> list[Any]:
    """Both."""
    return [softmax_model(), sigmoid_model()]


def new_models() -> list[Any]:
    """Both, made anew: nobody has attached anything to them yet."""
    return [softmax_model.__wrapped__(), sigmoid_model.__wrapped__()]


def dense_model() -> Any:
    """Without any router."""
    torch.manual_seed(3)
    return LlamaForCausalLM(LlamaConfig(**_SIZE)).eval()


def tokens(rows: int = 2, length: int = 8, seed: int = 0) -> Tensor:
    """Random token ids, int64 [rows, length]; no padding among them."""
    return torch.randint(1, 64, (rows, length), generator=torch.Generator().manual_seed(seed))


def routers(model: Any) -> list[tuple[Any, nn.Module]]:
    """Every keyable site with its module."""
    return [(site, model.get_submodule(site.path)) for site in okr.discover(model) if site.keyable]


@torch.no_grad()
def logits(model: Any, ids: Tensor | None = None) -> Tensor:
    """The model's logits."""
    found: Tensor = model(input_ids=tokens() if ids is None else ids).logits
    return found


def epsilon_of(model: Any) -> float:
    """An epsilon that opens many zones: 1 logit, or 0.3 of a sigmoid score."""
    return 1.0 if okr.discover(model)[-1].unit == "logit" else 0.3


@cache
def traces(model_index: int = 0, *, keyed: bool = True, zone: str = "boundary", strength: float = math.inf) -> Any:
    """Two traces of 24 sampled tokens each, made once."""
    model = models()[model_index]
    torch.manual_seed(7)
    arguments = {
        "input_ids": tokens(),
        "max_new_tokens": 24,
        "do_sample": True,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    run = (
        okr.watermark(model, key(), epsilon=epsilon_of(model), zone=zone, strength=strength)
        if keyed
        else okr.record(model)
    )
    with run as session:
        return session.generate(**arguments).traces


@cache
def monotone_trace() -> Any:
    """A native trace of the softmax model over one token 30 times: every router sees the same state all along."""
    with okr.record(softmax_model()) as session:
        ids = tokens(1, 1, seed=3).repeat(1, 30)
        made = session.generate(input_ids=ids, max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None)
    return made.traces[0]


@cache
def _outspoken(index: int) -> Any:
    model = copied(models()[index])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(10)
        model.lm_head.weight.mul_(20)
    return model


def outspoken_models() -> list[Any]:
    """Both models with louder experts and sharper predictions, as training makes them: text shows who was routed."""
    return [_outspoken(index) for index in (0, 1)]


@cache
def texts(index: int) -> list[list[int]]:
    """Two texts of 8 given and 48 sampled tokens each, from the outspoken model under the key."""
    model = _outspoken(index)
    torch.manual_seed(7)
    with okr.watermark(model, key(), epsilon=epsilon_of(model), zone="boundary") as session:
        made = session.generate(
            input_ids=tokens(), max_new_tokens=48, do_sample=True, pad_token_id=0, eos_token_id=None
        )
    return [row.tolist() for row in made.sequences]


@cache
def unlikely_text() -> list[int]:
    """24 tokens, each the one that the first outspoken model without a key expects least."""
    text = tokens(1, 1)
    for _ in range(23):
        text = torch.cat([text, logits(_outspoken(0), text)[:, -1:].argmin(-1)], 1)
    return [int(token) for token in text[0]]


@contextmanager
def outputs_of(model: Any) -> Iterator[dict[str, list[tuple[Tensor, Any]]]]:
    """Input and output of every router call in the block, by site path."""
    seen: dict[str, list[tuple[Tensor, Any]]] = {}
    handles = []
    for site, module in routers(model):
        store = seen.setdefault(site.path, [])
        handles.append(module.register_forward_hook(lambda _m, i, o, s=store: s.append((i[0].detach(), o))))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def fingerprint(model: Any) -> dict[str, Any]:
    """All that attaching must leave as it was: classes, attributes, names, parameters."""
    return {
        "classes": [(name, type(module)) for name, module in model.named_modules()],
        "attributes": [(name, sorted(vars(module))) for name, module in model.named_modules()],
        "hooks": [(name, len(module._forward_hooks)) for name, module in model.named_modules()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "training": model.training,
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words."""
    found = [part for part in ("classes", "attributes", "hooks", "training") if before[part] != after[part]]
    if list(before["state"]) != list(after["state"]):
        return [*found, "state dict names"]
    return found + [n for n, value in before["state"].items() if not torch.equal(value, after["state"][n])]


def copied(model: Any) -> Any:
    """A deep copy."""
    return copy.deepcopy(model)


# --- a small experiment


class _Silent:
    """Progress that nobody sees."""

    def stage(self, text: str) -> None:
        pass

    def total(self, task: str, count: int) -> None:
        pass

    def advance(self, task: str, count: int = 1) -> None:
        pass


@cache
def _workshop() -> Path:
    """A folder that lives as long as the process: an untrained checkpoint with a byte-level tokenizer, and the key."""
    holder = tempfile.TemporaryDirectory(prefix="okr-spec-")
    atexit.register(holder.cleanup)
    folder = Path(holder.name)
    torch.manual_seed(4)
    shape = {**_SIZE, "vocab_size": 259, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2}
    config = MixtralConfig(**shape, num_local_experts=8, num_experts_per_tok=2)
    model: Any = _spread_routers(MixtralForCausalLM(config), 10)
    model.save_pretrained(folder / "model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({text: i for i, text in enumerate(["<pad>", "<bos>", "<eos>", *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder / "model")
    key().save(folder / "key.json")
    return folder


@cache
def experiment() -> Path:
    """The output folder of a finished experiment of four samples."""
    from okr.experiment.config import resolve
    from okr.experiment.runner import run

    folder = _workshop()
    place = Path(tempfile.mkdtemp(dir=folder)) / "run"
    flags: dict[str, Any] = {
        "model": str(folder / "model"),
        "output_dir": str(place),
        "key": str(folder / "key.json"),
    }
    flags |= {"samples": 4, "max_length": 12, "batch_size": 2, "decoys": 99, "alpha": 0.01, "quality_passages": 2}
    run(resolve("tiny", flags, environment={}), resume=False, progress=_Silent())
    return place


@cache
def experiment_model() -> Any:
    """The experiment's model, loaded anew."""
    return okr.load(str(_workshop() / "model")).model


def forget() -> None:
    """Drop the models and all that was made with them: the package changed."""
    models: tuple[Any, ...] = (softmax_model, sigmoid_model, _outspoken, experiment_model)
    for made in (*models, traces, monotone_trace, texts, unlikely_text, experiment):
        made.cache_clear()
