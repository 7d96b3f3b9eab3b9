"""Chapter TRACE: texts that end with a letter, and texts that look like padding."""

from string import ascii_letters, digits
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_generations import configured, keyed

_LETTERS = f"{ascii_letters}{digits}+/"
_OPTIONS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [61, 62]}


def _tokenizer() -> Any:
    """A tokenizer whose tokens are the letters of ``_LETTERS``."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast

    letters = Tokenizer(WordLevel({letter: number for number, letter in enumerate(_LETTERS)}, unk_token="/"))
    letters.pre_tokenizer, letters.decoder = Split(Regex("."), "isolated"), Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=letters)


@check("OKR-TRACE-001")
def a_letter_ends_a_text(subject: Subject) -> None:
    """The first of two texts ends with it, and is padded to the length of the second."""
    from .. import system

    model, ids = system.softmax_model(), system.tokens(2, 4, seed=11)
    options = {**_OPTIONS, "eos_token_id": 61, "pad_token_id": 62}
    with keyed(model) as session, configured(model, pad_token_id=None, eos_token_id=None):
        texts = session.generate(ids, **options).sequences.tolist()
        place = next(place for place in range(4, 9) if texts[0][place] not in texts[1][4:])
        for where in ("arguments", "configuration"):
            word = [_LETTERS[texts[0][place]]]
            given: dict[str, Any] = {"stop_strings": word} if where == "arguments" else {}
            with (
                configured(model, stop_strings=None if given else word),
                system.served(f"a letter that ends texts, in the {where}"),
            ):
                made = session.generate(ids, tokenizer=_tokenizer(), **options, **given)
            end = texts[0].index(texts[0][place], 4) + 1
            for trace, expected in zip(made.traces, (texts[0][:end], texts[1]), strict=True):
                got = trace.token_ids.tolist()
                require(got == expected, f"a text that a letter ends, in the {where}", expected=expected, got=got)


@check("OKR-TRACE-001")
def a_text_that_looks_like_padding_keeps_its_prompt(subject: Subject) -> None:
    """A rule ends it after its first token, which is the padding token."""
    import torch
    from transformers import StoppingCriteriaList

    from .. import system

    model, ids = system.softmax_model(), system.tokens(1, 4, seed=11)
    rule = StoppingCriteriaList([lambda ids, scores, **rest: torch.tensor([True])])
    with keyed(model) as session, configured(model, pad_token_id=None, eos_token_id=None):
        first = int(session.generate(ids, **_OPTIONS).sequences[0, 4])
        given = {"attention_mask": torch.ones_like(ids), "stopping_criteria": rule}
        with system.served("a text that looks like padding"):
            made = session.generate(ids, eos_token_id=61, pad_token_id=first, **given, **_OPTIONS)
    trace, prompt = made.traces[0], ids[0].tolist()
    kept = trace.token_ids.tolist()[:4] == prompt and trace.prompt_length == 4
    require(kept, "the prompt of a text that looks like padding", expected=prompt, got=trace.token_ids)
