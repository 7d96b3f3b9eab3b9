"""How models are called: any module that maps token ids to logits, whatever its arguments are called."""

from types import SimpleNamespace

import pytest
import torch
from small_models import random_deepseek
from torch import nn

import okr
from okr import InvalidTrace
from okr.engines.transformers.calling import arguments_for, logits_of

SETTING = {"epsilon": 1.0, "zone": "boundary"}
TOKENS = torch.arange(3, 23)[None]


def _with(forward):
    return type("Model", (nn.Module,), {"forward": forward})()


@pytest.mark.parametrize(
    ("forward", "given"),
    [
        (lambda self, ids: None, {"ids"}),
        (lambda self, ids, use_cache=True: None, {"ids", "use_cache"}),
        (lambda self, ids, **others: None, {"ids", "use_cache"}),
        (lambda self, mask=None, input_ids=None: None, {"input_ids"}),
        (lambda self, *, input_ids: None, {"input_ids"}),
        (lambda self, *args, **others: None, {"input_ids", "use_cache"}),
    ],
)
def test_tokens_are_input_ids_or_the_first_argument(forward, given):
    model = _with(forward)
    arguments = arguments_for(model, TOKENS, use_cache=False)
    assert set(arguments) == given
    assert next(value for name, value in arguments.items() if name != "use_cache") is TOKENS
    model(**arguments)


def test_logits_are_found_in_any_output():
    logits = torch.rand(1, 2, 3)
    for output in (logits, (logits, TOKENS), [logits], SimpleNamespace(logits=logits, loss=TOKENS)):
        assert logits_of(output) is logits


class Scaled(nn.Module):
    """A module of nobody's library, with rotary embeddings that lengths scale."""

    def __init__(self):
        super().__init__()
        rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
        inner = random_deepseek(max_position_embeddings=12, rope_parameters=rope)
        self.inner, self.kept = inner, None

    def forward(self, ids):
        return self.inner(input_ids=ids, use_cache=False).logits


class Stateful(Scaled):
    """Goes on where it ended, by a cache that only it knows."""

    def forward(self, ids):
        output = self.inner(input_ids=ids, use_cache=True, past_key_values=self.kept)
        self.kept = output.past_key_values
        return output.logits


def _recorded(model, key, *lengths):
    with okr.watermark(model, key, **SETTING) as wm, torch.no_grad():
        with wm.recording() as recording:
            for ids in TOKENS.split(lengths, 1):
                model(ids)
        return recording.traces(TOKENS)[0]


def test_a_plain_module_with_scaled_positions_is_verified(key):
    model = Scaled().eval()
    trace = _recorded(model, key, 20)
    assert trace.passes.tolist() == [[1, 19, 20]]
    assert okr.verify(model, trace, key, decoys=99, alpha=0.05).hit_rate == 1.0


def test_passes_of_a_model_that_takes_no_cache_are_refused(key):
    model = Stateful().eval()
    trace = _recorded(model, key, 15, 5)
    model.kept = None
    with pytest.raises(InvalidTrace, match="returns none to replay it with"):
        okr.verify(model, trace, key)
