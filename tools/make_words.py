"""The vocabulary of the texts that the embedded models were trained on, and how much of what they write is in it.

    python tools/make_words.py --corpus DIR --out tests/unit/loaders/words.txt.gz

Writes every word of the five texts, lower case, sorted, one a line; prints for each embedded model the share of words
that it generates which are among them. A word is letters with apostrophes inside; the first and last of a sample may be
cut, so they do not count.
"""

import argparse
import gzip
import re
from pathlib import Path

import torch

import okr
from okr.experiment.config import resolve
from okr.loaders import passages
from okr.loaders.prompts import encode, sampling

TEXTS = ("austen", "moby_dick", "shakespeare", "sotu", "web_bible")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
PRESETS = ("tiny", "tiny-switch")
PROMPTS, TOKENS = 24, 80


def written(preset: str) -> list[str]:
    """The words of ``PROMPTS`` samples that a preset's model writes without a key, at the preset's temperature."""
    resolved = resolve(preset, {"max_length": TOKENS}, environment={})
    loaded = okr.load(resolved.config.model)
    prompts = [" ".join(passage.text.split()[:40]) for passage in passages(PROMPTS)]
    torch.manual_seed(0)
    sequences = loaded.model.generate(
        **encode(loaded, prompts, TOKENS), **sampling(loaded, TOKENS, resolved.config.temperature)
    )
    texts = loaded.tokenizer.batch_decode(sequences[:, -TOKENS:], skip_special_tokens=True)
    return [word.lower() for text in texts for word in WORD.findall(text)[1:-1]]


def share(words: list[str], known: set[str]) -> float:
    """The share of ``words`` that are known."""
    return sum(word in known for word in words) / len(words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    texts = [(arguments.corpus / f"{name}.txt").read_text(encoding="utf-8") for name in TEXTS]
    known = {word.lower() for text in texts for word in WORD.findall(text)}
    arguments.out.write_bytes(gzip.compress("\n".join(sorted(known)).encode(), mtime=0))
    print(f"{len(known):,} words")
    for preset in PRESETS:
        words = written(preset)
        print(f"{preset}: {share(words, known):.1%} of {len(words):,} generated words")


if __name__ == "__main__":
    main()
