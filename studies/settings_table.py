"""What zones, epsilons and strengths cost and show on an embedded model.

    python studies/settings_table.py tiny-deepseek-moe
    python studies/settings_table.py tiny-switch

Prints a Markdown table: added held-out loss over shipped passages with a 95% interval over passages (mean of three
keys), the share of routed tokens that are opportunities, and how four samples of 32 new tokens verify by their traces.
``--out FILE`` writes it too.
"""

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import tell_table, worked

import okr
from okr.experiment.config import resolve
from okr.experiment.held_out_loss import losses
from okr.experiment.presets import named_for
from okr.experiment.sampling import Subject
from okr.intervals import mean
from okr.loaders import passages

INF = math.inf


def named(model: str) -> list[tuple[str, float, float]]:
    """The zone, epsilon and strength of the model's named settings, from the weakest."""
    found = {(setting.zone, setting.epsilon, setting.strength) for setting in named_for(model).values()}
    return sorted(found, key=lambda values: values[2])


SETTINGS = {
    "tiny-deepseek-moe": [
        ("max", 1.0, INF),
        ("max", 2.0, INF),
        ("boundary", 0.5, INF),
        ("boundary", 1.0, INF),
        ("boundary", INF, 0.05),
        ("boundary", INF, 0.5),
        ("boundary", INF, 1.5),
        *named("tiny-deepseek-moe"),
    ],
    "tiny-switch": [
        ("max", 1.0, INF),
        ("max", 2.0, INF),
        ("boundary", INF, 2.0),
        ("boundary", INF, 8.0),
        *named("tiny-switch"),
    ],
}
PASSAGES, KEYS = 40, 3


def cost(loaded: okr.Loaded, keys: list[okr.Key], setting: dict) -> str:
    config = resolve("tiny", setting | {"quality_passages": PASSAGES}).config
    subjects = [Subject(loaded, key, config) for key in keys]
    (native,), keyed = (
        [[loss for loss, _ in losses(subject, group, lambda steps: None)] for subject in asked]
        for group, asked in (("control", subjects[:1]), ("watermarked", subjects))
    )
    value, _, high = mean(np.mean(keyed, axis=0) - native)
    return f"{value:.4f} ± {high - value:.4f}"


def shown(loaded: okr.Loaded, key: okr.Key, setting: dict) -> tuple[str, str, str]:
    prompts = [" ".join(passage.text.split()[:40]) for passage in passages(4)]
    inputs = loaded.tokenizer(prompts, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    with okr.watermark(loaded.model, key, **setting) as wm:
        made = wm.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=32,
            min_new_tokens=32,
            do_sample=True,
        )
    verdicts = [okr.verify(loaded.model, trace, key) for trace in made.traces]
    rate = sum(v.opportunities for v in verdicts) / sum(v.routed for v in verdicts)
    return f"{rate:.0%}", f"{max(v.p_value for v in verdicts):.1g}", f"{np.mean([v.z for v in verdicts]):.1f}"


def row(loaded: okr.Loaded, keys: list[okr.Key], zone: str, epsilon: float, strength: float) -> dict[str, str]:
    """One line of the table."""
    setting = {"zone": zone, "epsilon": epsilon, "strength": strength}
    rate, p, z = shown(loaded, keys[0], setting)
    cells = (zone, f"{epsilon:g}", f"{strength:g}", cost(loaded, keys, setting), rate, p, z)
    return {"line": f"| {' | '.join(cells)} |"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=SETTINGS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    name = arguments.model
    loaded = okr.load(name)
    keys = [okr.Key.from_passphrase(f"measuring settings {i}") for i in range(KEYS)]
    tasks = {
        f"settings/{zone} {epsilon:g} {strength:g}": partial(row, loaded, keys, zone, epsilon, strength)
        for zone, epsilon, strength in sorted(SETTINGS[name], key=lambda values: values[2] if values[1] == INF else 0.0)
    }
    done = worked(arguments.out, {"model": name, "passages": PASSAGES, "keys": KEYS}, tasks)
    if done is None:
        return
    table = [
        "| zone | epsilon | strength | cost, nats per token | opportunities | largest p of 4 | mean z |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(result["line"] for result in done.results.values()),
    ]
    tell_table(table, arguments.out)


if __name__ == "__main__":
    main()
