"""KGW and SynthID as transformers makes them, and the tests that score them."""

import numpy as np
import pytest
import torch
from scipy import stats

from okr.loaders.prediction import Predicted
from okr.suites.costs import _match_kgw
from okr.suites.other_watermarks import NGRAM, Kgw, SynthId, processor
from okr.suites.samples import Bench, as_made, make_traces

VOCABULARY = 500


def random_texts(count: int, length: int, seed: int = 1) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (count, length)).tolist()


def test_kgw_counts_each_pair_once() -> None:
    kgw = Kgw(VOCABULARY, 2.0, 3)
    counts = kgw.counts([7, 8, 7, 8, 7, 9], 1)
    assert counts[:, 0].tolist() == [1, 1, 0, 0, 1]
    assert (counts[:, 1] <= counts[:, 0]).all()


def test_kgw_green_is_what_transformers_biases() -> None:
    """Oracle: the logits that the processor of ``model.generate`` returns, whichever key was asked before."""
    for kgw in (Kgw(VOCABULARY, 2.0, 3), Kgw(VOCABULARY, 1.5, 4), Kgw(VOCABULARY // 2, 1.5, 4)):
        for context in (5, 77, 249):
            row, logits = torch.tensor([[1, context]]), torch.zeros(1, kgw.vocabulary)
            biased = kgw.config().construct_processor(kgw.vocabulary, "cpu")(row, logits)
            assert torch.equal(biased[0] > 0, kgw.green(torch.tensor([context]))[0])
            assert torch.equal(biased, kgw.processor()(row, logits))


def test_kgw_p_values_of_unmarked_text_are_not_too_small() -> None:
    """Of 600 random texts at most as many have p <= 0.05 as a binomial allows with probability 1 - 1e-6."""
    kgws = [Kgw(VOCABULARY, 2.0, number) for number in range(20)]
    p = [kgw.p_value(kgw.counts(text, 1)) for kgw in kgws for text in random_texts(30, 40, seed=kgw.key)]
    assert sum(value <= 0.05 for value in p) <= stats.binom.isf(1e-6, 600, 0.05)
    assert np.mean(p) > 0.4, "and they are p-values, not ones"


def test_synthid_p_values_of_unmarked_text_are_not_too_small() -> None:
    """As above, under 40 keys: ranks among 19 decoys, so P(p <= 0.05) is 0.05 at most."""
    found = np.concatenate([
        SynthId(3, n).p_values(random_texts(10, 30, seed=n), [30], 19)[:, 0] for n in range(40)
    ])  # fmt: skip
    assert (found <= 0.05).sum() <= stats.binom.isf(1e-6, 400, 0.05)
    assert found.mean() > 0.4


def test_synthid_leaves_repeated_contexts_out_and_a_prefix_is_a_text_of_its_own() -> None:
    texts = random_texts(2, 24)
    synthid = SynthId(4, 11)
    p = synthid.p_values(texts, [8, 24], 49)
    assert p[:, 0].tolist() == synthid.p_values([text[:8] for text in texts], [8], 49)[:, 0].tolist()
    looped = [1, 2, 3, 4] * 6
    assert synthid.mean_g(looped) == pytest.approx(synthid.mean_g(looped[: NGRAM - 1 + 4]), abs=0.15)


@pytest.mark.parametrize("method", ["kgw", "synthid"])
def test_marked_text_is_found_where_it_is_marked_and_by_its_own_key_alone(bench: Bench, method: str) -> None:
    """Strongly marked: p far below 0.01 under its own key (seeded), and above under another."""
    import dataclasses

    longer = dataclasses.replace(bench, options=bench.options.model_copy(update={"tokens": 60}))
    made = [as_made(trace) for trace in make_traces(longer, method, 0, bias=6.0)]
    if method == "kgw":
        own = [longer.kgw(0, 6.0).p_value(longer.kgw(0, 6.0).counts(m.tokens, m.prompt_length)) for m in made]
        other = [longer.kgw(1, 6.0).p_value(longer.kgw(1, 6.0).counts(m.tokens, m.prompt_length)) for m in made]
    else:
        own = longer.synthid(0, method).p_values([m.new for m in made], [60], 199)[:, 0].tolist()
        other = longer.synthid(1, method).p_values([m.new for m in made], [60], 199)[:, 0].tolist()
    assert max(own) <= 0.005
    assert min(other) > 0.005


def test_synthid_scores_the_g_values_that_generation_used(bench: Bench) -> None:
    """Oracle: one layer under a strong tournament; the contexts generation kept begin with zeros."""
    trace = make_traces(bench, "synthid shallow", 0)[0]
    made = as_made(trace)
    machine = processor(bench.synthid(0, "synthid shallow").config().keys)
    padded = torch.tensor([[0] * (NGRAM - 1) + list(made.new)])
    g = machine.compute_g_values(padded)[0, :, 0].float()
    machine.state = None
    context = torch.zeros(1, NGRAM - 1, dtype=torch.long)
    for place, token in enumerate(made.new):
        keys, _ = machine._compute_keys(context, torch.tensor([[token]]))
        assert machine.sample_g_values(keys)[0, 0, 0] == g[place]
        context = torch.cat([context[:, 1:], torch.tensor([[token]])], 1)


def test_kgw_bias_is_matched_to_a_cost_that_transformers_confirms(bench: Bench) -> None:
    """Oracle: cross-entropy of the logits that transformers' processor returns under the chosen bias."""
    generator = torch.Generator().manual_seed(0)
    size, vocabulary = 40, bench.vocabulary
    native = [
        Predicted(
            3 * torch.randn(size, vocabulary, generator=generator),
            torch.randint(0, vocabulary, (size,), generator=generator),
            torch.randint(0, vocabulary, (size,), generator=generator),
        )
        for _ in range(3)
    ]
    bias, losses = _match_kgw(bench, native, 0.3)
    expected = []
    for passage in native:
        biased = bench.kgw(1_000_000, bias).processor()(passage.inputs[:, None], passage.logits.clone())
        expected.append(float(torch.nn.functional.cross_entropy(biased, passage.targets)))
    assert losses[0] == pytest.approx(expected, abs=1e-4)
    cost = np.mean(losses) - np.mean([passage.loss() for passage in native])
    assert cost == pytest.approx(0.3, abs=1e-4)
