"""Chapter TRACE: every way in which a prompt may be given and a text made has its trace, or is refused."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..subject import Subject
from ..verdicts import require
from . import check


def keyed(model: Any) -> Any:
    """A watermark of ``model``."""
    from .. import system
    from ..system import okr

    return okr.watermark(model, system.key(), epsilon=system.epsilon_of(model), zone="boundary")


@contextmanager
def configured(model: Any, **settings: Any) -> Iterator[Any]:
    """Other settings in the model's own generation configuration."""
    config = model.generation_config
    before = {name: getattr(config, name, None) for name in settings}
    try:
        for name, value in settings.items():
            setattr(config, name, value)
        yield config
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _padded() -> tuple[Any, Any]:
    """Two prompts of 6 and 4 tokens, padded on the left, with their mask."""
    from .. import system

    ids = system.tokens(2, 6, seed=11)
    ids[1, :2] = 0
    return ids, ids.ne(0).long()


@check("OKR-TRACE-001")
def prompts_may_be_given_in_any_way(subject: Subject) -> None:
    """As ``inputs`` or ``input_ids``, with settings as arguments, in a configuration that is given or the model's own;
    the mask given or to be made from the padding; the answer a tensor or a record of it. One text, one trace."""
    from transformers import GenerationConfig

    from .. import system

    ids, mask = _padded()
    settings = {"max_new_tokens": 5, **system.GREEDY}
    given = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=0, use_cache=True)
    ways: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {"input_ids": ids, "attention_mask": mask, **settings}),
        ((), {"input_ids": ids, **settings}),
        ((ids,), settings),
        ((), {"inputs": ids, **settings}),
        ((ids,), {**settings, "return_dict_in_generate": True, "output_scores": True}),
        ((ids,), {"generation_config": given}),
        ((ids,), {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}),
        ((ids,), {**settings, "num_beams": 1, "guidance_scale": 1, "inputs_embeds": None, "dola_layers": None}),
        ((ids,), {**settings, "guidance_scale": 1.0, "penalty_alpha": None}),
    ]
    model = system.softmax_model()
    expected: list[Any] = []
    with keyed(model) as session, system.outputs_of(model) as seen, configured(model, eos_token_id=None):
        for arguments, options in ways:
            with system.accepted(f"generate with {sorted(options)}"):
                made = session.generate(*arguments, **options)
            if not expected:
                expected = made.traces
                for row, skip in ((0, 0), (1, 2)):
                    _require_ran(model, made.traces[row], seen, made.sequences[row].tolist(), row, skip)
            found = [(t.token_ids.tolist(), t.prompt_length, t.digest()) for t in made.traces]
            wanted = [(t.token_ids.tolist(), t.prompt_length, t.digest()) for t in expected]
            require(found == wanted, f"another trace with {sorted(options)}", expected=wanted, got=found)


def _require_ran(model: Any, trace: Any, seen: dict[str, Any], text: list[int], row: int, skip: int) -> None:
    """Violation unless ``trace`` holds ``text`` from place ``skip`` on, and what ran of row ``row`` of two."""
    import torch

    from .. import system

    require(trace.token_ids.tolist() == text[skip:], "token ids", expected=text[skip:], got=trace.token_ids)
    for index, (site, _) in enumerate(system.routers(model)):
        ran = torch.cat([output[2].reshape(2, -1, site.top_k)[row] for _, output in seen[site.path]])
        expected, got = ran[skip : len(text) - 1].tolist(), trace.site_experts(index).tolist()
        require(got == expected, f"{site.path}: experts of sequence {row}", expected=expected, got=got)


@check("OKR-TRACE-001")
def padding_is_what_is_said_to_be(subject: Subject) -> None:
    """The prompt's, by the mask or else the padding token that holds for this call; nothing is padding where there is
    no such token. A text that no rule ended has none, even where it ends with that token."""
    import torch

    from .. import system

    model = system.softmax_model()
    ids, mask = _padded()
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    ways: list[tuple[Any, dict[str, Any], int]] = [
        (ids, {"attention_mask": torch.ones_like(ids), "pad_token_id": 0}, 0),
        (ids, {}, 0),
        (torch.where(mask.bool(), ids, 63), {"pad_token_id": 63}, 2),
        (ids, {"attention_mask": mask, "eos_token_id": 63}, 2),
    ]
    with keyed(model) as session, configured(model, pad_token_id=None, eos_token_id=None):
        last = int(session.generate(ids, attention_mask=mask, **options).sequences[0, -1])
        ways[-1][1]["pad_token_id"] = last
        for prompt, way, skip in ways:
            with system.outputs_of(model) as seen, system.accepted(f"generate with {sorted(way)}"):
                made = session.generate(prompt, **options, **way)
            for row in (0, 1):
                text = made.sequences[row].tolist()
                _require_ran(model, made.traces[row], seen, text, row, skip if row else 0)


