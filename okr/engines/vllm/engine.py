"""Implements the engine for vLLM: traces are verified and texts judged where the model is served, with vLLM's own
kernels."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from okr.discovery import RouterSite, discover
from okr.discovery.discover import without_weights
from okr.engines.matching import matching_sites
from okr.engines.protocol import Chooser, Observer, Score, Text
from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.serving import WORKER, check_installed, environment, served
from okr.errors import InvalidConfig, InvalidSetting, InvalidText, InvalidTrace, RouterNotFound, UnsupportedRouter
from okr.loaders.deepseek import register
from okr.routing import Key, Setting
from okr.traces import NOTHING_RAN, ModelIdentity, Trace
from okr.traces.header import weights_digest


@dataclass(frozen=True)
class Generated:
    """What a session generated: ``outputs`` of vLLM, and one trace for each sequence."""

    outputs: list[Any]
    traces: list[Trace]


class VllmSession:
    """A model in vLLM under a key, or recorded."""

    def __init__(self, engine: "VllmEngine", key_id: str | None, setting: Setting | None) -> None:
        self.engine, self.key_id, self.setting = engine, key_id, setting

    def generate(self, inputs: Any = None, **arguments: Any) -> Generated:
        """Generate as ``vllm.LLM.generate`` does. ``inputs`` are prompts, or lists of token ids."""
        if isinstance(inputs, Tensor | np.ndarray):
            inputs = inputs.tolist()
        prompts = [item if isinstance(item, str | dict) else {"prompt_token_ids": list(item)} for item in inputs]
        outputs = self.engine.llm.generate(prompts, use_tqdm=False, **arguments)
        header = {} if self.setting is None else {"key_id": self.key_id, **vars(self.setting)}
        traces = [
            self.engine.trace(output, choice, **header) for output in outputs for choice in range(len(output.outputs))
        ]
        return Generated(outputs, traces)


class VllmEngine:
    """A model in vLLM (:class:`okr.engines.protocol.Engine`). ``llm`` is a ``vllm.LLM`` with the section ``okr`` in its
    additional configuration and this package's worker methods; :meth:`load` makes one.

    Raises RouterNotFound if no router can be keyed, and InvalidSetting if ``llm`` was made without these.
    """

    encoder_decoder = False

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.config = llm.llm_engine.vllm_config
        if Configuration.of(self.config.additional_config) is None or not self._asks_workers():
            raise InvalidSetting("this vllm.LLM was made without okr: VllmEngine.load makes one")
        register()
        self._described = without_weights(self.config.model_config.hf_config).to(self.config.model_config.dtype)
        attached = {path for paths in self._rpc("okr_sites") for path in paths}
        self.sites: list[RouterSite] = [site for site in discover(self._described) if site.path in attached]
        if not self.sites:
            raise RouterNotFound("no router of this model is attached in vLLM")
        self._identity: ModelIdentity | None = None

    @classmethod
    def load(cls, model: str, **options: Any) -> "VllmEngine":
        """Load ``model`` (a folder, a hub id or an embedded model's name) into vLLM, natively routed.

        ``options`` are those of ``vllm.LLM``. Without them the model runs in this process, eagerly, since what is
        decided for each call must not be compiled away; nothing is cached from call to call; and a pass has at most
        8,192 tokens.
        """
        check_installed()
        quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
        for name, value in ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} | quiet | environment(model)).items():
            os.environ.setdefault(name, value)  # read when vLLM is imported
        from vllm import LLM

        folder, named = served(model)
        options = {"max_num_batched_tokens": 8192, "enable_prefix_caching": False, **named, **options}
        options |= {"enforce_eager": True, "worker_extension_cls": WORKER, "skip_tokenizer_init": True}
        try:
            options["additional_config"] = options.get("additional_config", {}) | Configuration().section()
            return cls(LLM(folder, **options))
        except (ValueError, TypeError, RuntimeError, OSError) as error:  # what vLLM raises for what it cannot load
            reason = " ".join(str(error).split())[:400] or type(error).__name__
            raise InvalidConfig(f"vLLM cannot load {model}: {reason}") from error

    def _asks_workers(self) -> bool:
        return str(self.config.parallel_config.worker_extension_cls) == WORKER

    def _rpc(self, method: str, *arguments: Any) -> list[Any]:
        """What every worker answers."""
        answers: list[Any] = self.llm.collective_rpc(method, args=arguments)
        return answers

    @property
    def model(self) -> Any:
        """transformers' model of the same configuration, without weights."""
        return self._described

    @property
    def name(self) -> str:
        """The class name of the model."""
        return self.identity().class_name

    @property
    def dtype(self) -> str:
        """The dtype of the weights, such as ``float32``."""
        return str(self.config.model_config.dtype).removeprefix("torch.")

    @property
    def vocabulary(self) -> int | None:
        """How many tokens the model embeds."""
        return int(self.config.model_config.get_vocab_size())

    @property
    def positions(self) -> int | None:
        """How many tokens a text may have: one less than vLLM's longest sequence, which has a new token too."""
        return int(self.config.model_config.max_model_len) - 1

    def identity(self) -> ModelIdentity:
        """The identity of the model. It has no sample of the weights, which vLLM stores in other shapes."""
        if self._identity is None:
            described = ModelIdentity.of(self._described, self.sites)
            self._identity = described.model_copy(update={"routers": self._gates()})
        return self._identity

    def _gates(self) -> str | None:
        """The digest of the gates' weights, or None if they cannot be read off vLLM's model."""
        held = {path: gate for gates in self._rpc("okr_gates") for path, gate in gates.items()}
        weights = []
        for site in self.sites:
            for name in sorted(self._described.get_submodule(site.path).state_dict()):
                if name not in held.get(site.path, {}):
                    return None
                weights.append((f"{site.path}.{name}", held[site.path][name]))
        return weights_digest(weights)

    def trace(self, output: Any, choice: int = 0, **header: Any) -> Trace:
        """The trace of one sequence of vLLM's ``output``; ``header`` is that of :meth:`okr.Trace.from_response`."""
        return Trace.from_response(output, model=self._described, choice=choice, identity=self.identity(), **header)

    @contextmanager
    def keyed(self, key: Key, setting: Setting) -> Iterator[VllmSession]:
        """Run the model under ``key`` within a ``with`` block. The key cannot leave this process, so the model must run
        in it."""
        attached = self._attached("to key")
        attached.key(key, setting)
        try:
            yield VllmSession(self, key.id, setting)
        finally:
            attached.key(None, setting)

    @contextmanager
    def recorded(self) -> Iterator[VllmSession]:
        """Run the model natively within a ``with`` block and record its routing."""
        yield VllmSession(self, None, None)

    def _attached(self, what: str) -> Any:
        """What is attached to the model in this process."""
        worker = getattr(self.llm.llm_engine.model_executor, "driver_worker", None) if self._inside else None
        if worker is None:
            raise InvalidSetting(
                f"{what}, the model must run in this process: set VLLM_ENABLE_V1_MULTIPROCESSING=0 and leave tensor "
                "and pipeline parallelism out"
            )
        return worker.worker.okr

    @property
    def _inside(self) -> bool:
        return hasattr(self.llm.llm_engine, "model_executor")

    def replay(self, trace: Trace, observe: Observer) -> None:
        """Run ``trace`` with its own routing and call ``observe`` once for each site (spec chapter REPLAY).

        Raises InvalidTrace if another model made it, if it is longer than vLLM's longest sequence, or if it needs what
        vLLM has not: dropped tokens, passes, autocast.
        """
        sites = matching_sites(self, trace)
        self._check(trace)
        experts = {site.path: np.full((len(trace.token_ids) - 1, site.top_k), -1, np.int64) for site in self.sites}
        for index, site in enumerate(sites):
            experts[site.path] = np.ascontiguousarray(trace.site_experts(index)).astype(np.int64)
        self._rpc("okr_force", experts)
        try:
            self._run(trace.token_ids[:-1].tolist())
            for site in sites:
                choice, hidden = next(seen for seen in self._rpc("okr_seen", site.path) if seen is not None)
                observe(site, choice, hidden, torch.from_numpy(experts[site.path]))
        finally:
            self._rpc("okr_release")

    def _check(self, trace: Trace) -> None:
        routed = len(trace.token_ids) - 1
        if routed > (self.positions or routed):
            raise InvalidTrace(f"{routed} routed tokens, but this vLLM takes {self.positions}: raise max_model_len")
        if (trace.experts == NOTHING_RAN).any() or trace.passes is not None or trace.header.autocast is not None:
            raise InvalidTrace("this trace has dropped tokens, passes or autocast, which vLLM cannot replay")

    def _run(self, tokens: list[int], **sampling: Any) -> Any:
        """vLLM's output for one prompt, which shares no cached prefix."""
        from vllm import SamplingParams

        prompt = {"prompt_token_ids": tokens, "cache_salt": uuid4().hex}
        sampling = {"max_tokens": 1, "temperature": 0, "detokenize": False, "ignore_eos": True} | sampling
        return self.llm.generate([prompt], SamplingParams(**sampling), use_tqdm=False)[0]

    @contextmanager
    def scoring(self, choosers: Sequence[Chooser] | None) -> Iterator[Score]:
        """Score texts within a ``with`` block. The model must run in this process."""
        attached = self._attached("to judge a text")
        scorer = _Scorer(self, attached, choosers)
        try:
            yield scorer
        finally:
            attached.decide(None)


class _Scorer:
    """Scores texts, all rows of a batch in one step."""

    def __init__(self, engine: VllmEngine, attached: Any, choosers: Sequence[Chooser] | None) -> None:
        self.engine, self.attached, self.choosers = engine, attached, choosers

    def __call__(self, text: Text, rows: int, temperature: float) -> Float[Tensor, "rows tokens"]:
        """The log probability of every scored token (:class:`okr.engines.protocol.Score`)."""
        tokens = text.tokens.tolist()
        self._check(len(tokens) * rows, rows)
        if self.choosers is not None:
            named = zip(self.engine.sites, self.choosers, strict=True)
            self.attached.decide({site.path: _Chosen(chooser, rows * len(tokens)) for site, chooser in named})
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": tokens, "cache_salt": uuid4().hex} for _ in range(rows)]
        sampling = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False, ignore_eos=True)
        with self._at(temperature):
            outputs = self.engine.llm.generate(prompts, sampling, use_tqdm=False)
        found = [
            [output.prompt_logprobs[place][tokens[place]].logprob for place in range(text.prompt_length, len(tokens))]
            for output in outputs
        ]
        return torch.tensor(found, dtype=torch.float64).view(rows, -1)

    def _check(self, tokens: int, rows: int) -> None:
        scheduler = self.engine.config.scheduler_config
        if tokens > scheduler.max_num_batched_tokens or rows > scheduler.max_num_seqs:
            raise InvalidText(
                f"{rows} keys side by side take {tokens} tokens in one pass, and this vLLM takes "
                f"{scheduler.max_num_batched_tokens} of {scheduler.max_num_seqs} requests: judge fewer rows at once, "
                "or raise max_num_batched_tokens"
            )

    @contextmanager
    def _at(self, temperature: float) -> Iterator[None]:
        """Divide logits by ``temperature`` within a block: vLLM's prompt log probabilities know none."""
        model = self.attached.worker.model_runner.get_model()
        if temperature == 1:
            yield
            return
        compute = model.compute_logits
        model.compute_logits = lambda *given, **named: compute(*given, **named) / temperature
        try:
            yield
        finally:
            del model.compute_logits


class _Chosen:
    """A chooser at one site, for a step that has the whole batch."""

    def __init__(self, chooser: Chooser, tokens: int) -> None:
        self.chooser, self.tokens = chooser, tokens

    def __call__(self, choice: Tensor, hidden: Tensor, own: Tensor) -> Tensor:
        if len(choice) < self.tokens:
            return own  # the one new token of each row, after the text
        if len(choice) > self.tokens:
            raise UnsupportedRouter("vLLM padded a pass: load the engine eagerly (VllmEngine.load)")
        return self.chooser(choice, hidden, own.__getitem__)
