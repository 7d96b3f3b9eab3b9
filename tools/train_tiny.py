"""Train the embedded models, and a coarse-grained one for experiments, from a folder of text files.

    python tools/train_tiny.py tiny-deepseek-moe --corpus DIR --out okr/loaders/embedded/tiny-deepseek-moe
    python tools/train_tiny.py tiny-switch       --corpus DIR --out okr/loaders/embedded/tiny-switch
    python tools/train_tiny.py coarse-mixtral    --corpus DIR --out FOLDER

``coarse-mixtral`` (32 experts, 4 active, none shared) does not ship; studies/text_power.py compares it with the
embedded one.
``DIR`` holds the five training texts named in ``CORPUS`` (docs/embedded-models.md says where they come from). The last
5% of every file is held out and only evaluated on. One seed fixes tokenizer, initialisation and batches; on one
machine with one thread count a run repeats bit for bit.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2TopkRouter
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router

from okr.loaders.deepseek import DeepseekConfig, DeepseekForCausalLM, register

CORPUS = ("austen", "moby_dick", "shakespeare", "sotu", "web_bible")
HELD_OUT = 0.05  # of each file, at its end
VOCAB = 4096
PAD, BOS, EOS = 0, 1, 2


@dataclass(frozen=True)
class Recipe:
    """How one embedded model is trained; lengths in tokens."""

    steps: int
    batch: int
    context: int  # encoder tokens (0: decoder-only)
    target: int  # predicted tokens per window
    learning_rate: float
    balance: float = 0.01  # weight of the load-balancing loss
    warmup: int = 100
    weight_decay: float = 0.1
    flush_denormals: bool = False  # Switch's optimizer state decays into them, and they are many times slower
    seed: int = 0


RECIPES = {
    "tiny-deepseek-moe": Recipe(steps=1600, batch=12, context=0, target=512, learning_rate=4e-3),
    "coarse-mixtral": Recipe(steps=1200, batch=12, context=0, target=512, learning_rate=4e-3),
    "tiny-switch": Recipe(steps=1600, batch=16, context=128, target=256, learning_rate=4e-3, flush_denormals=True),
}


def build(name: str) -> PreTrainedModel:
    """The untrained model ``name`` in float32."""
    special = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    if name == "tiny-deepseek-moe":
        return DeepseekForCausalLM(
            DeepseekConfig(
                vocab_size=VOCAB,
                hidden_size=160,
                intermediate_size=320,
                num_hidden_layers=4,
                num_attention_heads=5,
                max_position_embeddings=2048,
                moe_intermediate_size=32,
                n_routed_experts=64,
                num_experts_per_tok=6,
                n_shared_experts=2,
                tie_word_embeddings=True,
                **special,
            )
        )
    if name == "coarse-mixtral":
        config = MixtralConfig(
            vocab_size=VOCAB,
            hidden_size=144,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=6,
            head_dim=24,
            max_position_embeddings=2048,
            num_local_experts=32,
            num_experts_per_tok=4,
            sliding_window=None,
            tie_word_embeddings=True,
            **special,
        )
        config._experts_implementation = "grouped_mm"
        return MixtralForCausalLM(config)
    model = SwitchTransformersForConditionalGeneration(
        SwitchTransformersConfig(
            vocab_size=VOCAB,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_heads=4,
            num_layers=2,
            num_sparse_encoder_layers=1,
            num_decoder_layers=4,
            num_sparse_decoder_layers=2,
            num_experts=8,
            expert_capacity=4096,  # no token is ever dropped at this model's lengths
            router_jitter_noise=0.0,
            dropout_rate=0.0,
            decoder_start_token_id=PAD,
            tie_word_embeddings=True,
            **special,
        )
    )
    # The embedding is also the output matrix, behind a factor 1/sqrt(d_model): deviation 1 learns too slowly.
    nn.init.normal_(model.shared.weight, std=0.02 * model.config.d_model**0.5)
    return model


def train_tokenizer(texts: list[str], name: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of ``VOCAB`` entries: decoder-only models get <bos> in front, encoders <eos> behind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    template = "$A <eos>" if name == "tiny-switch" else "<bos> $A"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="right" if name == "tiny-switch" else "left",
        clean_up_tokenization_spaces=False,
    )


class LoadBalance:
    """Collects, while open, the Switch load-balancing loss of every router: E * sum_e share_e * probability_e."""

    def __init__(self, model: nn.Module) -> None:
        self.losses: list[Tensor] = []
        self.load: dict[str, Tensor] = {}
        for path, module in model.named_modules():
            if isinstance(module, DeepseekV2TopkRouter | MixtralTopKRouter | SwitchTransformersTop1Router):
                module.register_forward_hook(self._hook(path))

    def _hook(self, path: str) -> Any:
        def hook(module: nn.Module, _: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
            if not isinstance(module, SwitchTransformersTop1Router):
                logits, _, indices = output
                ran = one_hot(indices, logits.shape[-1]).sum(-2)
            else:
                ran, _, logits = output
            share = ran.flatten(0, -2).float().mean(0)
            self.load[path] = self.load.get(path, 0) + ran.flatten(0, -2).sum(0)
            probability = logits.float().softmax(-1).flatten(0, -2).mean(0)
            self.losses.append(logits.shape[-1] * (share / share.sum() * probability).sum())

        return hook

    def pop(self) -> Tensor:
        total = torch.stack(self.losses).mean()
        self.losses.clear()
        return total


def batches(streams: list[Tensor], recipe: Recipe) -> Iterator[Tensor]:
    """Random windows [batch, 1 + context + target]; small files are drawn a little more often than their size."""
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = torch.tensor([len(s) ** 0.8 for s in streams])
    width = recipe.context + recipe.target
    for _ in range(recipe.steps):
        rows = []
        for f in torch.multinomial(weights, recipe.batch, replacement=True, generator=generator).tolist():
            start = int(torch.randint(len(streams[f]) - width, (1,), generator=generator))
            rows.append(streams[f][start : start + width])
        yield torch.stack(rows)


def token_losses(model: PreTrainedModel, window: Tensor, context: int) -> Tensor:
    """Loss of each predicted token [B, target] in nats; an encoder reads the first ``context`` tokens and <eos>."""
    if context:
        source = torch.cat([window[:, :context], torch.full_like(window[:, :1], EOS)], 1)
        labels = window[:, context:]
        decoder = torch.cat([torch.full_like(labels[:, :1], PAD), labels[:, :-1]], 1)
        logits = model(input_ids=source, decoder_input_ids=decoder, use_cache=False).logits
    else:
        labels = window
        inputs = torch.cat([torch.full_like(labels[:, :1], BOS), labels[:, :-1]], 1)
        logits = model(input_ids=inputs, use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view_as(labels)


@torch.no_grad()
def bits_per_byte(model: PreTrainedModel, stream: Tensor, tail_tokens: int, tail_bytes: int, recipe: Recipe) -> float:
    """Bits per byte over the last ``tail_tokens`` of ``stream``; every token counts once, with half a window or more
    before it where the model is decoder-only and with the encoder's context where it has one."""
    span = recipe.target if recipe.context else recipe.target // 2
    before = recipe.context or recipe.target // 2
    total, first = 0.0, len(stream) - tail_tokens
    for start in range(first, len(stream), span):
        window = stream[start - before : start + span][None]
        losses = token_losses(model, window, recipe.context)
        total += float(losses[:, losses.shape[1] - (window.shape[1] - before) :].double().sum())
    return total / math.log(2) / tail_bytes


