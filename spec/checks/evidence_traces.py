"""Chapter EVIDENCE, on traces of models: verdicts against the oracle, which sees what the replay shows."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from .. import evidence
from ..cases import Routed, Setting
from ..replays import replaying_once
from ..subject import Subject
from ..verdicts import require
from . import check


@dataclass(frozen=True)
class _Question:
    """Traces of a prepared model, and how they are tested."""

    name: str
    engine: Any
    traces: list[Any]
    epsilon: float
    zone: str = "boundary"
    strength: float = math.inf
    skip_prompt: bool = False

    def verdict(self, key: Any, **options: Any) -> Any:
        """The package's verdict."""
        from ..system import okr

        given = {"decoys": 1, "alpha": 0.01, "skip_prompt": self.skip_prompt, **self.setting, **options}
        return okr.verify(self.engine, self.traces, key, **given)

    @property
    def setting(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "zone": self.zone, "strength": self.strength}

    def shown(self) -> tuple[Routed, ...]:
        """What replays of the traces show, tokens that are left out excluded."""
        found: list[Routed] = []
        for trace in self.traces:

            def observe(site: Any, choice: Any, hidden: Any, experts: Any, trace: Any = trace) -> None:
                encoder = site.stack.startswith("encoder")
                first = (len(choice) if encoder else trace.prompt_length) if self.skip_prompt else 0
                parts = (part[first:].clone().numpy() for part in (choice, hidden, experts))
                found.append(Routed(site.stack, site.layer, *parts))

            self.engine.replay(trace, observe)
        return tuple(found)

    def routing(self) -> Setting:
        """The setting as a router takes it."""
        return Setting(self.shown()[0].experts.shape[1], self.epsilon, self.zone, self.strength)

    def answers(self, secrets: list[bytes]) -> Iterator[tuple[bytes, Any]]:
        """Each secret with the oracle's answer."""
        shown = self.shown()
        found = evidence.gathered(shown, self.routing())
        for secret in secrets:
            yield secret, evidence.under(secret, found)


def _secrets(others: int = 2) -> list[bytes]:
    """The secret that made the keyed traces, and some that did not."""
    from .. import system

    return [system.SECRET, *system.other_secrets(others)]


def _agree(question: _Question) -> None:
    """The swaps and z of the verdict are the oracle's, whichever key is claimed."""
    from ..system import okr

    for secret, expected in question.answers(_secrets()):
        got = question.verdict(okr.Key(secret))
        require(expected.swaps > 5, f"{question.name}: too few swaps to tell", got=expected.swaps)
        require(got.swaps == expected.swaps, f"{question.name}: swaps", expected=expected.swaps, got=got.swaps)
        evidence.require_same_z(question.name, expected.z, got.z)


def _keyed(index: int, **options: Any) -> _Question:
    """Two traces of a model under the key of the tests."""
    from .. import system

    model = system.models()[index]
    name = f"model {index}" + "".join(f", {name} {value}" for name, value in options.items())
    return _Question(
        name, replaying_once(model), list(system.traces(index, **options)), system.epsilon_of(model), **options
    )


def _with_experts(question: _Question, edit: Any, name: str) -> _Question:
    """The question with every trace's experts edited in place."""
    traces = []
    for trace in question.traces:
        copies = {
            part: getattr(trace, part).copy()
            for part in ("experts", "encoder_experts")
            if getattr(trace, part) is not None
        }
        for experts in copies.values():
            edit(experts)
        traces.append(replace(trace, **copies))
    return replace(question, name=f"{question.name}, {name}", traces=traces)


def _far(experts: Any) -> None:
    """Every third token runs the first experts there are, and one in seven the last that ran somewhere else."""
    experts[::3] = np.arange(experts.shape[-1])
    experts[::7] = experts[::-1][::7].copy()


def _partial(experts: Any) -> None:
    """The first seven tokens, and every fifth, have no recorded experts."""
    experts[:7] = -1
    experts[::5] = -1


def _next(experts: Any) -> None:
    """Every second token runs the expert after the one that ran, of the capacity model's eight."""
    experts[::2] = np.where(experts[::2] < 0, experts[::2], (experts[::2] + 1) % 8)


