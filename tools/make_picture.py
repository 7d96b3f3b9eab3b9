"""Draws how it works, from the embedded model: what the key decides at one token, and what a trace shows.

python tools/make_picture.py docs/figures/okr.svg
"""

import math
import sys
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import okr
from okr.discovery import keyable_sites
from okr.engines.transformers.routings import Projector, choice_scores
from okr.loaders import passages
from okr.pages.svg import PAGE, drawing, standing_alone, svg
from okr.routing.selection import select

KEY = okr.Key.from_passphrase("the picture in the README")
SETTING = {"epsilon": 0.5, "zone": "boundary", "strength": math.inf}
TEXTS, TOKENS, SHOWN = 24, 64, 16
BLUE, ORANGE, PALE = "#1f77b4", "#ff7f0e", "#a8a8a8"


def one_token(loaded: okr.Loaded, axes: Axes) -> None:
    """The scores of a token's best experts, the zone, and who runs with and without the key."""
    site = keyable_sites(loaded.model)[-1]
    inputs = loaded.tokenizer(passages(200)[0].text, return_tensors="pt")["input_ids"][:, :48]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    router = loaded.model.get_submodule(site.path)
    handle = router.register_forward_hook(lambda _, args, output: seen.append((args[0].flatten(0, -2), output[0])))
    with torch.no_grad():
        loaded.model(input_ids=inputs)
    handle.remove()
    hidden, logits = seen[0]
    choice = choice_scores(site, logits.softmax(-1))
    found = select(choice, Projector(site, KEY)(hidden), top_k=site.top_k, **SETTING)
    changed = [set(row) for row in found.indices.tolist()]
    native = [set(row) for row in choice.topk(site.top_k).indices.tolist()]
    token = max(range(len(native)), key=lambda t: (len(changed[t] - native[t]) == 2) * int(found.pool[t].sum()))
    order = choice[token].argsort(descending=True)[:SHOWN].tolist()
    pool = [place for place, expert in enumerate(order) if found.pool[token, expert]]
    axes.axvspan(pool[0] - 0.5, pool[-1] + 0.5, color="#e0b000", alpha=0.2, zorder=0)
    axes.text((pool[0] + pool[-1]) / 2, 0.97, "zone: the key decides", ha="center", va="top", fontsize=9,
              transform=axes.get_xaxis_transform())  # fmt: skip
    low = float(choice[token, order[-1]]) - 0.3
    for place, expert in enumerate(order):
        height = float(choice[token, expert]) - low
        axes.bar(place, height, bottom=low, color=ORANGE if expert in changed[token] else PALE, width=0.8)
        if expert in native[token]:
            axes.bar(place, height, bottom=low, fill=False, edgecolor=BLUE, linewidth=2, width=0.8)
    legend = [
        Patch(color=ORANGE, label="runs under the key"),
        Patch(fill=False, edgecolor=BLUE, linewidth=2, label="would run without it"),
    ]
    axes.set_xticks(range(SHOWN), [str(expert) for expert in order], fontsize=8)
    axes.set(xlabel="expert, best first", ylabel="router score (log probability)", ylim=(low, None),
             title="One token, one router: experts near the cut trade places")  # fmt: skip
    axes.margins(y=0.12)
    axes.legend(handles=legend, fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.9))


def many_texts(loaded: okr.Loaded, axes: Axes) -> None:
    """Hit rates of texts written under the key and of others."""
    rows = [loaded.tokenizer(passage.text)["input_ids"][:16] for passage in passages(TEXTS)]
    inputs = torch.tensor(rows)
    sampling = {"do_sample": True, "top_k": 0, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    arguments = {"input_ids": inputs, "attention_mask": torch.ones_like(inputs), **sampling}
    rates = {}
    for name, session in (
        ("written under the key", okr.watermark(loaded.model, KEY, **SETTING)),
        ("written without it", okr.record(loaded.model)),
    ):
        torch.manual_seed(0)
        with session as open_session:
            traces = open_session.generate(**arguments).traces
        verdicts = [okr.verify(loaded.model, trace, KEY, decoys=99, alpha=0.05, **SETTING) for trace in traces]
        rates[name] = [verdict.hit_rate for verdict in verdicts]
    for (name, values), colour in zip(rates.items(), (ORANGE, BLUE), strict=True):
        axes.hist(values, bins=[i / 50 for i in range(51)], color=colour, label=name)
    axes.set(xlabel="hit rate: share of free slots that hold the key's expert", ylabel=f"texts of {TOKENS} new tokens",
             title="A trace shows it: the key's experts ran", xlim=(0.3, 1.02))  # fmt: skip
    axes.legend(fontsize=9, loc="upper center")


def main(target: Path) -> None:
    torch.set_num_threads(1)
    loaded = okr.load("tiny")
    with drawing(PAGE):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        one_token(loaded, left)
        many_texts(loaded, right)
        for axes in (left, right):
            axes.title.set_fontsize(11)
        target.write_text(standing_alone(svg(figure)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
