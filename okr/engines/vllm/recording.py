"""Records what ran for each request where vLLM itself cannot, and tells rows apart.

vLLM returns the experts of every request by way of its auxiliary outputs: a store beside the cache of keys and values,
fed by the workers and drawn on by the scheduler. Only its second model runner feeds the store, and that one needs a
card. On a CPU this module does it for the first model runner, with vLLM's own store.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np

from okr.engines.vllm import routed
from okr.engines.vllm.routed import RoutedSite

OPT_OUT = "okr"
"""The extra argument of a request that opts out of the key, with the value ``false``."""


class Recorder:
    """Feeds vLLM's store of auxiliary outputs from a model runner of the first kind."""

    def __init__(self, runner: Any, places: list[RoutedSite], kv_cache_config: Any) -> None:
        from vllm.distributed.aux_output_connector.worker import get_aux_output_connector

        self.runner = runner
        self.connector = get_aux_output_connector(runner.get_model(), runner.vllm_config, kv_cache_config)
        capture = self.connector._capturer.capture
        for place in places:
            place.record = lambda experts, layer=place.site.layer: capture(layer, experts)
        for module in runner.get_model().modules():  # a compiled model would not call it: its graph is made
            router = getattr(module, "router", None)
            if hasattr(router, "capture_fn"):
                router.set_capture_fn(None)

    def begin(self, scheduler_output: Any) -> None:
        """Tell the store of a step that begins."""
        self.connector.begin_step(scheduler_output.aux_output_connector_metadata)

    def ran(self, scheduler_output: Any) -> Any:
        """What the step that just ran recorded, or None."""
        if not scheduler_output.total_num_scheduled_tokens:
            return None
        batch = self.runner.input_batch
        ids = list(batch.req_ids)
        counts = [scheduler_output.num_scheduled_tokens[name] for name in ids]
        ends = np.concatenate([[0], np.cumsum(counts)])
        starts = np.array(batch.num_computed_tokens_cpu[: len(ids)])
        return self.connector.prepare_output(
            SimpleNamespace(req_ids=ids, query_start_loc_np=ends, num_computed_tokens_np=starts)
        )

    @staticmethod
    def finish(pending: Any, output: Any, drafted: dict[str, list[int]]) -> None:
        """Put what was recorded into the step's ``output``. ``drafted`` are the draft tokens of each request."""
        places = [output.req_id_to_index[name] for name in pending.request_ids]
        sampled = np.array([len(output.sampled_token_ids[place]) for place in places])
        proposed = np.array([len(drafted.get(name, ())) for name in pending.request_ids])
        rejected = np.where(sampled > 0, proposed + 1 - sampled, 0)
        pending.enqueue_cpu_copy(sampled, np.maximum(rejected, 0))
        output.aux_output_connector_output = pending.process_output()


class Steps:
    """Stands around the steps of a model runner: tells which rows are native, and records."""

    def __init__(self, runner: Any, places: list[RoutedSite]) -> None:
        self.runner, self.places = runner, places
        self.recorder: Recorder | None = None
        self.pending: Any = None
        self.drafted: dict[str, list[int]] = {}
        self._prepare, self._execute, self._sample = runner._prepare_inputs, runner.execute_model, runner.sample_tokens
        runner._prepare_inputs, runner.execute_model, runner.sample_tokens = self.prepare, self.execute, self.sample

    def record(self, kv_cache_config: Any) -> None:
        """Record from now on."""
        self.recorder = Recorder(self.runner, self.places, kv_cache_config)

    def prepare(self, scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
        """The runner's own preparation, after which the rows of every request are known."""
        spans, start = [], 0
        for name in self.runner.input_batch.req_ids:
            end = start + scheduler_output.num_scheduled_tokens[name]
            if opted_out(self.runner.requests[name].sampling_params):
                spans.append((start, end))
            start = end
        routed.rows.leave(spans)
        return self._prepare(scheduler_output, *arguments, **named)

    def execute(self, scheduler_output: Any, *arguments: Any, **named: Any) -> Any:
        """The runner's own forward pass."""
        if self.recorder is None:
            return self._execute(scheduler_output, *arguments, **named)
        self.recorder.begin(scheduler_output)
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
            Recorder.finish(pending, output, self.drafted)
            return output
        inner, drafted = output.get_output, self.drafted

        def get_output() -> Any:
            found = inner()
            Recorder.finish(pending, found, drafted)
            return found

        output.get_output = get_output
        return output


def opted_out(sampling_params: Any) -> bool:
    """Whether a request asks to be routed natively."""
    extra = getattr(sampling_params, "extra_args", None) or {}
    return extra.get(OPT_OUT) in (False, "false", "off", 0)
