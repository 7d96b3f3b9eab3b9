"""Changes to a model that carries the watermark: made in place on a copy, the key staying in it.

The attacker is whoever runs a stolen model with its keyed routers and changes its weights. Texts and traces made by the
changed model are tested with the owner's unchanged one.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from okr.discovery import keyable_sites
from okr.jobs.tasks import NotAvailable
from okr.loaders import Loaded, passages

Change = Callable[[Loaded, float], None]


@torch.no_grad()
def rounded(loaded: Loaded, bits: float) -> None:
    """Every matrix rounded to ``bits`` bits and back, one scale an output row, as weight-only quantisation does."""
    top = 2 ** (int(bits) - 1) - 1
    for parameter in _matrices(loaded.model):
        scale = parameter.abs().amax(-1, keepdim=True).clamp_min(1e-12) / top
        parameter.copy_((parameter / scale).round().clamp(-top, top) * scale)


@torch.no_grad()
def noisy(loaded: Loaded, share: float) -> None:
    """Gaussian noise of ``share`` of each matrix's own deviation."""
    generator = torch.Generator().manual_seed(0)
    for parameter in _matrices(loaded.model):
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
        parameter.add_(noise * parameter.std() * share)


def tuned(loaded: Loaded, steps: float) -> None:
    """``steps`` steps of AdamW at 1e-4 on shipped passages, four rows of 200 tokens each."""
    model = loaded.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    texts = [passage.text for passage in passages()][12:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train()
        for step in range(int(steps)):
            chosen = [texts[(4 * step + row) % len(texts)] for row in range(4)]
            _training_loss(loaded, chosen).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def _training_loss(loaded: Loaded, texts: list[str]) -> Tensor:
    """The model's own loss on a batch; an encoder-decoder reads the first half and predicts the second."""
    rows = [loaded.tokenizer(text)["input_ids"][:200] for text in texts]
    shortest = min(len(row) for row in rows)
    ids = torch.tensor([row[:shortest] for row in rows], device=loaded.model.device)
    if loaded.model.config.is_encoder_decoder:
        half = shortest // 2
        loss: Tensor = loaded.model(input_ids=ids[:, :half], labels=ids[:, half:].contiguous()).loss
    else:
        loss = loaded.model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


@torch.no_grad()
def pruned(loaded: Loaded, share: float) -> None:
    """``share`` of the experts of every router emptied: they add nothing where they run. NotAvailable where they are
    laid out in no known way."""
    generator = torch.Generator().manual_seed(0)
    for site in keyable_sites(loaded.model):
        gone = torch.randperm(site.num_experts, generator=generator)[: round(share * site.num_experts)].tolist()
        block = loaded.model.get_submodule(site.path.rpartition(".")[0])
        stacked = [part for part in block.parameters() if part.dim() == 3 and len(part) == site.num_experts]
        listed = [
            list(module.children()) for module in block.modules() if len(list(module.children())) == site.num_experts
        ]
        for part in stacked:
            part[gone] = 0
        for experts in listed:
            for place in gone:
                for part in experts[place].parameters():
                    part.zero_()
        if not stacked and not listed:
            raise NotAvailable(f"{site.path}: its experts are stored in a way that cannot be pruned here")


@torch.no_grad()
def replaced(loaded: Loaded, share: float) -> None:
    """Every router's weights drawn anew, with the deviation they had."""
    generator = torch.Generator().manual_seed(0)
    for weight in _routers(loaded.model):
        fresh = torch.randn(weight.shape, generator=generator).to(weight.device, weight.dtype)
        weight.copy_(fresh * weight.std())


CHANGES: dict[str, tuple[Change, tuple[float, ...], tuple[float, ...], str]] = {
    # the change, all strengths, those of --quick, the unit of a strength
    "fine-tuned": (tuned, (20, 100), (10,), "steps"),
    "weight noise": (noisy, (0.01, 0.1), (0.1,), "deviations"),
    "rounded": (rounded, (8, 4), (8,), "bits"),
    "experts pruned": (pruned, (0.1, 0.5), (0.25,), "of the experts"),
    "router replaced": (replaced, (1.0,), (1.0,), ""),
}


def _matrices(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.dim() >= 2 and parameter.is_floating_point()]


def _routers(model: nn.Module) -> list[Tensor]:
    """Every keyable router's weight [experts, hidden size]."""
    return [
        next(part for part in model.get_submodule(site.path).parameters() if len(part) == site.num_experts).data
        for site in keyable_sites(model)
    ]
