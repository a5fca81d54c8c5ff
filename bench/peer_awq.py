#!/usr/bin/env python3
"""llm-compressor's AWQ, 4 bits in groups of 64, asymmetric, on this CPU: peer_awq.py MODEL TEXT SAMPLES SEQ THREADS

Prints one JSON line: blocks of the model, seconds of the oneshot call, and peak resident memory of the process. Seen with llmcompressor 0.14.0.1. Its time
grows with the blocks: give a model of three (docs/results.md says how) and multiply.
"""
import json, os, resource, sys, time
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

model, text, samples, seq, threads = sys.argv[1:6]
samples, seq = int(samples), int(seq)
torch.set_num_threads(int(threads))
torch.Tensor.pin_memory = lambda self, *_: self  # it pins batches for a GPU, without asking whether there is one
ids = Tokenizer.from_file(os.path.join(model, "tokenizer.json")).encode(open(text, encoding="utf-8").read(), add_special_tokens=False).ids
data = Dataset.from_list([{"input_ids": ids[i * seq:(i + 1) * seq], "attention_mask": [1] * seq} for i in range(samples)])
scheme = QuantizationScheme(
    targets=["Linear"],
    weights=QuantizationArgs(num_bits=4, type="int", symmetric=False, strategy="group", group_size=64))
loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
recipe = [AWQModifier(), QuantizationModifier(config_groups={"g": scheme}, ignore=["lm_head"])]
began = time.time()
oneshot(model=loaded, dataset=data, recipe=recipe, max_seq_length=seq, num_calibration_samples=samples)
seconds = time.time() - began
blocks = len(loaded.model.layers)
print(json.dumps({"blocks": blocks, "seconds": round(seconds, 1), "peakMB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))
