#!/usr/bin/env python3
"""Checkpoints made by the formats' own packages: peers.py MODEL FOLDER --text FILE [--only WORD ...]

Writes FOLDER/<format>-<variant> for each package that this Python has (README.md, environments a, b, c). A folder that is there is left
alone; what a package refuses (a group that does not divide, a kernel that needs a GPU) is one line on stderr. Prints one JSON line a
checkpoint: {"name": ..., "folder": ..., "error": null}.
"""
import argparse, importlib.util, json, os, shutil, sys, tempfile
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model"]


def plain(model, **options):
    """The model as transformers loads it, in the dtype of its config."""
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(model, dtype="auto", device_map="cpu", **options)


def windows(model, text, count, length):
    """Lists of token ids, for packages that calibrate."""
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    ids = tokenizer.encode(open(text, encoding="utf-8").read(), add_special_tokens=False).ids
    return [ids[i * length:(i + 1) * length] for i in range(min(count, len(ids) // length))]


def config_of(folder):
    with open(os.path.join(folder, "config.json")) as file:
        return json.load(file)


def write_config(folder, config):
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=2)


# -- bitsandbytes, by transformers -------------------------------------------------------------------------------------------------

def bnb(**options):
    def make(model, out, text):
        from transformers import BitsAndBytesConfig
        plain(model, quantization_config=BitsAndBytesConfig(**options)).save_pretrained(out)
    return make


BNB = {
    "bnb-nf4": bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bnb-fp4": bnb(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "bnb-nf4-double": bnb(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "bnb-fp4-double": bnb(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
    "bnb-int8": bnb(load_in_8bit=True),
}


# -- optimum-quanto ----------------------------------------------------------------------------------------------------------------

def quanto(kind, exclude="lm_head"):
    def make(model, out, text):
        from optimum.quanto import QuantizedModelForCausalLM
        QuantizedModelForCausalLM.quantize(plain(model), weights=kind, exclude=exclude).save_pretrained(out)
    return make


QUANTO = {f"quanto-{kind[1:]}": quanto(kind) for kind in ["qint2", "qint4", "qint8", "qfloat8_e4m3fn", "qfloat8_e5m2"]}


# -- hqq, in the safetensors form of transformers 4 ---------------------------------------------------------------------------------

def hqq(nbits, group_size):
    def make(model, out, text):
        import torch
        from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
        from safetensors.torch import save_file
        source = plain(model)
        quant_config = BaseQuantizeConfig(nbits=nbits, group_size=group_size, axis=1)
        tensors = {name: value for name, value in source.state_dict().items() if name != "lm_head.weight"}
        for name, module in source.named_modules():
            if not isinstance(module, torch.nn.Linear) or name == "lm_head":
                continue
            del tensors[f"{name}.weight"]
            linear = HQQLinear(module, quant_config, compute_dtype=torch.float16, device="cpu", del_orig=False)
            tensors |= {f"{name}.{key}": value.data for key, value in linear.state_dict().items()}
        os.makedirs(out)
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, os.path.join(out, "model.safetensors"), {"format": "pt"})
        entry = {"weight_quant_params": quant_config["weight_quant_params"], "scale_quant_params": None, "zero_quant_params": None, "offload_meta": False}
        write_config(out, config_of(model) | {"quantization_config": {"quant_method": "hqq", "quant_config": entry, "skip_modules": ["lm_head"]}})
    return make


HQQ = {f"hqq-{bits}bit-g{group}": hqq(bits, group) for bits, group in [(1, 64), (2, 16), (3, 64), (4, 64), (5, 64), (6, 64), (8, 128)]}


# -- mlx-lm ------------------------------------------------------------------------------------------------------------------------

def mlx(bits, group, mode="affine", **options):
    def make(model, out, text):
        from mlx_lm import convert
        convert(model, out, quantize=True, q_bits=bits, q_group_size=group, q_mode=mode, **options)
    return make


def only_blocks(path, module):
    return ".layers." in path


MLX = {
    **{f"mlx-{bits}bit-g{group}": mlx(bits, group) for bits, group in [(2, 32), (3, 64), (4, 64), (4, 128), (5, 64), (6, 64), (8, 64)]},
    "mlx-mxfp4": mlx(4, 32, "mxfp4"),
    "mlx-nvfp4": mlx(4, 16, "nvfp4"),
    "mlx-mxfp8": mlx(8, 32, "mxfp8"),
    "mlx-4bit-blocks": mlx(4, 64, quant_predicate=only_blocks),
    "mlx-mixed_3_6": mlx(4, 64, quant_predicate="mixed_3_6"),
}


# -- compressed-tensors, by llm-compressor -----------------------------------------------------------------------------------------

def ct(**options):
    """`preset`, or a `weights` scheme of its own; presets with static activations see the text."""
    def make(model, out, text):
        import torch
        from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
        from datasets import Dataset
        from llmcompressor import oneshot
        from llmcompressor.modifiers.quantization import QuantizationModifier
        torch.Tensor.pin_memory = lambda self, *_, **__: self  # asked for where there is no GPU as well
        source = plain(model)
        if "weights" in options:
            weights = QuantizationArgs(**options["weights"])
            modifier = QuantizationModifier(config_groups={"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}, ignore=["lm_head"])
        else:
            modifier = QuantizationModifier(targets="Linear", scheme=options["preset"], ignore=["lm_head"])
        data = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in windows(model, text, 16, 128)]
        calibration = {"dataset": Dataset.from_list(data), "max_seq_length": 128, "num_calibration_samples": len(data)} if options.get("data") else {}
        oneshot(model=source, recipe=modifier, **calibration)
        source.save_pretrained(out, save_compressed=True)
    return make


def integers(bits, group, symmetric=True, **more):
    return ct(weights={"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": group, **more})


CT = {
    "ct-w4a16-g64": integers(4, 64),
    "ct-w4a16-asym-g64": integers(4, 64, symmetric=False),
    "ct-w3a16-g64": integers(3, 64),
    "ct-w8a16-g64": integers(8, 64),
    "ct-w2a16-asym-g32": integers(2, 32, symmetric=False),
    "ct-w4a16-channel": ct(weights={"num_bits": 4, "type": "int", "symmetric": True, "strategy": "channel"}),
    "ct-w8a8": ct(preset="W8A8"),
    "ct-fp8-dynamic": ct(preset="FP8_DYNAMIC"),
    "ct-fp8-static": ct(preset="FP8", data=True),
    "ct-fp8-block": ct(preset="FP8_BLOCK"),
    "ct-nvfp4a16": ct(preset="NVFP4A16"),
    "ct-nvfp4": ct(preset="NVFP4", data=True),
    "ct-mxfp4a16": ct(preset="MXFP4A16"),
    "ct-mxfp4": ct(preset="MXFP4"),
    "ct-mxfp8a16": ct(preset="MXFP8A16"),
}


# -- gptq, awq and fp8, by GPTQModel -----------------------------------------------------------------------------------------------

def gptqmodel(configuration, **options):
    def make(model, out, text):
        import gptqmodel
        from gptqmodel.quantization import config as configs
        config = getattr(configs, configuration)(**options)
        source = gptqmodel.GPTQModel.load(model, config, device="cpu")
        source.quantize(windows(model, text, 16, 128), batch_size=1)
        source.save(out)
    return make


GPTQMODEL = {
    **{f"gptq-{bits}bit-g{group}": gptqmodel("GPTQConfig", bits=bits, group_size=group) for bits, group in [(2, 32), (3, 64), (4, 64), (8, 64)]},
    "gptq-4bit-asym": gptqmodel("GPTQConfig", bits=4, group_size=64, sym=False),
    "gptq-4bit-v2": gptqmodel("GPTQConfig", bits=4, group_size=64, sym=False, format="gptq_v2"),
    "gptq-4bit-g_idx": gptqmodel("GPTQConfig", bits=4, group_size=64, desc_act=True, act_group_aware=False),
    "gptq-4bit-channel": gptqmodel("GPTQConfig", bits=4, group_size=-1, act_group_aware=False),
    "awq-gemm-g64": gptqmodel("AWQConfig", bits=4, group_size=64, format="gemm"),
    "awq-gemm-sym": gptqmodel("AWQConfig", bits=4, group_size=64, format="gemm", sym=True),
    "fp8-gptqmodel-block64": gptqmodel("FP8Config", weight_scale_method="block", weight_block_size=[64, 64]),
    "fp8-gptqmodel-row": gptqmodel("FP8Config", weight_scale_method="row"),
}


# -- fp8 by transformers' own quantizer: its tensors, the config that it reads ------------------------------------------------------

def fine_fp8(block):
    def make(model, out, text):
        from types import SimpleNamespace
        import torch
        from safetensors.torch import save_file
        from transformers.integrations.finegrained_fp8 import Fp8Quantize
        config = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": block, "modules_to_not_convert": ["lm_head"]}
        rounding = Fp8Quantize(SimpleNamespace(quantization_config=SimpleNamespace(weight_block_size=block, scale_fmt="float")))
        source = plain(model)
        tensors = {name: value for name, value in source.state_dict().items() if name != "lm_head.weight"}
        for name, module in source.named_modules():
            if isinstance(module, torch.nn.Linear) and name != "lm_head":
                tensors |= rounding.convert({f"{name}.weight": module.weight.data})
        os.makedirs(out)
        save_file({name: value.clone().contiguous() for name, value in tensors.items()}, os.path.join(out, "model.safetensors"), {"format": "pt"})
        write_config(out, config_of(model) | {"quantization_config": config})
    return make


FINE_FP8 = {"fp8-fine-block": fine_fp8([128, 128]), "fp8-fine-tensor": fine_fp8(None)}


# -- auto-round: awq and gptq files of another maker, rounded without data ----------------------------------------------------------

def auto_round(scheme, format):
    def make(model, out, text):
        from auto_round import AutoRound
        from transformers import AutoTokenizer
        maker = AutoRound(plain(model), AutoTokenizer.from_pretrained(model), scheme=scheme, iters=0, device_map="cpu", disable_opt_rtn=True)
        maker.quantize_and_save(output_dir=out, format=format)
    return make


AUTO_ROUND = {
    "awq-autoround-g64": auto_round({"bits": 4, "group_size": 64, "sym": False, "data_type": "int"}, "auto_awq"),
    "gptq-autoround-4bit-g64": auto_round({"bits": 4, "group_size": 64, "sym": True, "data_type": "int"}, "auto_gptq"),
}

# By the package whose presence decides.
MAKERS = [("bitsandbytes", BNB), ("optimum.quanto", QUANTO), ("hqq", HQQ), ("mlx_lm", MLX), ("llmcompressor", CT), ("gptqmodel", GPTQMODEL),
          ("mlx_lm", FINE_FP8), ("hqq", AUTO_ROUND)]


def has(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def produce(make, model, folder, text):
    """Into a folder beside the final one first: what is there is whole."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as parent:
        out = os.path.join(parent, "out")
        make(model, out, text)
        found = out if os.path.exists(os.path.join(out, "config.json")) else next(os.path.dirname(os.path.join(at, "config.json")) for at, _, files in os.walk(out) if "config.json" in files)
        for name in TOKENIZER_FILES:
            if os.path.exists(os.path.join(model, name)):
                shutil.copy(os.path.join(model, name), found)
        os.chmod(found, 0o755)
        os.rename(found, folder)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder")
    parser.add_argument("--text", required=True)
    parser.add_argument("--only", nargs="*")
    a = parser.parse_args()
    a.model, a.folder, a.text = map(os.path.abspath, [a.model, a.folder, a.text])
    os.makedirs(a.folder, exist_ok=True)
    os.chdir(tempfile.gettempdir())  # some packages leave files in the working directory
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # packages print to stdout
    for name, make in [item for package, variants in MAKERS if has(package) for item in variants.items()]:
        folder = os.path.join(a.folder, name)
        if os.path.exists(folder) or (a.only and not any(word in name for word in a.only)):
            continue
        error = None
        try:
            produce(make, a.model, folder, a.text)
        except Exception as failure:
            error = (str(failure).strip().split("\n") or [""])[-1][:300] or type(failure).__name__
        print(json.dumps({"name": name, "folder": None if error else folder, "error": error}), file=answers)


main()
