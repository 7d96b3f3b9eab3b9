"""Where in a document did the key act? A document in three parts, of which the second was written under a key.

    python examples/passages.py

Each part continues the text so far. The spans that ``okr.locate`` names are wrong with a probability of at most 0.01,
all of them together. ``okr verify tiny trace.safetensors --key key.json --passages`` does the same for a trace file.
"""

import dataclasses

import numpy as np
import torch

import okr

PART = 40  # new tokens of each part


def main() -> None:
    loaded = okr.load("tiny")
    engine, key = okr.prepare(loaded.model), okr.Key.generate()
    torch.manual_seed(0)
    ids = loaded.tokenizer("It was the best of times", return_tensors="pt")["input_ids"]
    given = ids.shape[1]
    written, traces = [], []
    for keyed in (False, True, False):
        session = okr.watermark(engine, key, setting="quiet") if keyed else okr.record(engine)
        with session as recorder:
            made = recorder.generate(ids, max_new_tokens=PART, min_new_tokens=PART, do_sample=True)
        written.append((keyed, ids.shape[1], made.sequences.shape[1]))
        ids, traces = made.sequences, [*traces, made.traces[0]]

    # The experts of each part ran in its own turn; the trace of the whole document has the rows of all three.
    first, second, third = (trace.experts for trace in traces)
    rows = np.concatenate([first, second[len(first) :], third[len(second) :]])
    document = dataclasses.replace(traces[1], token_ids=traces[2].token_ids, experts=rows, prompt_length=given)

    found = okr.locate(engine, document, key, alpha=0.01)
    for keyed, start, end in written:
        print(f"tokens {start} to {end - 1} were written {'under the key' if keyed else 'without a key'}")
    print(found)
    for span in found.spans:
        text = loaded.tokenizer.decode(document.token_ids[span.start : span.end])
        print(f"p = {span.p_value:.2g}, {span.swaps} swaps: ...{text}...")


if __name__ == "__main__":
    main()
