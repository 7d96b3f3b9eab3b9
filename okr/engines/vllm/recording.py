"""Records what ran for each request where vLLM itself cannot, and tells rows apart.

vLLM returns the experts of every request by way of its auxiliary outputs: a store beside the cache of keys and values,
fed by the workers and drawn on by the scheduler. Only its second model runner feeds the store, and that one needs a
card. On a CPU this module does it for the first model runner, with vLLM's own store.
"""

from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np

from okr.engines.vllm import routed
from okr.engines.vllm.requests import opts_out
from okr.engines.vllm.routed import RoutedSite


class Uncached:
    """A store of routed experts for an engine without a prefix cache. It has the methods of vLLM's own that
    :class:`Recorder` calls, and holds only what a request has not been given yet."""

    def __init__(self, vllm_config: Any) -> None:
        from vllm.model_executor.layers.fused_moe.routed_experts_capturer import RoutedExpertsCapturer

        most = vllm_config.scheduler_config.max_num_batched_tokens
        self._capturer = RoutedExpertsCapturer(max_num_batched_tokens=most, vllm_config=vllm_config)
        self.held: dict[str, list[np.ndarray]] = {}
        self.next: dict[str, int] = {}

    def begin_step(self, metadata: Any) -> None:
        """Learn which requests have ended, and from which token on each new one wants its experts."""
        for name in () if metadata is None else metadata.finished_requests:
            self.held.pop(name, None)
            self.next.pop(name, None)
        for name, first in {} if metadata is None else metadata.requests.items():
            self.next.setdefault(name, first)

    def prepare_output(self, batch: Any) -> "_Step":
        """What the step recorded."""
        ran = self._capturer.snapshot_routing_data(int(batch.query_start_loc_np[-1]))
        return _Step(self, batch, ran.numpy())


class _Step:
    """The rows of one step in an :class:`Uncached`."""

    def __init__(self, store: Uncached, batch: Any, ran: np.ndarray) -> None:
        self.store, self.batch, self.ran, self.request_ids = store, batch, ran, batch.req_ids

    def enqueue_cpu_copy(self, sampled: np.ndarray, rejected: np.ndarray) -> None:
        """Note how many tokens each request sampled, and how many draft tokens were rejected."""
        self.sampled, self.rejected = sampled, rejected

    def process_output(self) -> dict[str, Any]:
        """The experts that each request gets now."""
        from vllm.distributed.aux_output_connector.connector import AuxRequestOutput

        outputs, ends = {}, self.batch.query_start_loc_np
        for place, name in enumerate(self.request_ids):
            start, first = int(self.batch.num_computed_tokens_np[place]), self.store.next[name]
            rows = self.ran[ends[place] : ends[place + 1] - int(self.rejected[place])]
            end = start + len(rows)
            self.store.held.setdefault(name, []).append(rows[max(0, first - start) :])
            if self.sampled[place] and end >= first:
                outputs[name] = AuxRequestOutput(first, np.concatenate(self.store.held.pop(name)))
                self.store.next[name] = end
        return outputs


class Recorder:
    """Feeds a store of routed experts from a model runner of the first kind."""

    def __init__(self, runner: Any, places: list[RoutedSite], kv_cache_config: Any) -> None:
        self.runner = runner
        self.store = self._store(kv_cache_config)
        capture = self.store._capturer.capture
        for place in places:
            place.record = partial(capture, place.site.layer)

    def _store(self, kv_cache_config: Any) -> Any:
        from vllm.distributed.aux_output_connector.worker import get_aux_output_connector

        config, model = self.runner.vllm_config, self.runner.get_model()
        if not config.cache_config.enable_prefix_caching:
            return Uncached(config)
        store = get_aux_output_connector(model, config, kv_cache_config)
        for module in model.modules():  # a compiled model never calls these: okr::route records
            router: Any = getattr(module, "router", None)
            if hasattr(router, "capture_fn"):
                router.set_capture_fn(None)
        return store

    def ran(self, scheduler_output: Any) -> Any:
        """What the step that just ran recorded, or None."""
        if not scheduler_output.total_num_scheduled_tokens:
            return None
        batch = self.runner.input_batch
        names = list(batch.req_ids)
        counts = [scheduler_output.num_scheduled_tokens[name] for name in names]
        ends, starts = np.cumsum([0, *counts]), np.array(batch.num_computed_tokens_cpu[: len(names)])
        return self.store.prepare_output(
            SimpleNamespace(req_ids=names, query_start_loc_np=ends, num_computed_tokens_np=starts)
        )


def _finish(pending: Any, output: Any, drafted: dict[str, list[int]]) -> None:
    """Put what a step recorded into its ``output``. ``drafted`` are the draft tokens of each request."""
    sampled = np.array([len(output.sampled_token_ids[output.req_id_to_index[name]]) for name in pending.request_ids])
    proposed = np.array([len(drafted.get(name, ())) for name in pending.request_ids])
    pending.enqueue_cpu_copy(sampled, np.where(sampled > 0, proposed + 1 - sampled, 0))
    output.aux_output_connector_output = pending.process_output()


class Steps:
    """Stands around the steps of a model runner: tells which rows are native, and records.

    ``layout`` has, for each request of the present step, its first token and how many of its tokens are in the step.
    """

    def __init__(self, runner: Any, places: list[RoutedSite]) -> None:
        self.runner, self.places = runner, places
        self.recorder: Recorder | None = None
        self.pending: Any = None
        self.drafted: dict[str, list[int]] = {}
        self.layout: list[tuple[int, int]] = []
        self._prepare, self._execute, self._sample = runner._prepare_inputs, runner.execute_model, runner.sample_tokens
        runner._prepare_inputs, runner.execute_model, runner.sample_tokens = self.prepare, self.execute, self.sample

    def record(self, kv_cache_config: Any) -> None:
        """Record from now on."""
        self.recorder = Recorder(self.runner, self.places, kv_cache_config)

    def prepare(self, scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
        """The runner's own preparation, after which the rows of every request are known."""
        batch = self.runner.input_batch
        counts = [scheduler_output.num_scheduled_tokens[name] for name in batch.req_ids]
        ends = np.cumsum([0, *counts]).tolist()
        self.layout = list(zip(batch.num_computed_tokens_cpu[: len(counts)].tolist(), counts, strict=True))
        native = [
            span
            for name, span in zip(batch.req_ids, pairwise(ends), strict=True)
            if opts_out(getattr(self.runner.requests[name].sampling_params, "extra_args", None))
        ]
        routed.rows.leave(native)
        return self._prepare(scheduler_output, *arguments, **named)

    def execute(self, scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
        """The runner's own forward pass."""
        if self.recorder is None:
            return self._execute(scheduler_output, *arguments, **named)
        self.recorder.store.begin_step(scheduler_output.aux_output_connector_metadata)
        output = self._execute(scheduler_output, *arguments, **named)
        self.drafted = scheduler_output.scheduled_spec_decode_tokens
        self.pending = self.recorder.ran(scheduler_output)
        return output

    def sample(self, *arguments: Any, **named: Any) -> Any:
        """The runner's own sampling. Its output gets what was recorded."""
        output = self._sample(*arguments, **named)
        pending, self.pending = self.pending, None
        if pending is None:
            return output
        if not hasattr(output, "get_output"):
            _finish(pending, output, self.drafted)
            return output
        inner, drafted = output.get_output, self.drafted

        def get_output() -> Any:
            found = inner()
            _finish(pending, found, drafted)
            return found

        output.get_output = get_output
        return output
