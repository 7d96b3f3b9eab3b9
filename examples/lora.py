"""LoRA training of a model whose routers are under a key, with peft.

    pip install peft
    python examples/lora.py

The adapter learns with the experts that the key chooses. The model that it leaves is keyed, and proven, like any other.
"""

import torch
from peft import LoraConfig, get_peft_model

import okr
from okr.loaders import passages

STEPS, TEXTS = 12, 4


def main() -> None:
    loaded = okr.load("tiny")
    key = okr.Key.generate()
    torch.manual_seed(0)
    adapter = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])  # attention; routers stay as they are
    model = get_peft_model(loaded.model, adapter)
    texts = [loaded.tokenizer(passage.text, return_tensors="pt")["input_ids"][:, :64] for passage in passages(TEXTS)]
    optimizer = torch.optim.AdamW([part for part in model.parameters() if part.requires_grad], lr=1e-2)

    losses = []
    with okr.watermark(model, key, setting="quiet"):
        for step in range(STEPS):
            ids = texts[step % TEXTS]
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()  # inside the block: outside, the routers are native again
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    first, last = sum(losses[:TEXTS]) / TEXTS, sum(losses[-TEXTS:]) / TEXTS
    print(f"loss under the key: {first:.2f} in the first round, {last:.2f} in the last")

    model.eval()
    prompt = loaded.tokenizer("It was the best of times", return_tensors="pt")
    with okr.watermark(model, key, setting="quiet") as watermark:
        made = watermark.generate(**prompt, max_new_tokens=40, do_sample=True)
    print(okr.verify(model, made.traces[0], key))


if __name__ == "__main__":
    main()
