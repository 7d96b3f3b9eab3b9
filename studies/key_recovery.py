"""What an attacker can learn or break: figures of docs/threat-model.md.

    python studies/key_recovery.py recovery   # the key's choice, learnt from traces by least squares
    python studies/key_recovery.py changes    # traces replayed on a model that was changed since

Each prints a Markdown table; ``--out FILE`` writes it too. On the embedded tiny-deepseek-moe, under the settings quiet
and loud. Seeds are fixed.
"""

import argparse
import copy
import dataclasses
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from common import tell_table, worked
from torch import Tensor, nn

import okr
from okr.detection import SiteEvidence, gather_evidence
from okr.loaders import Loaded, passages
from okr.routing import NAMED, Setting, key_scores, select

MODEL = "tiny-deepseek-moe"
TOKENS = (250, 1_000, 4_000, 16_000, 32_000)
RIDGE = 1e-2


def key(name: str) -> okr.Key:
    """A key to measure with, no secret: anyone can derive it."""
    return okr.Key.public(f"threats {name}")


def options_of(setting: Setting) -> dict[str, Any]:
    """The setting as okr.watermark takes it."""
    return {"epsilon": setting.epsilon, "zone": setting.zone, "strength": setting.strength}


def keyed_evidence(loaded: Loaded, texts: list[str], made_under: okr.Key, setting: Setting) -> list[list[SiteEvidence]]:
    """What the traces of these texts show, site by site: [text][site]."""
    found = []
    for text in texts:
        ids = loaded.tokenizer(text, return_tensors="pt")["input_ids"][:, :256]
        with okr.watermark(loaded.model, made_under, **options_of(setting)) as watermark:
            trace = watermark.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=False
            ).traces[0]
        found.append(gather_evidence(okr.prepare(loaded.model), trace, setting, skip_prompt=False))
    return found


def learn(choice: Tensor, hidden: Tensor, experts: Tensor, strength: float) -> Tensor:
    """The attacker's projection [d, E]: ridge regression of what the key changed on the normalised state.

    What the key changed: whether an expert ran, less the probability with which it runs under a random key, taken as a
    logistic function of its distance from the cut (the choice scores are known to whoever has the model).
    """
    ran = torch.zeros_like(choice).scatter_(1, experts, 1.0)
    cut = choice.topk(experts.shape[1] + 1, dim=1).values[:, -2:].mean(1, keepdim=True)
    target = ran - torch.sigmoid(1.7 * (choice - cut) / (strength * math.sqrt(2)))
    unit = hidden / hidden.norm(dim=1, keepdim=True)
    gram = unit.T @ unit + RIDGE * torch.eye(unit.shape[1])
    return torch.linalg.solve(gram, unit.T @ target)


def hit_rate(test: list[list[SiteEvidence]], projections: list[Tensor], setting: Setting) -> float:
    """Hits over free slots under these projections, scaled as a key's are (entries of mean square 1)."""
    hits = free = 0.0
    for text in test:
        for site, projection in zip(text, projections, strict=True):
            scores = key_scores(site.hidden, projection / projection.square().mean().sqrt())
            found = select(site.choice, scores, top_k=site.site.top_k, **options_of(setting))
            hits += float((site.experts[:, :, None] == found.indices[:, None]).any(-1).sum())
            free += float(site.free.sum())
    return hits / free


class Recovery:
    """Traces under one key, of the owner to test with and of the attacker to learn from."""

    def __init__(self, loaded: Loaded, setting: Setting) -> None:
        self.setting = setting
        texts = [passage.text for passage in passages(200)]
        owner = key("owner")
        self.test = keyed_evidence(loaded, texts[180:], owner, setting)
        train = keyed_evidence(loaded, texts[:180], owner, setting)
        self.own = self.real(owner)
        self.pooled = [
            [torch.cat([getattr(text[index], part) for text in train]) for part in ("choice", "hidden", "experts")]
            for index in range(len(self.own))
        ]

    def real(self, of: okr.Key) -> list[Tensor]:
        """A key's own projections, site by site."""
        sites = [evidence.site for evidence in self.test[0]]
        return [
            torch.from_numpy(
                of.projection(stack=s.stack, layer=s.layer, hidden_size=s.hidden_size, num_experts=s.num_experts)
            ).float()
            for s in sites
        ]

    def known(self, label: str, of: okr.Key, bits: str) -> str:
        """The line of a key that nobody had to learn."""
        return f"| {label} | {hit_rate(self.test, self.real(of), self.setting):.3f} | | {bits} |"

    def learnt(self, most: int | None) -> str:
        """The line of the projection that ``most`` tokens teach, or all tokens there are."""
        available = min(len(parts[0]) for parts in self.pooled)
        tokens = available if most is None else min(most, available)
        learnt = [learn(*(part[:tokens] for part in parts), self.setting.strength) for parts in self.pooled]
        signs = [torch.where(projection >= 0, 1.0, -1.0) for projection in learnt]
        right = torch.cat([(sign == true).float().flatten() for sign, true in zip(signs, self.own, strict=True)]).mean()
        rates = " | ".join(f"{hit_rate(self.test, found, self.setting):.3f}" for found in (learnt, signs))
        return f"| {tokens:,} | {rates} | {float(right):.1%} |"


