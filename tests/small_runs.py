"""What the tests of experiments share: small settings, processes under a launcher, a tokenizer."""

import os
import subprocess
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from okr.loaders import passages

PASSPHRASE = "a passphrase for tests only"
# 5 samples in batches of 2: the last batch is not full; 12 tokens are proven by the loud setting alone.
SMALL = {"samples": 5, "max_length": 12, "batch_size": 2, "decoys": 199, "alpha": 0.01, "quality_passages": 3,
         "setting": "loud"}  # fmt: skip


def launched(python: Path, processes: int, *words: str) -> subprocess.CompletedProcess:
    """Run a script, or ``-m`` and a module, in several processes of the program ``python`` under accelerate's launcher,
    on any free port.

    ``--multi_gpu`` starts them with torchrun, cards or not; ``--cpu`` would start one only (several need mpirun).
    """
    options = {
        "--num_processes": str(processes),
        "--num_machines": "1",
        "--mixed_precision": "no",
        "--dynamo_backend": "no",
        "--main_process_port": "0",
    }
    launcher = [str(python), "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += [word for option in options.items() for word in option]
    return subprocess.run(
        [*launcher, *words],
        env=os.environ | {"PYTHON_EXEC": str(python)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def save_tokenizer(folder: Path, texts: int = 10) -> None:
    """A byte-level BPE of 384 entries, made from shipped passages, that puts <bos> first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([passage.text for passage in passages(texts)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
