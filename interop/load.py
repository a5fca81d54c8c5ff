#!/usr/bin/env python3
"""Official loaders, on a CPU. Requests are JSON lines on stdin, answers JSON lines on stdout, one for each.

{"loader": L, "folder": F, "text": T, "seq": S, "windows": W}
    -> {"perplexity": p, "precision": d, "note": n}    tokens 2..S of W windows of S tokens, no special tokens, as `quantize eval` counts
{"loader": L, "folder": F, "values": V}
    -> {"difference": x, "linears": n, ...}            V: a folder of plain float32 weights; x: max |theirs - ours| / max |theirs|, of the worst linear
    an error -> {"error": "the last line of its message"}

`precision` is the coarsest dtype that weights or arithmetic pass through inside the loader; `activations`: it quantizes what linears read.
"""
import gc, json, math, os, sys
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import numpy as np


class Loaded:
    """forward: token ids [T] -> logits [T, vocabulary]; weights: () -> pairs of module name and float32 [out, in]. Either may be None."""

    def __init__(self, forward, weights, precision="float32", note="", activations=False):
        self.forward, self.weights, self.precision, self.note, self.activations = forward, weights, precision, note, activations


def torch_forward(model):
    import torch
    model.eval()

    def forward(window):
        with torch.no_grad():
            return model(torch.from_numpy(window)[None]).logits[0].float().numpy()
    return forward


def torch_weights(model, dense):
    """`dense` of each module that has one, by name."""
    def weights():
        for name, module in model.named_modules():
            value = dense(module)
            if value is not None:
                yield name, value.detach().float().numpy()
    return weights


# -- transformers: plain, compressed-tensors, bitsandbytes, fp8 ---------------------------------------------------------------------

def load_hf(folder):
    config = quantization_config(folder)
    loaders = {None: load_plain, "compressed-tensors": load_compressed, "bitsandbytes": load_bnb, "fp8": load_fp8}
    return loaders.get(config.get("quant_method"), load_packed)(folder)


def quantization_config(folder):
    with open(os.path.join(folder, "config.json")) as file:
        return json.load(file).get("quantization_config") or {}


def from_pretrained(folder, dtype, **options):
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cpu", **options)


def linear_weight(module):
    import torch
    return module.weight if type(module) is torch.nn.Linear and module.weight.is_floating_point() else None


def load_plain(folder):
    import torch
    model = from_pretrained(folder, torch.float32)
    return Loaded(torch_forward(model), torch_weights(model, linear_weight))


def load_packed(folder):
    """Kernels of another package: GPTQ and AWQ, by GPTQModel."""
    import torch
    return Loaded(torch_forward(from_pretrained(folder, torch.float32)), None)


def load_compressed(folder):
    """As stored, so that activations are quantized too; dequantized by transformers where the stored form does not load or run in float32."""
    import torch
    from transformers.utils.quantization_config import CompressedTensorsConfig
    config = quantization_config(folder)
    activations = any(group.get("input_activations") for group in config["config_groups"].values())
    try:
        model = from_pretrained(folder, torch.float32)
        forward = torch_forward(model)
        forward(np.zeros(4, dtype=np.int64))
        return Loaded(forward, torch_weights(model, linear_weight), activations=activations)
    except Exception:
        if activations:
            model = from_pretrained(folder, torch.bfloat16)
            return Loaded(torch_forward(model), torch_weights(model, linear_weight), "bfloat16", activations=True)
        model = from_pretrained(folder, torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True))
        return Loaded(torch_forward(model), torch_weights(model, linear_weight), "bfloat16", "dequantized on load")


def load_compressed_codes(folder):
    """What the package's own unpacking makes of the tensors of an integer checkpoint whose config it refuses."""
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    bits = {group["weights"]["num_bits"] for group in quantization_config(folder)["config_groups"].values()}.pop()
    tensors = stored_tensors(folder)

    def weights():
        for name in [name.removesuffix(".weight_packed") for name in tensors if name.endswith(".weight_packed")]:
            packed, scale, shape, order = (tensors.get(f"{name}.{part}") for part in ["weight_packed", "weight_scale", "weight_shape", "weight_g_idx"])
            codes = unpack_from_int32(packed, bits, shape)
            scales = scale.float() if order is None else scale.float()[:, order.long()]  # one group has no order
            yield name, (codes.float() * scales).numpy()
    return Loaded(None, weights, note="only unpacked: compressed-tensors refuses actorder group since 0.19")