@check("OKR-EVIDENCE-001")
def swaps_of_hard_keys(subject: Subject) -> None:
    for index, zone in product((0, 1, 2), ("boundary", "max")):
        question = _keyed(index, zone=zone)
        _agree(question)
        _agree(_with_experts(question, _partial, "partly recorded"))


@check("OKR-EVIDENCE-002")
def swaps_of_soft_keys(subject: Subject) -> None:
    """Under the strength that made the traces and one whose reach is short, as recorded and with far experts."""
    for index, strength in product((0, 1, 2), (1.0, 0.05)):
        soft = replace(_keyed(index, strength=1.0), epsilon=math.inf, strength=strength)
        _agree(soft)
        _agree(_with_experts(soft, _far, "far experts"))
        hard = _keyed(index)
        _agree(_with_experts(replace(hard, epsilon=hard.epsilon / 2), _far, "half the epsilon, far experts"))


@check("OKR-EVIDENCE-003")
def tokens_traces_and_sites_are_summed_first(subject: Subject) -> None:
    """Tokens all alike; several traces, of which one is given twice and one native; one without its prompt; an encoder
    and a decoder."""
    from .. import system

    engine, capacity = replaying_once(system.softmax_model()), replaying_once(system.capacity_model())
    epsilon, monotone = system.epsilon_of(system.softmax_model()), system.monotone_trace()
    several = [monotone, *system.traces(0), *system.traces(0, keyed=False), monotone]
    _agree(_Question("one token repeated", engine, [monotone], epsilon))
    _agree(_Question("several traces", engine, several, epsilon))
    _agree(_Question("without the prompt", engine, list(system.traces(0)), epsilon, skip_prompt=True))
    source = _Question("encoder and decoder", capacity, list(system.capacity_traces()), math.inf)
    for skip in (False, True):
        _agree(_with_experts(replace(source, skip_prompt=skip), _next, f"the next experts, skip_prompt {skip}"))


@check("OKR-EVIDENCE-004")
def swaps_have_the_bound_for_p(subject: Subject) -> None:
    """The p-value of the swaps is the oracle's for the key that made the traces and for twenty others."""
    from ..system import okr

    for index in (0, 1):
        question = _keyed(index)
        for secret, expected in question.answers(_secrets(20)):
            got = question.verdict(okr.Key(secret))
            evidence.require_close(f"{question.name}: p-value of the swaps", expected.p_value, got.swaps_p)


@check("OKR-EVIDENCE-004")
def swaps_need_no_decoys(subject: Subject) -> None:
    from .. import system

    question = _keyed(0)
    for key in (system.key(), *system.other_keys(4)):
        few, many = (question.verdict(key, decoys=decoys) for decoys in (1, 999))
        same = (few.swaps_p, few.z) == (many.swaps_p, many.z)
        require(same, "the decoys change the p-value of the swaps", expected=few.swaps_p, got=many.swaps_p)


@check("OKR-EVIDENCE-007")
def sites_are_combined_by_fisher(subject: Subject) -> None:
    """The sites' p-value follows from their ranks, where enough was swapped; native traces have it 1."""
    from .. import system

    for index, keyed in product((0, 1), (True, False)):
        question = _keyed(index) if keyed else replace(_keyed(index), traces=list(system.traces(index, keyed=False)))
        swaps = evidence.expected_swaps(question.shown(), question.routing())
        for key in (system.key(), *system.other_keys(8)):
            got = question.verdict(key, decoys=99)
            near = abs(got.expected_swaps - swaps) <= 0.15 * swaps
            require(near, f"{question.name}: swaps of random keys", expected=swaps, got=got.expected_swaps)
            ranks = [site.rank_p for site in got.sites if site.opportunities]
            whole = all(abs(rank * 100 - round(rank * 100)) < 1e-9 and rank > 0 for rank in ranks)
            require(whole, f"{question.name}: ranks at the sites", got=ranks)
            counts = ranks and got.swaps >= 0.25 * got.expected_swaps > 0
            expected = evidence.fisher(ranks) if counts else 1.0
            evidence.require_close(f"{question.name}: p-value of the sites", expected, got.sites_p)
            require(bool(counts) == keyed, f"{question.name}: whether ranks count", expected=keyed, got=bool(counts))


