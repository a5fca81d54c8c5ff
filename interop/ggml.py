#!/usr/bin/env python3
"""What llama.cpp's own library writes, beside a file of ours. Each prints one JSON line.

ggml.py model F16.gguf OURS.gguf FTYPE THREADS [IMATRIX.gguf]
    -> {"tensors": n, "other": [names whose type or bytes differ, or which only one has], "bytes": [theirs, ours]}    by llama_model_quantize
ggml.py blocks TYPE ROWS COLUMNS VALUES.f32 [IMPORTANCES.f32]
    -> {"sha256": of the blocks}    by ggml_quantize_chunk; files are little-endian float32
"""
import ctypes, hashlib, json, os, sys, tempfile

import numpy as np
from gguf import GGUFReader
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType


def quantize_model(source, target, ftype, threads, imatrix):
    import llama_cpp
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = ftype, threads
    kept = []  # what the parameters point to
    if imatrix:
        entries = (llama_cpp.llama_model_imatrix_data * (len(imatrix) + 1))()  # the last one is null
        for entry, (name, values) in zip(entries, imatrix.items()):
            kept.append(values)
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama_model_quantize refuses {source}")


def read_imatrix(path):
    """Means of squares, by weight, as llama-quantize takes them from the sums."""
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    suffix = ".in_sum2"
    sums = {name.removesuffix(suffix): data for name, data in tensors.items() if name.endswith(suffix)}
    return {name: np.ascontiguousarray(data.ravel() / tensors[name + ".counts"].ravel()[0], np.float32) for name, data in sums.items()}


def tensors_of(path):
    return {tensor.name: (tensor.tensor_type, tensor.shape.tolist(), tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def model(source, ours, ftype, threads, imatrix=None):
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "theirs.gguf")
        quantize_model(source, target, int(ftype), int(threads), imatrix and read_imatrix(imatrix))
        a, b = tensors_of(target), tensors_of(ours)
    other = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    size = lambda tensors: sum(len(data) for _, _, data in tensors.values())
    return {"tensors": len(a), "other": other, "bytes": [size(a), size(b)]}


def blocks(type_name, rows, columns, values, importances=None):
    import llama_cpp
    library = os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so")
    quantize = ctypes.CDLL(library).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    kind = GGMLQuantizationType[type_name]
    block, size = GGML_QUANT_SIZES[kind]
    rows, columns = int(rows), int(columns)
    x = np.fromfile(values, "<f4", rows * columns)
    weights = importances and np.fromfile(importances, "<f4", columns)
    out = np.zeros(rows * columns // block * size, np.uint8)
    quantize(int(kind), x.ctypes.data, out.ctypes.data, 0, rows, columns, None if weights is None else weights.ctypes.data)
    return {"sha256": hashlib.sha256(out.tobytes()).hexdigest()}


print(json.dumps({"model": model, "blocks": blocks}[sys.argv[1]](*sys.argv[2:])))
