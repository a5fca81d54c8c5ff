#!/usr/bin/env python3
"""The peer of `npm run bench`: llm-compressor's GPTQ, 4 bits in groups of 64, on this CPU: peer_llmcompressor.py MODEL TEXT OUT sym|asym SAMPLES SEQ SEED THREADS

Prints one JSON line: seconds of the oneshot call, and peak resident memory of the process. Seen with llmcompressor 0.14.0.1.
"""
import json, os, resource, sys, time
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

model, text, out, symmetry, samples, seq, seed, threads = sys.argv[1:9]
samples, seq = int(samples), int(seq)
torch.set_num_threads(int(threads))
ids = Tokenizer.from_file(os.path.join(model, "tokenizer.json")).encode(open(text, encoding="utf-8").read(), add_special_tokens=False).ids
starts = torch.randint(0, len(ids) - seq, (samples,), generator=torch.Generator().manual_seed(int(seed))).tolist()
data = Dataset.from_list([{"input_ids": ids[s:s + seq], "attention_mask": [1] * seq} for s in starts])
scheme = QuantizationScheme(
    targets=["Linear"],
    weights=QuantizationArgs(num_bits=4, type="int", symmetric=symmetry == "sym", strategy="group", group_size=64))
loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
began = time.time()
oneshot(model=loaded, dataset=data, recipe=GPTQModifier(config_groups={"g": scheme}, ignore=["lm_head"]), max_seq_length=seq, num_calibration_samples=samples)
seconds = time.time() - began
if out != "-":
    loaded.save_pretrained(out, save_compressed=True)
print(json.dumps({"seconds": round(seconds, 1), "peakMB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
