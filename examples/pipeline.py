"""A Hugging Face pipeline under a key: text comes out as usual, and its trace proves the key.

    python examples/pipeline.py

Everything that runs the model inside the ``with`` block is keyed; the pipeline itself is not changed.
"""

import torch
from transformers import pipeline

import okr

PROMPT = "The whale had been seen again, and the captain"


def main() -> None:
    loaded = okr.load("tiny")  # or a folder, or a hub id
    key = okr.Key.generate()
    writer = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)

    torch.manual_seed(0)
    with okr.watermark(loaded.model, key, setting="quiet") as watermark, watermark.recording() as recording:
        (answer,) = writer(PROMPT, max_new_tokens=40, do_sample=True, return_tensors=True)
    token_ids = torch.tensor([answer["generated_token_ids"]])
    given = loaded.tokenizer(PROMPT, return_tensors="pt")["input_ids"].shape[1]
    (trace,) = recording.traces(token_ids, prompt_length=given)

    print(loaded.tokenizer.decode(token_ids[0], skip_special_tokens=True))
    print(okr.verify(loaded.model, trace, key))


if __name__ == "__main__":
    main()