def parameter_groups(model: PreTrainedModel, recipe: Recipe) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors without; steps in proportion to what a matrix does.

    Switch folds attention's 1/sqrt(d_kv) into its query matrices (smaller steps) and divides its logits by
    sqrt(d_model) (larger steps of the shared embedding).
    """
    scale = {}
    if isinstance(model.config, SwitchTransformersConfig):
        scale = {"q.weight": model.config.d_kv**-0.5, "shared.weight": model.config.d_model**0.5}
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = next((f for end, f in scale.items() if name.endswith(end)), 1.0)
        groups.setdefault((parameter.dim() >= 2, factor), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay / factor if matrix else 0.0,  # AdamW multiplies it by the rate
            "lr": recipe.learning_rate * factor,
        }
        for (matrix, factor), parameters in groups.items()
    ]


def train(model: PreTrainedModel, streams: list[Tensor], recipe: Recipe) -> None:
    optimizer = torch.optim.AdamW(
        parameter_groups(model, recipe), lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / recipe.warmup, (recipe.steps - s) / (recipe.steps - recipe.warmup)),
    )
    balance, began, mean = LoadBalance(model), time.monotonic(), 0.0
    model.train()
    for step, window in enumerate(batches(streams, recipe), 1):
        loss = token_losses(model, window, recipe.context).mean()
        (loss + recipe.balance * balance.pop()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean += float(loss)
        if step % 50 == 0 or step == recipe.steps:
            seconds = time.monotonic() - began
            rate = step * recipe.batch * (recipe.context + recipe.target) / seconds
            print(f"step {step}/{recipe.steps} loss {mean / (step % 50 or 50):.3f} {rate:.0f} tokens/s", flush=True)
            mean = 0.0
    model.eval()


def evaluate(directory: Path, texts: dict[str, str], recipe: Recipe) -> dict[str, Any]:
    """Bits per byte on each held-out tail of the model as saved, and the share of experts that are in use."""
    auto = AutoModelForSeq2SeqLM if recipe.context else AutoModelForCausalLM
    model = auto.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    balance, result = LoadBalance(model), {}
    for name, text in texts.items():
        cut = int(len(text) * (1 - HELD_OUT))
        head = tokenizer(text[cut - 20_000 : cut], add_special_tokens=False)["input_ids"]
        tail = tokenizer(text[cut:], add_special_tokens=False)["input_ids"]
        size = len(text[cut:].encode())
        result[name] = round(bits_per_byte(model, torch.tensor(head + tail), len(tail), size, recipe), 4)
    used = {path: int((load > 0).sum()) for path, load in balance.load.items()}
    return {"bits_per_byte": result, "mean": round(sum(result.values()) / len(result), 4), "experts_in_use": used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with " + ", ".join(f"{n}.txt" for n in CORPUS)
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--steps", type=int, help="train for fewer steps (a trial run)")
    arguments = parser.parse_args()
    recipe = RECIPES[arguments.name]
    if arguments.steps:
        recipe = Recipe(**{**recipe.__dict__, "steps": arguments.steps})
    torch.set_flush_denormal(recipe.flush_denormals)
    register()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    texts = {n: (arguments.corpus / f"{n}.txt").read_text(encoding="utf-8") for n in CORPUS}
    heads = [t[: int(len(t) * (1 - HELD_OUT))] for t in texts.values()]
    tokenizer = train_tokenizer(heads, arguments.name)
    encode = tokenizer.backend_tokenizer.encode
    streams = [torch.tensor(encode(t, add_special_tokens=False).ids) for t in heads]
    model = build(arguments.name)
    size = sum(p.numel() for p in model.parameters())
    print(f"{arguments.name}: {size:,} parameters, {sum(map(len, streams)):,} training tokens", flush=True)
    train(model, streams, recipe)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    metrics = {"parameters": size, "recipe": recipe.__dict__, **evaluate(arguments.out, texts, recipe)}
    (arguments.out / "training.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
