#!/usr/bin/env python3
"""Greedy tokens of a plain folder by transformers, float32: greedy.py FOLDER ID,ID,... COUNT. Prints one JSON line: {"ids": [...]}."""
import json, os, sys
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from transformers import AutoModelForCausalLM

folder, ids, count = sys.argv[1:4]
given = torch.tensor([[int(i) for i in ids.split(",")]])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
made = []
with torch.no_grad():
    past = None
    step = given
    for _ in range(int(count)):
        out = model(step, past_key_values=past, use_cache=True)
        past = out.past_key_values
        made.append(out.logits[0, -1].argmax().item())
        step = torch.tensor([[made[-1]]])
print(json.dumps({"ids": made}))
