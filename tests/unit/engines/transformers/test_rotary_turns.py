"""Scaled positions where the caller runs the model: loops of one's own, padding, a cache given back, other settings."""

import copy

import pytest
import torch
import transformers

import okr
from okr import InvalidTrace, UnsupportedGeneration
from okr.engines.transformers.calling import positions
from okr.traces import unfolded
from tests.unit.engines.transformers.test_rotary_scaling import (
    DYNAMIC,
    FAMILIES,
    KEY,
    LONGROPE,
    ORIGINAL,
    SIZE,
    SOME,
    OwnRotary,
    build,
    generate,
    prompts,
    rates,
)


def looped(model, lengths, *, padding=0, counted=True, steps=26):
    """Traces of a decode loop of one's own over prompts of ``lengths``, ``padding`` in front of the longest.

    ``counted``: positions are counted from the mask; else it is left to the model, which counts padding, too.
    """
    given = {name: torch.nn.functional.pad(part, (padding, 0)) for name, part in prompts(*lengths).items()}
    sequences, mask = given["input_ids"], given["attention_mask"]
    with okr.watermark(model, KEY, epsilon=float("inf"), zone="boundary", strength=1.0) as wm, torch.no_grad():
        with wm.recording() as recording:
            shown, cache = sequences, None
            for _ in range(steps):
                where = (mask.cumsum(-1) - 1).clamp(min=0)[:, -shown.shape[1] :]
                places = {"position_ids": where} if counted else {}
                output = model(input_ids=shown, attention_mask=mask, past_key_values=cache, use_cache=True, **places)
                cache, shown = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
                sequences, mask = torch.cat([sequences, shown], 1), torch.cat([mask, torch.ones_like(shown)], 1)
        return recording.traces(sequences, prompt_length=given["input_ids"].shape[1], attention_mask=mask)


@pytest.mark.parametrize(("family", "kind"), SOME)
@pytest.mark.parametrize(("lengths", "padding"), [([9], 7), ([4, 12], 0), ([9, 5], 7)])
def test_a_loop_that_counts_positions_without_padding_is_replayed(family, kind, lengths, padding):
    model = build(family, kind)
    assert rates(model, looped(copy.deepcopy(model), lengths, padding=padding)) == [1.0] * len(lengths)


@pytest.mark.parametrize(("family", "kind"), SOME)
@pytest.mark.parametrize(("lengths", "padding"), [([9], 7), ([4, 12], 0), ([9, 5], 7)])
def test_a_loop_whose_padding_has_positions_is_refused_where_the_scaling_changed(family, kind, lengths, padding):
    """Its states follow from where each sequence begins; replayed from position 0 the hit rate was 0.77 to 0.98."""
    with pytest.raises(UnsupportedGeneration, match="positions count the padding"):
        looped(build(family, kind), lengths, padding=padding, counted=False)


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_positions_may_count_the_padding_where_the_scaling_stays(family, kind):
    """Only distances count then: below the original length, and without padding."""
    model = build(family, kind)
    for lengths, padding, steps in (([9], 7, 8), ([4, 12], 0, 12), ([9], 0, 26)):
        traces = looped(copy.deepcopy(model), lengths, padding=padding, counted=False, steps=steps)
        assert rates(model, traces) == [1.0] * len(lengths)


def test_what_a_loop_reached_counts_its_padding():
    """Nine tokens behind seven of padding, seen at once: longrope begins to scale eight tokens on, not fifteen."""
    model = build("Mixtral", "longrope")
    (trace,) = looped(model, [9], padding=16, counted=False)
    assert unfolded(trace.passes) == [(9, 25), *((1, length) for length in range(26, 51))]
    assert rates(model, [trace]) == [1.0]


def test_a_given_cache_that_the_model_drops_at_once_is_recorded_whole():
    """Phi-3.5-MoE drops a cache of the short scaling where the new input reaches beyond it, and sees everything."""
    model = build("Phimoe", "longrope")
    used, ids = copy.deepcopy(model), prompts(30)["input_ids"]
    with torch.no_grad():
        cache = used(input_ids=ids[:, :20], use_cache=True).past_key_values
    (trace,) = generate(used, {"input_ids": ids}, past_key_values=cache, max_new_tokens=12).traces
    assert (trace.experts >= 0).all()
    assert unfolded(trace.passes) == [(30, 30), *((1, length) for length in range(31, 42))]
    assert rates(model, [trace]) == [1.0]


