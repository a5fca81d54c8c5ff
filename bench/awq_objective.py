#!/usr/bin/env python3
"""How good are our AWQ scales by AutoAWQ's own measure? awq_objective.py MODEL OUTPUT TEXT [--windows 8] [--seq 512] [--every 3] [--bits 4] [--group 64] [--device cpu]

MODEL: a llama folder; OUTPUT: what `quantize MODEL --method awq` made of it (its quantize-report.json holds the factors). For the inputs that AutoAWQ scales
(behind both norms, and of down_proj), in every third block: the mean squared error of the parent module's outputs on tokens, with weights rounded to nearest after scaling, for no factors (nearest), for
our factors, and for those of AutoAWQ's 20 exponents that are best by that error (tokens); with its option duo_scaling off among them as well: both. Prints each, and at last
their sums and the ratio ours / tokens, as JSON lines.
"""
import argparse, base64, json, os
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
for name in ("model", "output", "text"):
    parser.add_argument(name)
for name, value in (("windows", 8), ("seq", 512), ("every", 3), ("bits", 4), ("group", 64)):
    parser.add_argument(f"--{name}", type=int, default=value)
parser.add_argument("--device", default="cpu")
asked = parser.parse_args()

ids = Tokenizer.from_file(os.path.join(asked.model, "tokenizer.json")).encode(open(asked.text, encoding="utf-8").read(), add_special_tokens=False).ids
tokens = torch.tensor(ids[: asked.windows * asked.seq]).view(asked.windows, asked.seq).to(asked.device)
model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).to(asked.device).eval()
report = json.load(open(os.path.join(asked.output, "quantize-report.json")))
factors = {
    t["tap"]: torch.frombuffer(bytearray(base64.b64decode(t["factors"])), dtype=torch.float32).to(asked.device)
    for t in report["transforms"]
    if t["factors"] is not None
}


def rounded(weight):
    """To nearest, asymmetric, as AutoAWQ does before it clips."""
    groups = weight.reshape(-1, asked.group)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    top = 2**asked.bits - 1
    scale = (high - low).clamp(min=1e-5) / top
    zero = (-torch.round(low / scale)).clamp(0, top)
    return ((torch.round(groups / scale) + zero).clamp(0, top) - zero).mul(scale).reshape(weight.shape)


class Seen:
    """What a module was called with."""

    def __init__(self, module):
        self.handle = module.register_forward_pre_hook(self.take, with_kwargs=True)

    def take(self, module, args, kwargs):
        self.args, self.kwargs = args, kwargs


def first(output):
    return output[0] if isinstance(output, tuple) else output


def loss_of(parent, seen, linears, scales, wanted):
    """Of the parent's outputs when its linears are rounded under these scales of their columns."""
    kept = [linear.weight.data for linear in linears]
    for linear in linears:
        linear.weight.data = rounded(linear.weight.data * scales) / scales
    found = first(parent(*seen.args, **seen.kwargs))
    for linear, weight in zip(linears, kept):
        linear.weight.data = weight
    return (found - wanted).float().pow(2).mean().item()


def candidates(x, linears):
    """AutoAWQ's (awq/quantize/quantizer.py): 20 exponents, with the weights' magnitudes in their groups (duo_scaling) and without."""
    x_mean = x.abs().reshape(-1, x.shape[-1]).mean(0)
    weights = torch.cat([linear.weight.data for linear in linears])
    groups = weights.reshape(-1, asked.group).abs()
    w_mean = (groups / (groups.amax(1, keepdim=True) + 1e-6)).reshape(weights.shape).mean(0)
    for duo in (True, False):
        for k in range(20):
            r = k / 20
            scales = (x_mean.pow(r) / (w_mean.pow(1 - r) + 1e-4) if duo else x_mean.pow(r)).clamp(min=1e-4)
            yield duo, scales / (scales.max() * scales.min()).sqrt()


sums = {}
with torch.no_grad():
    for index, layer in enumerate(model.model.layers):
        if index % asked.every != 0:
            continue
        attention, mlp = layer.self_attn, layer.mlp
        groups = [
            (attention, [attention.q_proj, attention.k_proj, attention.v_proj], "self_attn.q_proj"),
            (mlp, [mlp.gate_proj, mlp.up_proj], "mlp.gate_proj"),
            (mlp.down_proj, [mlp.down_proj], "mlp.down_proj"),
        ]
        seen = [(Seen(parent), Seen(linears[0])) for parent, linears, _ in groups]
        model.model(tokens, use_cache=False)
        for pair in seen:
            for one in pair:
                one.handle.remove()
        for (parent, linears, name), (call, tap) in zip(groups, seen):
            wanted = first(parent(*call.args, **call.kwargs))
            loss = lambda scales: loss_of(parent, call, linears, scales, wanted)
            plain = torch.ones_like(linears[0].weight[0])
            losses = [(duo, loss(scales)) for duo, scales in candidates(tap.args[0], linears)]
            found = {
                "tokens": min(lost for duo, lost in losses if duo),
                "both": min(lost for _, lost in losses),
                "ours": loss(factors.get(f"model.layers.{index}.{name}", plain)),
                "nearest": loss(plain),
            }
            for key, lost in found.items():
                sums[key] = sums.get(key, 0.0) + lost
            print(json.dumps({"tap": f"{index}.{name}", **found, "ratio": found["ours"] / found["tokens"]}), flush=True)
print(json.dumps({**sums, "ratio": sums["ours"] / sums["tokens"]}))
