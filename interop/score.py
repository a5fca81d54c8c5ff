#!/usr/bin/env python3
"""Score a checkpoint by its official loader on a CPU: score.py LOADER CHECKPOINT --text FILE [--windows 8] [--seq 512] [--reference FOLDER]

LOADER: hf (whatever transformers reads: plain, compressed-tensors) or gptq (gptqmodel). Prints one JSON line: perplexity of tokens
2..seq of non-overlapping windows, no special tokens, logits in fp32; with --reference (a plain folder) also the mean KL divergence
KL(reference || checkpoint) in nats a token and the share of tokens whose most likely next token agrees: the protocol of `quantize eval`.
Seen with transformers 5.17, gptqmodel 7.7.0, torch 2.14.
"""
import argparse, json, math, os
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import numpy as np
import torch
from tokenizers import Tokenizer

p = argparse.ArgumentParser()
p.add_argument("loader", choices=["hf", "gptq"])
p.add_argument("checkpoint")
p.add_argument("--text", required=True)
p.add_argument("--windows", type=int, default=8)
p.add_argument("--seq", type=int, default=512)
p.add_argument("--reference")
p.add_argument("--tokenizer")
a = p.parse_args()


def once_decompressed(folder):
    """compressed-tensors would otherwise decode every weight again in every forward pass."""
    config = json.load(open(os.path.join(folder, "config.json"))).get("quantization_config") or {}
    if config.get("quant_method") != "compressed-tensors":
        return {}
    from transformers.utils.quantization_config import CompressedTensorsConfig
    return {"quantization_config": CompressedTensorsConfig(run_compressed=False)}


def load(loader, folder):
    if loader == "hf":
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu", **once_decompressed(folder))
    else:
        from gptqmodel import BACKEND, GPTQModel
        backend = BACKEND.GPTQ_TORCH if hasattr(BACKEND, "GPTQ_TORCH") else BACKEND.AUTO
        model = GPTQModel.load(folder, device="cpu", backend=backend, dtype=torch.float16).model
    model.eval()
    return model


def windows():
    tokenizer = Tokenizer.from_file(os.path.join(a.tokenizer or a.checkpoint, "tokenizer.json"))
    ids = tokenizer.encode(open(a.text, encoding="utf-8").read(), add_special_tokens=False).ids
    n = min(a.windows, len(ids) // a.seq)
    return torch.tensor(ids[: n * a.seq]).view(n, a.seq)


model = load(a.loader, a.checkpoint)
reference = load("hf", a.reference) if a.reference else None
nll = kl = same = scored = 0.0
with torch.no_grad():
    for w in windows():
        logp = model(w[None]).logits[0, :-1].double().log_softmax(-1)
        nll -= logp.gather(1, w[1:, None]).sum().item()
        scored += len(w) - 1
        if reference is not None:
            ref = reference(w[None]).logits[0, :-1].double().log_softmax(-1)
            kl += (ref.exp() * (ref - logp)).sum().item()
            same += (ref.argmax(-1) == logp.argmax(-1)).sum().item()
result = {"loader": a.loader, "perplexity": math.exp(nll / scored), "tokens": int(scored)}
if reference is not None:
    result |= {"meanKl": kl / scored, "topAgreement": same / scored}
print(json.dumps(result))
