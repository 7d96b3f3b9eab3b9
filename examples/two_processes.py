"""Texts shared over two processes under one key, with accelerate; on processors, by gloo.

    okr keygen key.json
    accelerate launch --multi_gpu --num_processes 2 examples/two_processes.py key.json

``--multi_gpu`` starts several processes on one machine, with cards or without. Every process reads the key from its
file; only traces travel between them.
"""

import sys

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

import okr

PROMPTS = ["The whale", "It was the best of times", "In the beginning", "A man of sense"]


def main(key_file: str) -> None:
    state = PartialState(cpu=not torch.cuda.is_available())
    loaded = okr.load("tiny")
    key = okr.Key.load(key_file)
    made = []
    with state.split_between_processes(PROMPTS) as mine, okr.watermark(loaded.model, key, setting="quiet") as watermark:
        for prompt in mine:
            torch.manual_seed(PROMPTS.index(prompt))  # a text is the same, whichever process makes it
            inputs = loaded.tokenizer(prompt, return_tensors="pt")
            result = watermark.generate(**inputs, max_new_tokens=32, do_sample=True)
            made.append((state.process_index, result.traces[0]))
    gathered = gather_object(made)
    if state.is_main_process:
        verdicts = okr.verify_each(loaded.model, [trace for _, trace in gathered], key)
        for prompt, (process, _), verdict in zip(PROMPTS, gathered, verdicts.each, strict=True):
            print(f"process {process}, {prompt!r}: p = {verdict.p_value:.2g}")
        print(verdicts)
    state.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
