"""Writes a trace file of every finished request, before its answer leaves the server.

The files are written by a thread beside the server's loop. An answer waits for its own file, so a client never has an
answer whose trace a killed server has lost. If a file cannot be written, the log says so and the answer goes out.
"""

import asyncio
import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

from okr.discovery import discover
from okr.discovery.discover import without_weights
from okr.engines.vllm.configuration import Configuration
from okr.engines.vllm.requests import opts_out
from okr.errors import OKRError
from okr.loaders.deepseek import register
from okr.routing import Key
from okr.traces import ModelIdentity, Trace

log = logging.getLogger("okr")


class Journal:
    """The folder of traces of one server."""

    def __init__(self, config: Any, configuration: Configuration) -> None:
        register()
        self.folder = Path(configuration.journal or "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = without_weights(config.model_config.hf_config).to(config.model_config.dtype)
        sites = [site for site in discover(self.model) if site.keyable]
        self.common: dict[str, Any] = {"sites": sites, "identity": ModelIdentity.of(self.model, sites)}
        self.opt_out = configuration.opt_out
        self.header: dict[str, Any] = {}
        if configuration.key_file is not None:
            self.header = {"key_id": Key.load(configuration.key_file).id, **vars(configuration.setting)}
        self.thread = ThreadPoolExecutor(1, "okr-journal")
        self.waiting: dict[str, list[Future[None]]] = {}

    def add(self, state: Any, experts: Any) -> None:
        """Begin to write the trace of a finished request, whose ``state`` vLLM keeps."""
        prompt, new = list(state.prompt_token_ids), list(state.detokenizer.output_token_ids)
        native = self.opt_out and opts_out(getattr(state, "okr_extra_args", None))
        name = re.sub(r"[^A-Za-z0-9._-]", "_", state.request_id)[:200]
        work = self.thread.submit(self._write, name, prompt, new, experts, {} if native else self.header)
        asked = state if state.parent_req is None else state.parent_req
        self.waiting.setdefault(asked.external_req_id, []).append(work)

    async def written(self, request_id: str) -> None:
        """Wait until the traces of a request are on the disk."""
        for work in self.waiting.pop(request_id, []):
            await asyncio.wrap_future(work)

    def _write(self, name: str, prompt: list[int], new: list[int], experts: Any, header: dict[str, Any]) -> None:
        try:
            trace = Trace.from_routed_experts(
                [*prompt, *new], experts, model=self.model, prompt_length=len(prompt), **self.common, **header
            )
            trace.save(self.folder / f"{name}.safetensors")
        except OKRError as error:  # an answer is not withheld because its trace cannot be kept
            log.warning("no trace of request %s: %s", name, error)
        except Exception:  # the thread must go on, and the log has the traceback
            log.exception("no trace of request %s", name)


_journals: list[Journal] = []
"""The journal of this process, if it has one."""


def keep_journal() -> None:
    """Let a server whose configuration names a journal keep it."""
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.output_processor import RequestState

    begin, generate = AsyncLLM.__init__, AsyncLLM.generate
    make, complete = RequestState.from_new_request, RequestState._new_completion_output

    @wraps(begin)
    def initialise(engine: Any, *arguments: Any, **named: Any) -> None:
        begin(engine, *arguments, **named)
        configuration = Configuration.of(engine.vllm_config.additional_config)
        if configuration is not None and configuration.journal is not None:
            _journals[:] = [Journal(engine.vllm_config, configuration)]

    @wraps(generate)
    async def generated(engine: Any, *arguments: Any, **named: Any) -> Any:
        async for output in generate(engine, *arguments, **named):
            if output.finished and _journals:
                await _journals[0].written(output.request_id)
            yield output

    @wraps(make)
    def made(*arguments: Any, **named: Any) -> Any:
        state = make(*arguments, **named)
        state.okr_extra_args = getattr(named["request"].sampling_params, "extra_args", None)
        return state

    @wraps(complete)
    def completed(state: Any, *arguments: Any, **named: Any) -> Any:
        output = complete(state, *arguments, **named)
        if _journals and output.routed_experts is not None:
            _journals[0].add(state, output.routed_experts)
        return output

    AsyncLLM.__init__, AsyncLLM.generate = initialise, generated
    RequestState.from_new_request, RequestState._new_completion_output = staticmethod(made), completed