def load_bnb(folder):
    import torch
    import bitsandbytes.functional as functional
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    int8 = quantization_config(folder).get("load_in_8bit", False)
    model = from_pretrained(folder, torch.float32)

    def dense(module):
        if isinstance(module, Linear4bit):
            return functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        if isinstance(module, Linear8bitLt):
            scb = module.state.SCB if module.weight.SCB is None else module.weight.SCB  # the first forward moves it
            return functional.int8_vectorwise_dequant(module.weight.data, scb)
        return None
    for module in model.modules():
        if isinstance(module, Linear4bit):  # else bfloat16, which the checkpoint declares, and which some CPUs multiply in
            module.compute_dtype = module.weight.quant_state.dtype = torch.float32
            module.compute_type_is_set, module.support_avx512bf16_for_cpu = True, False
    for parameter in model.parameters():  # transformers keeps these in bfloat16, whatever is asked
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    return Loaded(torch_forward(model), torch_weights(model, dense), "float16" if int8 else "float32", activations=int8)


def load_fp8(folder):
    """Without a GPU transformers decodes these weights, into bfloat16."""
    import torch
    model = from_pretrained(folder, torch.bfloat16).float()
    return Loaded(torch_forward(model), torch_weights(model, linear_weight), "bfloat16", "dequantized on load")


# -- GPTQModel: gptq, awq -------------------------------------------------------------------------------------------------------------

def load_gptqmodel(folder):
    import torch
    from gptqmodel import BACKEND, GPTQModel
    method = quantization_config(folder).get("quant_method")
    backend = {"gptq": "GPTQ_TORCH", "awq": "AWQ_TORCH"}.get(method, "AUTO")
    model = GPTQModel.load(folder, device="cpu", backend=getattr(BACKEND, backend, BACKEND.AUTO), dtype=torch.float16).model
    return Loaded(torch_forward(model), None, "float16")


# -- optimum-quanto -------------------------------------------------------------------------------------------------------------------

def load_quanto(folder):
    """Decoded by quanto with its scales widened: it computes in their bfloat16, which alone moves a model of 2 bits by several percent."""
    import torch
    from optimum.quanto import QuantizedModelForCausalLM
    from optimum.quanto.nn import QModuleMixin
    model = QuantizedModelForCausalLM.from_pretrained(folder)._wrapped
    precision = "float32"
    for name, module in list(model.named_modules()):
        if isinstance(module, QModuleMixin):
            weight = module.weight
            if hasattr(weight, "_scale_shift"):  # torch's int4 kernel: zero points became bfloat16 when it was loaded
                precision = "bfloat16"
            for part in ("_scale", "_shift"):
                value = getattr(weight, part, None)
                if value is not None and value.is_floating_point():
                    setattr(weight, part, value.float())
            decoded = weight.dequantize().detach().float()
            linear = torch.nn.Linear(decoded.shape[1], decoded.shape[0], bias=module.bias is not None)
            linear.weight = torch.nn.Parameter(decoded)
            if module.bias is not None:
                linear.bias = torch.nn.Parameter(module.bias.detach().float())
            model.set_submodule(name, linear)
    model.float()
    return Loaded(torch_forward(model), torch_weights(model, linear_weight), precision, "decoded by quanto")


# -- hqq: transformers 5 does not load it; its package decodes each linear into a plain model -----------------------------------------

def load_hqq(folder):
    import torch
    from hqq.core.quantize import HQQLinear

    def decode(name, tensors):
        linear = HQQLinear(None, None, compute_dtype=torch.float32, device="cpu", initialize=False)
        linear.load_state_dict(tensors)
        return linear.dequantize(), linear.bias
    return decoded_into_plain(folder, "W_q", decode, "decoded by hqq")


