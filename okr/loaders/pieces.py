"""Says which part of a text each of its tokens is."""

import itertools
from collections.abc import Sequence
from typing import Any


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The part of the text that each token adds, one for each of ``token_ids``. Together they are the text that
    ``tokenizer`` decodes the tokens to, without special tokens.

    A character that several tokens share belongs to the last of them. A special token has an empty part.
    """
    if not len(token_ids):
        return []
    whole = str(tokenizer.decode(token_ids, skip_special_tokens=True))
    ends = [0]
    for count in range(1, len(token_ids)):
        decoded = str(tokenizer.decode(token_ids[:count], skip_special_tokens=True))
        ends.append(_agreed(decoded, whole, ends[-1]))
    ends.append(len(whole))
    return [whole[start:end] for start, end in itertools.pairwise(ends)]


def _agreed(text: str, whole: str, known: int) -> int:
    """How many leading characters ``text`` and ``whole`` share, of which ``known`` are known already."""
    end = known
    while end < min(len(text), len(whole)) and text[end] == whole[end]:
        end += 1
    return end
