"""The steps about what the model does: the guide's experiment, verification, hit rates, memory."""

import shutil
from functools import partial

import detection
import jsonschema
import memory
import routers
import timing
import torch

import okr
from card.notes import Notes
from card.subject import Subject
from okr.experiment.layout import RESULTS
from okr.experiment.prompts import read_prompts
from okr.experiment.results import Results, schema
from okr.experiment.runner import Ready, run

GUIDE = {"epsilon": 2.0}
"""The guide's setting, as keyword arguments."""


def experiment(subject: Subject, note: Notes) -> None:
    """The guide's experiment in its quick configuration; ``results.json`` is read back and must be valid."""
    folder, resolved = subject.folder / "guide", subject.resolved
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier try that ended early
    prompts, loaded = read_prompts(resolved.config), subject.loaded
    note("seconds to make the model", round(subject.load_seconds, 1))
    run(
        resolved,
        resume=False,
        prepared=lambda: Ready(resolved, loaded, subject.engine, prompts, subject.load_seconds),
    )
    results = Results.load(folder / RESULTS)
    jsonschema.validate(results.model_dump(mode="json"), schema(), cls=jsonschema.Draft202012Validator)
    found = results.summary
    note("samples", found.total_samples)
    note("watermarked", found.watermarked_samples)
    note("controls watermarked", found.control_watermarked_samples)
    note("hit rate", found.average_hit_rate)
    note("largest p", max(sample.p_value for sample in results.detailed_results))
    note("tokens per second, keyed", results.timings.watermarked.tokens_per_second)
    note("tokens per second, unkeyed", results.timings.control.tokens_per_second)


def verification(subject: Subject, note: Notes) -> None:
    """Verifying a sample with 999 decoys beside generating it, at batch 1."""
    sizes = subject.sizes
    make, judge = detection.making_and_judging(subject.engine, sizes.sample_tokens)
    make(), judge()
    tries = {"generate": timing.timed(make, subject.device), "verify": timing.timed(judge, subject.device)}
    seconds = subject.paired(tries)
    note("new tokens", sizes.sample_tokens)
    note("milliseconds", timing.milliseconds(seconds))
    note("verify / generate", timing.median(timing.ratios(seconds, "verify", "generate")))


def hit_rates(subject: Subject, note: Notes) -> None:
    """A batch of 8 sampled samples in bfloat16, each judged alone."""
    prompt = subject.tokens(8, 16)
    torch.manual_seed(3)
    length = {"max_new_tokens": subject.sizes.sample_tokens, "min_new_tokens": subject.sizes.sample_tokens}
    with okr.watermark(subject.engine, routers.KEY, **GUIDE) as watermark:
        made = watermark.generate(input_ids=prompt, do_sample=True, **length)
    for number, trace in enumerate(made.traces):
        verdict = okr.verify(subject.engine, trace, routers.KEY)
        figures = {"hit rate": verdict.hit_rate, "p": verdict.p_value, "opportunities": verdict.opportunities}
        note(f"sample {number}", figures)


def peaks(subject: Subject, note: Notes) -> None:
    """What a key adds to the peak of memory, and what decoys add to that of verification."""
    sizes, model = subject.sizes, subject.loaded.model
    for batch in sizes.batches:
        note(f"batch {batch}", memory.added(model, subject.tokens(batch, sizes.prompt_tokens)))
    with okr.watermark(subject.engine, routers.KEY, **GUIDE) as watermark:
        made = watermark.generate(input_ids=subject.tokens(1, 16), max_new_tokens=sizes.sample_tokens)

    def verify(decoys: int) -> None:
        okr.verify(subject.engine, made.traces[0], routers.KEY, decoys=decoys)

    for decoys in (99, 999, 9999):
        note(f"verification, {decoys} decoys", {"peak": memory.peak(partial(verify, decoys), subject.device)})