def test_a_model_that_saw_as_many_tokens_makes_the_trace_of_a_fresh_one():
    """A pass of no tokens at the length of the prompt would say nothing."""
    model = build("Mixtral", "dynamic")
    used, inputs = copy.deepcopy(model), prompts(30)
    with torch.no_grad():
        used(**inputs)
    (fresh,), (again,) = (generate(each, inputs, do_sample=False, max_new_tokens=3).traces for each in (model, used))
    assert again.digest() == fresh.digest()


class NotingRotary(OwnRotary):
    """It notes in a private attribute how far it has seen, as those do that keep tables of cosines."""

    _seen = 0

    def forward(self, x, position_ids):
        self._seen = max(self._seen, int(position_ids.max()) + 1)
        return super().forward(x, position_ids)


def test_a_replay_restores_private_attributes():
    model = build("Mixtral", "dynamic")
    model.model.rotary_emb = NotingRotary()
    (trace,) = generate(copy.deepcopy(model), prompts(9)).traces
    assert rates(model, [trace]) == [1.0]
    assert "_seen" not in vars(model.model.rotary_emb)
    model(**prompts(5))
    assert rates(model, [trace]) == [1.0]
    assert model.model.rotary_emb._seen == 5


class ThirdRotary(OwnRotary):
    """Its positions are the third argument, as where queries and keys come first."""

    def forward(self, x, key, position_ids):
        return super().forward(x + 0 * key, position_ids)


class Shown(torch.nn.Module):
    """Calls a rotary embedding with positions third."""

    def __init__(self):
        super().__init__()
        self.inner = ThirdRotary()

    def forward(self, x, position_ids):
        return self.inner(x, x, position_ids)


def test_positions_may_be_any_argument():
    """The second one was taken for positions in a batch of texts of other lengths."""
    model = build("Mixtral", "dynamic")
    model.model.rotary_emb = Shown()
    assert rates(model, generate(model, prompts(9, 4)).traces) == [1.0] * 2
    with pytest.raises(UnsupportedGeneration, match="positions count the padding"):
        looped(model, [9], padding=7, counted=False)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_scaled_trace_is_not_judged_by_a_model_without_scaling(kind):
    """The same weights under other rope settings: hit rate 0.81 and 0.64, and no word of why."""
    model = build("Mixtral", kind)
    plain = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZE, **FAMILIES["Mixtral"])).eval()
    plain.load_state_dict(model.state_dict())
    (trace,) = generate(model, prompts(9)).traces
    with pytest.raises(InvalidTrace, match="rope settings"):
        okr.verify(plain, trace, KEY, decoys=19, alpha=0.05)


@pytest.mark.parametrize("nested", [False, True])
def test_texts_may_be_as_long_as_the_scaling_stretches(nested):
    """A text of 39 tokens did not fit the 24 positions of a model that dynamic NTK had generated it with."""
    model = build("Qwen3Moe", "dynamic")
    if nested:
        model.config.rope_parameters = {"full_attention": dict(DYNAMIC), "sliding_attention": {"rope_type": "default"}}
    assert positions(model) == 4 * ORIGINAL
    model.config.rope_parameters = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16}
    assert positions(model) == 128
    model.config.rope_parameters = dict(LONGROPE)
    assert positions(model) == 96
    model.config.rope_parameters = {"rope_type": "default"}
    assert positions(model) == ORIGINAL


@pytest.mark.parametrize(("family", "kind"), SOME)
def test_what_a_model_saw_before_changes_nothing_of_a_text(family, kind):
    model = build(family, kind)
    text = generate(copy.deepcopy(model), prompts(9), max_new_tokens=30).sequences[0]
    used = copy.deepcopy(model)
    with torch.no_grad():
        used(input_ids=torch.randint(3, 256, (1, 120)))
    given = {"epsilon": float("inf"), "zone": "boundary", "strength": 1.0, "decoys": 19}
    assert okr.detect(used, text, KEY, **given) == okr.detect(model, text, KEY, **given)