def decoded_into_plain(folder, mark, decode, note):
    """Each module X with a tensor `X.<mark>` becomes what `decode` makes of its tensors: weight and bias, in a model without a quantization."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    stored = stored_tensors(folder)
    dense = {}
    for name in [name.removesuffix(f".{mark}") for name in stored if name.endswith(f".{mark}")]:
        parts = {key.removeprefix(f"{name}."): stored.pop(key) for key in list(stored) if key.startswith(f"{name}.")}
        dense[name], bias = decode(name, parts)
        stored[f"{name}.weight"] = dense[name]
        if bias is not None:
            stored[f"{name}.bias"] = bias
    missing, unexpected = model.load_state_dict({name: value.float() for name, value in stored.items()}, strict=False)
    model.tie_weights()
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"missing {missing}, unexpected {unexpected}")
    return Loaded(torch_forward(model), lambda: ((name, value.float().numpy()) for name, value in dense.items()), note=note)


# -- codebook: a reader of its documentation (docs/codebook-format.md) ------------------------------------------------------------------

def load_codebook(folder):
    import torch
    schemes = {linear["name"]: (scheme, linear) for scheme in quantization_config(folder)["schemes"] for linear in scheme["linears"]}

    def decode(name, tensors):
        scheme, linear = schemes[name]
        bits, inputs = scheme["bits"], linear["in"]
        words = tensors["codes"].view(torch.int32).long() & 0xFFFFFFFF
        stream = (words[:, :, None] >> torch.arange(32) & 1).flatten(1)[:, :inputs * bits].reshape(linear["out"], inputs, bits)
        codes = (stream << torch.arange(bits)).sum(-1)
        width = {"channel": inputs, "tensor": inputs, "block": 128}.get(scheme["group"], scheme["group"])
        groups = tensors["groups"].long() if "groups" in tensors else torch.arange(inputs) // width
        rows = torch.arange(linear["out"])

        def of_each(parameters):
            """[R, G] to [out, in]."""
            row = rows // 128 if scheme["group"] == "block" else rows.clamp(max=parameters.shape[0] - 1)
            return parameters.float()[row][:, groups]
        scales = of_each(tensors["scales"])
        if "global_scale" in tensors:
            scales = scales / tensors["global_scale"]
        if "levels" in tensors:
            weight = tensors["levels"][codes] * scales
        elif "biases" in tensors:
            weight = codes * scales + of_each(tensors["biases"])
        else:
            zeros = of_each(tensors["zeros"]) if "zeros" in tensors else 2 ** (bits - 1)
            weight = (codes - zeros) * scales
        return weight, tensors.get("bias")
    return decoded_into_plain(folder, "codes", decode, "decoded as documented")


def stored_tensors(folder):
    from safetensors.torch import load_file
    return {name: value for file in weight_files(folder) for name, value in load_file(os.path.join(folder, file)).items()}


def weight_files(folder):
    return sorted(file for file in os.listdir(folder) if file.endswith(".safetensors"))


# -- mlx-lm ---------------------------------------------------------------------------------------------------------------------------

def load_mlx(folder):
    import mlx.core as mx
    import mlx.nn as nn
    from mlx_lm import load
    model, _ = load(folder)
    model.set_dtype(mx.float32)
    awq = quantization_config(folder).get("quant_method") == "awq"  # mlx-lm turns its zero points into float16 biases

    def weights():
        for name, module in model.named_modules():
            if isinstance(module, (nn.QuantizedLinear, nn.QuantizedEmbedding)):
                value = mx.dequantize(module.weight, module.scales, module.get("biases"), group_size=module.group_size, bits=module.bits, mode=module.mode)
                yield name, np.array(value.astype(mx.float32))
    return Loaded(lambda window: np.array(model(mx.array(window)[None])[0].astype(mx.float32)), weights, "float16" if awq else "float32")


# -- onnxruntime ----------------------------------------------------------------------------------------------------------------------

def load_onnx(folder):
    import onnxruntime
    [file] = [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names if name.endswith(".onnx")]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}

    def forward(window):
        """An empty past; other inputs by name."""
        length = len(window)
        known = {"input_ids": window, "attention_mask": np.ones(length, np.int64), "position_ids": np.arange(length)}
        feeds = {}
        for node in session.get_inputs():
            if node.name in known:
                feeds[node.name] = known[node.name][None].astype(np.int64)
            else:
                feeds[node.name] = np.zeros([1, node.shape[1], 0, node.shape[3]], dtypes[node.type])
        return session.run(["logits"], feeds)[0][0].astype(np.float32)
    half = any(node.type == "tensor(float16)" for node in session.get_outputs())
    return Loaded(forward, None, "float16" if half else "float32")


# -- llama.cpp ------------------------------------------------------------------------------------------------------------------------

def gguf_file(folder):
    [file, *_] = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".gguf"))
    return file


def load_gguf(folder):
    """llama.cpp computes; gguf-py decodes. The text is cut by llama.cpp's own tokenizer. With keys and values in float32, as ours."""
    from llama_cpp import GGML_TYPE_F32, Llama
    options = {"type_k": GGML_TYPE_F32, "type_v": GGML_TYPE_F32}
    model = Llama(gguf_file(folder), n_ctx=4096, n_batch=512, n_threads=2, logits_all=True, verbose=False, **options)

    def forward(window):
        model.reset()
        model.eval([int(token) for token in window])
        return np.array(model.scores[:len(window)], np.float32)

    def weights():
        from gguf import GGUFReader
        from gguf.quants import dequantize
        reader = GGUFReader(gguf_file(folder))
        heads = {which: int(reader.fields[f"llama.attention.head_count{kind}"].contents()) for which, kind in [("q", ""), ("k", "_kv")]}
        for tensor in reader.tensors:
            name = hf_name(tensor.name)
            if name is None or len(tensor.shape) != 2 or tensor.tensor_type.name in ("F32", "F16", "BF16"):
                continue
            value = dequantize(tensor.data, tensor.tensor_type)
            which = name[-len("x_proj")] if name.endswith(("q_proj", "k_proj")) else None
            if which:  # neighbours to halves
                value = value.reshape(heads[which], -1, 2, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
            yield name, value
    loaded = Loaded(forward, weights, "float32", "llama.cpp", activations=True)
    loaded.tokenize = lambda text: model.tokenize(text.encode(), add_bos=False, special=True)
    return loaded


def hf_name(name):
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    whole = {"token_embd.weight": "model.embed_tokens", "output.weight": "lm_head"}
    if name in whole:
        return whole[name]
    fields = name.split(".")
    return f"model.layers.{fields[1]}.{parts[fields[2]]}" if fields[0] == "blk" and fields[2] in parts else None


LOADERS = {"gguf": load_gguf, "hf": load_hf, "ct-unpack": load_compressed_codes, "gptqmodel": load_gptqmodel, "quanto": load_quanto, "hqq": load_hqq, "codebook": load_codebook, "mlx": load_mlx, "onnx": load_onnx}


def token_windows(loaded, folder, text, seq, windows):
    content = open(text, encoding="utf-8").read()
    if hasattr(loaded, "tokenize"):
        ids = loaded.tokenize(content)
    else:
        from tokenizers import Tokenizer
        ids = Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).encode(content, add_special_tokens=False).ids
    count = min(windows, len(ids) // seq)
    return np.array(ids[:count * seq], dtype=np.int64).reshape(count, seq)


def perplexity(loaded, windows):
    total = 0.0
    for window in windows:
        logits = loaded.forward(window)[:-1].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        chosen = logits[np.arange(len(window) - 1), window[1:]] - np.log(np.exp(logits).sum(-1))
        total -= chosen.sum()
    return math.exp(total / (windows.shape[0] * (windows.shape[1] - 1)))


def compare(loaded, folder):
    """The worst linear's difference from the float32 weights in `folder`."""
    ours = stored_tensors(folder)
    differences = {}
    for name, theirs in loaded.weights():
        if f"{name}.weight" in ours:
            scale = np.abs(theirs).max()
            differences[name] = float(np.abs(theirs - ours[f"{name}.weight"].float().numpy()).max() / scale)
    worst = max(differences, key=differences.get)
    return {"difference": differences[worst], "worst": worst, "linears": len(differences)}


def answer(request):
    loaded = LOADERS[request["loader"]](request["folder"])
    result = {"precision": loaded.precision, "note": loaded.note, "activations": loaded.activations}
    if "text" in request and loaded.forward:
        windows = token_windows(loaded, request["folder"], request["text"], request["seq"], request["windows"])
        result["perplexity"] = perplexity(loaded, windows)
    if hasattr(loaded, "tolerance"):
        result["tolerance"] = loaded.tolerance
    if "text" in request and hasattr(loaded, "tokenize"):
        lines = [line for line in open(request["text"], encoding="utf-8").read().split("\n") if line.strip()][:1000]
        result["tokens"] = [loaded.tokenize(line) for line in lines]
    if "values" in request and loaded.weights:
        result |= compare(loaded, request["values"])
    return result


def last_line(error):
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:400]


def main():
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # packages print to stdout
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:
            result = {"error": last_line(error)}
        print(json.dumps(result), file=answers)
        gc.collect()


main()