def recovery(loaded: Loaded, setting: Setting) -> dict[str, Callable[[], str]]:
    """What makes each line: hit rates of the learnt projection on traces it has not seen, by tokens seen, as it is and
    rounded to +1/-1; the share of the key's bits that rounding gets right; another key and the key itself beside it."""
    traces = cache(partial(Recovery, loaded, setting))
    return {
        "stranger": lambda: traces().known("none: another key", key("stranger"), "50.0%"),
        **{f"{tokens} tokens": lambda tokens=tokens: traces().learnt(tokens) for tokens in TOKENS},
        "all tokens": lambda: traces().learnt(None),
        "owner": lambda: traces().known("the key itself", key("owner"), "100%"),
    }


def made(loaded: Loaded, setting: Setting) -> list[okr.Trace]:
    """12 traces of 64 new tokens, without the weights' digest: with it, verification would refuse a changed model."""
    prompts = [loaded.tokenizer(p.text)["input_ids"][:16] for p in passages(12)]
    inputs = torch.tensor(prompts)
    torch.manual_seed(0)
    sampling = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": 64, "min_new_tokens": 64}
    with okr.watermark(loaded.model, key("owner"), **options_of(setting)) as watermark:
        traces = watermark.generate(input_ids=inputs, attention_mask=torch.ones_like(inputs), **sampling).traces
    return [
        dataclasses.replace(
            trace,
            header=trace.header.model_copy(
                update={"model": trace.header.model.model_copy(update={"routers": None, "weights": None})}
            ),
        )
        for trace in traces
    ]


def changes(loaded: Loaded, setting: Setting) -> dict[str, Callable[[], str]]:
    """What makes each line: hit rate and p-values of traces, replayed on a changed copy of the model of the traces."""
    traces = cache(partial(made, loaded, setting))

    def line(name: str) -> str:
        model = copy.deepcopy(loaded.model)
        CHANGES[name](model, loaded)
        verdicts = [okr.verify(model, trace, key("owner")) for trace in traces()]
        hits = sum((v.hit_rate or 0) * v.free_slots for v in verdicts) / sum(v.free_slots for v in verdicts)
        chance = sum((v.chance_rate or 0) * v.free_slots for v in verdicts) / sum(v.free_slots for v in verdicts)
        found = sum(v.watermarked for v in verdicts)
        return f"| {name} | {hits:.3f} | {chance:.3f} | {found} of {len(verdicts)} |"

    return {name: partial(line, name) for name in CHANGES}


@torch.no_grad()
def rounded(model: nn.Module, bits: int) -> None:
    """Every matrix rounded to ``bits`` bits, one scale an output row, as weight-only quantisation does."""
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            top = 2 ** (bits - 1) - 1
            scale = parameter.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
            parameter.copy_((parameter / scale).round().clamp(-top, top) * scale)


@torch.no_grad()
def noisy(model: nn.Module, share: float) -> None:
    """Gaussian noise of ``share`` of each matrix's own deviation."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.add_(torch.randn_like(parameter) * parameter.std() * share)


def tuned(model: nn.Module, loaded: Loaded, steps: int) -> None:
    """``steps`` steps of AdamW at 1e-4 on shipped passages."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model.train()
    texts = [passage.text for passage in passages(200)][12:]
    for step in range(steps):
        rows = [loaded.tokenizer(texts[(4 * step + i) % len(texts)])["input_ids"][:200] for i in range(4)]
        ids = torch.tensor([row for row in rows if len(row) == 200])
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


CHANGES: dict[str, Callable[[nn.Module, Loaded], None]] = {
    "not changed": lambda model, loaded: None,
    "in bfloat16": lambda model, loaded: model.to(torch.bfloat16),
    "rounded to 8 bits": lambda model, loaded: rounded(model, 8),
    "rounded to 4 bits": lambda model, loaded: rounded(model, 4),
    "noisy, 1% of each matrix": lambda model, loaded: noisy(model, 0.01),
    "noisy, 10%": lambda model, loaded: noisy(model, 0.1),
    "fine-tuned, 20 steps": lambda model, loaded: tuned(model, loaded, 20),
    "fine-tuned, 100 steps": lambda model, loaded: tuned(model, loaded, 100),
}


PARTS = {
    "recovery": (
        recovery,
        "| tokens of traces seen | hit rate on other traces | rounded to +1/-1 | bits of the key right |",
    ),
    "changes": (changes, "| the model was | hit rate | chance | traces with p <= 0.001 |"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=PARTS)
    parser.add_argument("--setting", choices=NAMED, default="quiet")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, head = PARTS[arguments.what]
    lines = part(okr.load(MODEL), NAMED[arguments.setting])
    tasks = {f"{arguments.what}/{name}": lambda line=line: {"line": line()} for name, line in lines.items()}
    done = worked(arguments.out, {"model": MODEL, "what": arguments.what, "setting": arguments.setting}, tasks)
    if done is None:
        return
    distinct = dict.fromkeys(result["line"] for result in done.results.values())  # no more tokens than there are
    tell_table([head, "| --- | --- | --- | --- |", *distinct], arguments.out)


if __name__ == "__main__":
    main()
