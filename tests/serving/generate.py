"""Generates in vLLM in a process of its own: ``python generate.py JOB.json OUT.json``. A job has ``model``, ``options``
of vllm.LLM, ``okr``, the section of the additional configuration, ``prompts`` as token ids, and ``sampling``."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from servers import small_machine


def run(job: dict[str, Any], folder: Path, **environment: str) -> list[dict[str, Any]]:
    """What a job generates, as responses of a server. Raises RuntimeError with what the process printed last."""
    asked, made = folder / "job.json", folder / "made.json"
    asked.write_text(json.dumps(job))
    variables = {**os.environ, **small_machine(), **environment, "PYTHONPATH": str(Path(__file__).parent)}
    line = [sys.executable, __file__, str(asked), str(made)]
    done = subprocess.run(line, env=variables, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-6000:])
    return list(json.loads(made.read_text()))


def main(asked: Path, made: Path) -> None:
    from vllm import LLM, SamplingParams

    job = json.loads(asked.read_text())
    options = {"max_model_len": 256, "enforce_eager": True, "skip_tokenizer_init": True, **job["options"]}
    llm = LLM(job["model"], additional_config={"okr": job["okr"]}, **options)
    sampling = SamplingParams(detokenize=False, ignore_eos=True, **job["sampling"])
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    answers = []
    for output in llm.generate(prompts, sampling, use_tqdm=False):
        choices = []
        for choice in output.outputs:
            file = io.BytesIO()
            np.save(file, choice.routed_experts)
            experts = base64.b64encode(file.getvalue()).decode()
            choices.append({"token_ids": list(choice.token_ids), "routed_experts": experts})
        answers.append({"prompt_token_ids": list(output.prompt_token_ids), "choices": choices})
    preempted = sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions") if job.get("metrics") else 0
    answers.append({"preempted": preempted})
    made.write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
