"""The sequence-to-sequence model that the user names to paraphrase with."""

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

import okr
from okr.jobs.tasks import NotAvailable
from okr.suites.paraphrase import Paraphraser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plain T5, random, with the embedded models' tokenizer."""
    place = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    config = T5Config(vocab_size=4096, **shape, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(place)
    okr.load("tiny-switch").tokenizer.save_pretrained(place)
    return place


def test_any_sequence_to_sequence_model_paraphrases(folder):
    write = Paraphraser(str(folder))
    text = "It is a truth universally acknowledged. " * 12  # more than one group of sentences
    assert write(text, 1) == write(text, 1) != write(text, 2)
    assert len(write(text, 1)) > len(write(text[:40], 1)) > 0


def test_what_cannot_paraphrase_is_refused_in_one_line(folder, tmp_path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for part in folder.iterdir():
        if part.suffix != ".safetensors":
            (pickled / part.name).write_bytes(part.read_bytes())
    whole = T5ForConditionalGeneration.from_pretrained(folder)
    torch.save(whole.state_dict(), pickled / "pytorch_model.bin")
    assert T5ForConditionalGeneration.from_pretrained(pickled)  # transformers would take it
    for name, words in (
        (str(tmp_path / "nobody"), "could not be loaded"),
        (str(pickled), "could not be loaded"),
        ("tiny-deepseek-moe", "is no sequence-to-sequence model"),
    ):
        with pytest.raises(NotAvailable, match=words) as caught:
            Paraphraser(name)
        assert "\n" not in str(caught.value)