@check("OKR-EVIDENCE-008")
def the_smaller_is_corrected(subject: Subject) -> None:
    from .. import system

    for index, alpha in product((0, 1), (0.5, 1e-9)):
        question = _keyed(index)
        for key in (system.key(), *system.other_keys(20)):
            got = question.verdict(key, alpha=alpha, decoys=99)
            expected = min(1.0, max(1e-300, 2 * min(got.swaps_p, got.sites_p)))
            evidence.require_close(f"{question.name}: p-value", expected, got.p_value)
            decided = got.p_value <= alpha
            require(got.watermarked == decided, f"{question.name}: watermarked", expected=decided, got=got)


@check("OKR-EVIDENCE-005", sampled=True)
def native_traces_show_nothing(subject: Subject, keys: int) -> None:
    from .. import system

    for index, model in enumerate(system.models()):
        native, engine = list(system.traces(index, keyed=False)), replaying_once(model)
        epsilon = system.epsilon_of(model)
        for zone, strength in (("boundary", math.inf), ("max", math.inf), ("boundary", 0.5)):
            question = _Question(f"model {index}, {zone}, {strength}", engine, native, epsilon, zone, strength)
            for key in (system.key(), *system.other_keys(max(1, keys // 30))):
                got = question.verdict(key, alpha=0.999)
                require(got.opportunities > 20, f"{question.name}: too few opportunities", got=got.opportunities)
                fine = (got.p_value, got.z, got.swaps, got.watermarked) == (1, 0, 0, False)
                require(fine, f"{question.name}: evidence in native routing", expected="p = 1", got=got)


@check("OKR-EVIDENCE-006")
def attribution_is_corrected_verification(subject: Subject) -> None:
    """Fifty keys, with and without the one that made the traces."""
    from .. import system

    for index in (0, 1):
        question, others = _keyed(index), system.other_keys(50)
        alone = {key.id: question.verdict(key) for key in (*others, system.key())}
        for keys in ([*others[1:], system.key()], others):
            found = _attributed(question, keys)
            verdicts = [alone[key.id] for key in keys]
            for verdict, candidate in zip(verdicts, found.candidates, strict=True):
                same = (candidate.key_id, candidate.z) == (verdict.key_id, verdict.z)
                require(same, "a key's evidence is not that of its verification", expected=verdict, got=candidate)
                most = min(1.0, 2 * verdict.swaps_p)
                require(candidate.p_value <= most, "a key's p-value", expected=f"<= {most}", got=candidate.p_value)
            expected = _holm([candidate.p_value for candidate in found.candidates])
            for corrected, candidate in zip(expected, found.candidates, strict=True):
                evidence.require_close("corrected p-value", corrected, candidate.adjusted_p)
            best = min(range(50), key=expected.__getitem__)
            named = keys[best].id if expected[best] <= found.alpha else None
            require(found.key_id == named, "the key that is named", expected=named, got=found.key_id)


def _attributed(question: _Question, keys: list[Any]) -> Any:
    """The attribution; Violation unless every trace was replayed once."""
    from ..system import okr

    engine, replayed = question.engine, []
    replay = engine.replay

    def counted(trace: Any, observe: Any) -> None:
        replayed.append(trace)
        replay(trace, observe)

    engine.replay = counted
    try:
        found = okr.attribute(engine, question.traces, keys, alpha=0.01, **question.setting)
    finally:
        engine.replay = replay
    count = len(question.traces)
    require(len(replayed) == count, "replays for fifty keys", expected=count, got=len(replayed))
    return found


def _holm(p_values: list[float]) -> list[float]:
    """Holm's correction, from its definition: the largest (n - j) p_(j) up to each place in the order."""
    ranked = sorted(p_values)
    return [
        min(1.0, max((len(ranked) - place) * p for place, p in enumerate(ranked) if p <= value)) for value in p_values
    ]
