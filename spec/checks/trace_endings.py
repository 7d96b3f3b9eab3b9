"""Chapter TRACE: where the text of a generation ends."""

from ..subject import Subject
from ..verdicts import require
from . import check
from .trace_generations import configured, keyed


@check("OKR-TRACE-001")
def any_of_several_tokens_ends_a_text(subject: Subject) -> None:
    """Each text ends with the first of these tokens that it has, wherever they are named."""
    import torch

    from .. import system

    model = system.softmax_model()
    ids = system.tokens(2, 6, seed=11)
    options = {**system.SAMPLED, "max_new_tokens": 8}
    with keyed(model) as session:
        torch.manual_seed(3)
        texts = session.generate(ids, **options).sequences.tolist()
        ends = [texts[0][8], texts[1][6]]
        for where in ("arguments", "configuration"):
            given = {name: value for name, value in options.items() if name != "eos_token_id"}
            given |= {"eos_token_id": ends} if where == "arguments" else {}
            with configured(model, eos_token_id=ends if where == "configuration" else None):
                torch.manual_seed(3)
                with system.accepted("a list of tokens that end a text"):
                    made = session.generate(ids, **given)
            for text, trace in zip(made.sequences.tolist(), made.traces, strict=True):
                stop = next((place for place in range(6, len(text)) if text[place] in ends), len(text) - 1)
                expected = text[: stop + 1]
                require(trace.token_ids.tolist() == expected, f"ends named in {where}", expected=expected)


@check("OKR-TRACE-001")
def a_text_that_another_rule_ends_has_no_padding(subject: Subject) -> None:
    """The first of two texts ends before the second; the padding token is named for this call. A prompt may be a single
    token."""
    import torch
    from transformers import StoppingCriteriaList

    from .. import system

    model = system.softmax_model()
    ids = system.tokens(2, 1, seed=11)
    rule = StoppingCriteriaList([lambda ids, scores, **rest: torch.tensor([ids.shape[1] >= 4, False])])
    options = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [62, 63], "stopping_criteria": rule}
    none = configured(model, pad_token_id=None, eos_token_id=None)
    with keyed(model) as session, none, system.accepted("a rule that ends texts"):
        made = session.generate(ids, eos_token_id=62, pad_token_id=63, **options)
    for row, length in ((0, 4), (1, 7)):
        expected = made.sequences[row, :length].tolist()
        require(made.traces[row].token_ids.tolist() == expected, "token ids", expected=expected, got=made.traces[row])