@check("OKR-TRACE-001")
def what_a_cache_held_is_marked(subject: Subject) -> None:
    """A second turn: nobody saw what ran for the tokens in a given cache. A cache of the whole prompt is refused."""
    import torch

    from .. import system
    from ..system import okr

    model = system.softmax_model()
    ids = system.tokens(2, 6, seed=11)
    options = {"max_new_tokens": 4, **system.GREEDY}

    def cache(length: int) -> Any:
        with torch.no_grad():
            return model(input_ids=ids[:, :length], use_cache=True).past_key_values

    with keyed(model) as session:
        for held in (1, 4, 5):
            given = cache(held)
            with system.outputs_of(model) as seen, system.accepted(f"a cache of {held} of 6 tokens"):
                made = session.generate(ids, past_key_values=given, **options)
            for row, trace in enumerate(made.traces):
                require(bool((trace.experts[:held] == -1).all()), "experts of tokens that no call saw", got=trace)
                later = replace(trace, token_ids=trace.token_ids[held:], experts=trace.experts[held:], prompt_length=1)
                require(trace.token_ids.tolist() == made.sequences[row].tolist(), "token ids with a cache", got=trace)
                _require_ran(model, later, seen, made.sequences[row, held:].tolist(), row, 0)
        for held in (6, 7):
            with system.refused(okr.UnsupportedGeneration, "a cache of the whole prompt"):
                session.generate(ids[:, : min(held, 6)], past_key_values=_longer(cache, held), **options)


def _longer(cache: Any, held: int) -> Any:
    """What a cache of ``held`` tokens says of itself, made from a shorter one."""
    made = cache(min(held, 6))
    made.get_seq_length = lambda *_: held
    return made


@check("OKR-TRACE-001")
def ways_that_cannot_be_traced_are_refused(subject: Subject) -> None:
    """Where several texts, or several passes a token, are in the air: as arguments, or configured."""
    from transformers import GenerationConfig

    from .. import system
    from ..system import okr

    model = system.copied(system.softmax_model())
    ids = system.tokens(1, 4)
    settings = {"max_new_tokens": 2, **system.GREEDY}
    settings_that_ask: dict[str, Any] = {"num_beams": 2, "guidance_scale": 1.5, "penalty_alpha": 0.6}
    settings_that_ask |= {"prompt_lookup_num_tokens": 2, "dola_layers": "high", "assistant_early_exit": 1}
    alone = {"assistant_model": model, "custom_generate": lambda *_, **__: ids, "adapter_names": ["one"]}
    alone |= {"inputs_embeds": model.get_input_embeddings()(ids).detach()}
    with keyed(model) as session:
        for name, value in (settings_that_ask | alone).items():
            with system.refused(okr.UnsupportedGeneration, f"generating with {name}"):
                session.generate(ids, **settings, **{name: value})
        for name, value in settings_that_ask.items():
            given = GenerationConfig()
            setattr(given, name, value)
            with system.refused(okr.UnsupportedGeneration, f"{name} in a configuration that is given"):
                session.generate(ids, generation_config=given, max_new_tokens=2)
            with (
                configured(model, **{name: value}),
                system.refused(okr.UnsupportedGeneration, f"{name} in the model's configuration"),
            ):
                session.generate(ids, **settings)
        _refuses_prompts(session, ids, settings)
    with system.refused(okr.UnsupportedGeneration, "generating after the block"):
        session.generate(ids, **settings)
    with okr.record(model.model) as session, system.refused(okr.UnsupportedGeneration, "a model without generate"):
        session.generate(ids, max_new_tokens=2)


def _refuses_prompts(session: Any, ids: Any, settings: dict[str, Any]) -> None:
    from .. import system
    from ..system import okr

    for what, prompt in (
        ("no prompt", None),
        ("a prompt that is a list", ids.tolist()),
        ("a prompt of one dimension", ids[0]),
        ("a prompt of three dimensions", ids[None]),
        ("an empty prompt", ids[:, :0]),
        ("a prompt of floats", ids.float()),
    ):
        with system.refused(okr.UnsupportedGeneration, what):
            session.generate(prompt, **settings)


@check("OKR-TRACE-001")
def threads_have_their_own_traces(subject: Subject) -> None:
    """Texts generated side by side in one block, each as alone."""
    from .. import system

    model = system.softmax_model()
    prompts = [system.tokens(1, 4 + seed, seed) for seed in range(3)]
    options = {"max_new_tokens": 5, **system.GREEDY}
    with keyed(model) as session:

        def traced(prompt: Any) -> str:
            return str(session.generate(prompt, **options).traces[0].digest())

        alone = [traced(prompt) for prompt in prompts]
        with ThreadPoolExecutor(3) as pool:
            beside = [*pool.map(traced, prompts)]
    require(alone == beside, "another trace beside other threads", expected=alone, got=beside)


@check("OKR-TRACE-003")
def headers_follow_the_weights(subject: Subject) -> None:
    """Weights that change within a block make another model, and changed back the same one."""
    import torch

    from .. import system

    model = system.copied(system.softmax_model())
    weight = next(value for name, value in model.named_parameters() if "attn" in name)
    options = {"max_new_tokens": 2, **system.GREEDY}
    with keyed(model) as session:
        headers = [session.generate(system.tokens(1), **options).traces[0].header for _ in range(2)]
        for _ in range(2):
            with torch.no_grad():
                weight.mul_(-1)
            headers.append(session.generate(system.tokens(1), **options).traces[0].header)
    models = [header.model for header in headers]
    require(models[0] == models[1], "the identity changed with nothing", expected=models[0], got=models[1])
    require(models[2] != models[0], "other weights, and the identity of those before")
    require(models[3] == models[0], "the weights from before, and another identity", expected=models[0], got=models[3])
    settings = [_of(header, models[0]) for header in headers]
    require(all(one == settings[0] for one in settings), "the settings changed with the weights")


def _of(header: Any, model: Any) -> Any:
    """The header with another identity."""
    return header.model_copy(update={"model": model})
