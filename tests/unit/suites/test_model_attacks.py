"""Changes to a model: what they say, on the copy alone."""

import copy
import dataclasses

import pytest
import torch
from small_models import random_deepseek, random_switch

from okr.discovery import keyable_sites
from okr.engines import prepare
from okr.loaders import Loaded
from okr.suites import attacks
from okr.suites.model_attacks import CHANGES, noisy, pruned, replaced, rounded
from okr.suites.samples import Bench


@pytest.fixture(params=[random_deepseek, random_switch])
def subject(request: pytest.FixtureRequest, loaded: Loaded) -> Loaded:
    return dataclasses.replace(loaded, model=request.param(vocab_size=384, pad_token_id=0, eos_token_id=2))


def differing(before: dict, after: dict) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def test_rounding_is_to_so_many_values_a_row_and_again_changes_nothing(subject: Loaded) -> None:
    rounded(subject, 4)
    for parameter in subject.model.parameters():
        if parameter.dim() == 2:
            assert max(len(row.unique()) for row in parameter[:20]) <= 15
    before = copy.deepcopy(subject.model.state_dict())
    rounded(subject, 4)
    after = subject.model.state_dict()
    assert all(torch.allclose(after[name], before[name], rtol=1e-5, atol=1e-7) for name in after)


def test_noise_has_the_size_it_says(subject: Loaded) -> None:
    before = copy.deepcopy(subject.model.state_dict())
    noisy(subject, 0.1)
    for name, value in subject.model.state_dict().items():
        if value.dim() >= 2 and value.numel() > 2000 and before[name].std() > 0:
            assert float((value - before[name]).std() / before[name].std()) == pytest.approx(0.1, rel=0.2)


def test_replacing_routers_changes_routers_alone(subject: Loaded) -> None:
    before = copy.deepcopy(subject.model.state_dict())
    replaced(subject, 1.0)
    paths = [site.path for site in keyable_sites(subject.model)]
    found = differing(before, subject.model.state_dict())
    assert len(found) == len(paths)
    assert all(any(name.startswith(path + ".") for path in paths) for name in found)


def test_pruning_empties_that_share_of_the_experts_and_leaves_routers(subject: Loaded) -> None:
    before = copy.deepcopy(subject.model.state_dict())
    pruned(subject, 0.5)
    found = differing(before, subject.model.state_dict())
    assert found
    assert all("expert" in name for name in found)
    for name in found:
        value = subject.model.state_dict()[name]
        if value.dim() == 3:
            assert int((value.flatten(1) == 0).all(1).sum()) == len(value) // 2
        else:
            assert not value.any()
    pruned(subject, 1.0)
    assert subject.model(**inputs(subject)).logits.isfinite().all()


def inputs(subject: Loaded) -> dict:
    ids = torch.tensor([[5, 6, 7]])
    return (
        {"input_ids": ids, "decoder_input_ids": ids} if subject.model.config.is_encoder_decoder else {"input_ids": ids}
    )


def test_tuning_learns_and_leaves_the_random_numbers_alone(subject: Loaded) -> None:
    before, state = copy.deepcopy(subject.model.state_dict()), torch.random.get_rng_state()
    CHANGES["fine-tuned"][0](subject, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert differing(before, subject.model.state_dict())
    assert not subject.model.training


def test_a_changed_model_makes_its_traces_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the suites were given the unchanged model prepared."""

    class Seen(Exception):
        """Ends the cell once its thief is known."""

    def seen(thief: Bench, *rest: object) -> None:
        assert thief.engine.model is thief.loaded.model
        assert thief.engine.model is not bench.loaded.model
        raise Seen

    monkeypatch.setattr(attacks, "make_traces", seen)
    with pytest.raises(Seen):
        attacks._changed(dataclasses.replace(bench, prepared=prepare(bench.loaded.model)), "not changed", 0.0)
