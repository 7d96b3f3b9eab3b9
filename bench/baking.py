"""Whether a baked checkpoint runs as fast as its original: decoding of tiny-deepseek-moe in transformers.

    python bench/baking.py

One CPU thread; CPU time. Runs are paired and interleaved; the ratio is the median over pairs with its quartiles.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from timing import compared

import okr
from okr.baking import Checkpoint, bake, measure, texts_of
from okr.baking.models import checkpoint_folder
from okr.loaders import passages
from okr.pages.markdown import rows_table
from okr.routing.named import NAMED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    original, prompt = checkpoint_folder("tiny"), torch.arange(3, 27)[None]
    with tempfile.TemporaryDirectory() as scratch:
        folder, key = Path(scratch) / "baked", okr.Key.public("bench baked")
        unkeyed = okr.load(original)
        texts = texts_of(unkeyed, [passage.text for passage in passages(4)])
        gates = measure(okr.prepare(unkeyed.model), Checkpoint(original), "tiny-deepseek-moe", texts)
        bake(original, folder, key, gates, NAMED["quiet"].strength)
        models = [unkeyed.model, okr.load(folder).model]

        def decode(model: torch.nn.Module) -> None:
            with torch.no_grad():
                model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=48, min_new_tokens=48)

        found = compared(lambda: decode(models[0]), lambda: decode(models[1]), arguments.rounds)
    print(rows_table([{"what": "decoding 48 tokens, baked / original"} | found]))


if __name__ == "__main__":
    main()
