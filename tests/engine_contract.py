"""What every engine must do, whatever runs its model. Each function is a test of one engine."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import okr
from okr import InvalidTrace, Key
from okr.engines import Engine, Text
from okr.engines.choice import EVERY
from okr.routing import Setting

KEYS = [Key(bytes([number] * 32)) for number in range(1, 4)]
HARD = Setting(float("inf"), "boundary", 3.0)


@dataclass
class Case:
    """An engine, one with another model (None where a process can have one alone), and how a session generates."""

    engine: Engine
    other: Engine | None
    options: dict[str, Any]
    inputs: Any
    source: Any = None

    def traces(self, session: Any, seed: int = 0) -> list[okr.Trace]:
        torch.manual_seed(seed)
        options = self.options | ({"seed": seed} if "new_tokens" in self.options else {})
        return session.generate(self.inputs, **options).traces


def text_of(trace: okr.Trace) -> Text:
    source = None if trace.encoder_token_ids is None else torch.from_numpy(trace.encoder_token_ids).long()
    return Text(torch.from_numpy(trace.token_ids).long(), max(1, trace.prompt_length), source)


def is_one_and_stays_one(case):
    assert isinstance(case.engine, Engine)
    assert okr.prepare(case.engine) is case.engine
    assert case.engine.sites
    assert all(site.keyable for site in case.engine.sites)
    assert len({site.path for site in case.engine.sites}) == len(case.engine.sites)
    assert case.engine.identity().difference(case.engine.identity()) == ""
    assert case.other is None or case.engine.identity().difference(case.other.identity())


def a_key_decides_inside_its_block_alone(case):
    with case.engine.recorded() as session:
        before = case.traces(session)
    with okr.watermark(case.engine, KEYS[0], epsilon=float("inf"), zone="boundary", strength=3.0) as session:
        keyed = case.traces(session)
    with okr.record(case.engine) as session:
        after = case.traces(session)
    assert [trace.digest() for trace in before] == [trace.digest() for trace in after]
    assert [trace.digest() for trace in before] != [trace.digest() for trace in keyed]
    for trace, key_id in ((keyed[0], KEYS[0].id), (before[0], None)):
        header = trace.header
        assert header.key_id == key_id
        assert header.model == case.engine.identity()
        assert [site.path for site in header.sites] == [site.path for site in case.engine.sites]
        assert (header.epsilon, header.zone, header.strength) == (
            (float("inf"), "boundary", 3.0) if key_id else (None, None, None)
        )


def the_key_is_found_and_no_other(case):
    with case.engine.keyed(KEYS[1], HARD) as session:
        traces = case.traces(session)
    assert okr.verify(case.engine, traces, KEYS[1]).watermarked
    assert not okr.verify(case.engine, traces, KEYS[0]).watermarked
    assert okr.attribute(case.engine, traces, KEYS).key_id == KEYS[1].id
    assert okr.attribute(case.engine, traces, KEYS[::2]).key_id is None
    each = okr.verify_each(case.engine, traces, KEYS[1])
    assert [verdict.opportunities > 0 for verdict in each.each] == [True, True]
    texts = [text_of(trace) for trace in traces]
    given = {"prompt_length": [text.prompt_length for text in texts], "decoys": 99, "alpha": 0.02}
    given["source_ids"] = [text.source for text in texts] if case.engine.encoder_decoder else None
    ids = [text.tokens for text in texts]
    found = okr.detect(case.engine, ids, KEYS[1], epsilon=float("inf"), zone="boundary", strength=3.0, **given)
    other = okr.detect(case.engine, ids, KEYS[0], epsilon=float("inf"), zone="boundary", strength=3.0, **given)
    assert found.log_likelihood > other.log_likelihood
    assert other.p_value > 0.02


def a_replay_shows_every_site_once(case):
    with case.engine.recorded() as session:
        trace = case.traces(session)[0]
    seen = {}

    def observe(site, choice, hidden, experts):
        assert site.path not in seen
        seen[site.path] = True
        tokens = len(trace.encoder_token_ids) if site.stack.startswith("encoder") else len(trace.token_ids) - 1
        assert choice.shape == (tokens, site.num_experts)
        assert hidden.shape == (tokens, site.hidden_size)
        assert experts.shape == (tokens, site.top_k)
        ran = experts >= 0  # a capacity may have dropped tokens
        assert ran.any()
        own = choice.topk(site.top_k, -1).indices.sort(-1).values
        assert (own == experts.sort(-1).values)[ran.all(-1)].float().mean() > 0.99  # ties and rounding aside

    case.engine.replay(trace, observe)
    assert set(seen) == {site.path for site in trace.header.sites}


def traces_of_another_model_are_refused(case):
    with case.engine.recorded() as session:
        trace = case.traces(session)[0]
    with pytest.raises(InvalidTrace, match="another model"):
        case.other.replay(trace, lambda *shown: None)
    with pytest.raises(InvalidTrace, match="another model"):
        okr.verify(case.other, trace, KEYS[0], epsilon=1.0, zone="max", strength=1.0)


def scoring_routes_every_row_by_its_chooser(case):
    """With the family's own choice every row is the native score; a row with another choice differs, alone."""
    with case.engine.recorded() as session:
        text = text_of(case.traces(session)[0])
    with case.engine.scoring(None) as score:
        native = score(text, 1, 1.0)
    assert native.shape == (1, text.scored)
    assert native.dtype == torch.float64
    assert (native <= 0).all()
    rows, shown = 3, []

    def own(choice, hidden, native):
        shown.append((len(choice), len(hidden)))
        return native(EVERY)

    def last_row_turned(choice, hidden, native):
        experts = native(EVERY).clone()
        first = len(experts) // rows * (rows - 1)
        experts[first:] = (experts[first:] + 1) % choice.shape[-1]
        return experts

    with case.engine.scoring([own] * len(case.engine.sites)) as score:
        same = score(text, rows, 1.0)
    assert all(tokens == states and tokens % rows == 0 for tokens, states in shown)
    torch.testing.assert_close(same[:1], same[1:2])
    with case.engine.scoring([last_row_turned] * len(case.engine.sites)) as score:
        turned = score(text, rows, 1.0)
    if not case.engine.encoder_decoder:  # rows of Switch share an expert's capacity
        torch.testing.assert_close(same, native.expand(rows, -1), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(turned[:2], native.expand(2, -1), atol=1e-4, rtol=1e-4)
    assert (turned[2] - same[2]).abs().max() > 1e-3


CONTRACT = [
    is_one_and_stays_one,
    a_key_decides_inside_its_block_alone,
    the_key_is_found_and_no_other,
    a_replay_shows_every_site_once,
    traces_of_another_model_are_refused,
    scoring_routes_every_row_by_its_chooser,
]
