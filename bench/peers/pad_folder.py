"""Writes a folder whose model says what another one's says and reads more memory to say it, for measurements of trained models.

  pad_folder.py FROM OUT --dense F --expert FM

FROM is a HuggingFace folder or checkpoint of hadal with F32 or BF16 weights.  The hidden widths of dense layers and of experts grow to F and FM with
zeros: silu(0) * 0 = 0, so every token's output keeps its value.  Needs numpy alone."""
import argparse
import glob
import json
import os
import struct

import numpy as np


def read(folder):
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with open(path, "rb") as f:
            n = struct.unpack("<Q", f.read(8))[0]
            header, start = json.loads(f.read(n)), 8 + n
            for name, t in header.items():
                if name == "__metadata__":
                    continue
                f.seek(start + t["data_offsets"][0])
                data = f.read(t["data_offsets"][1] - t["data_offsets"][0])
                yield name, t["dtype"], np.frombuffer(data, {"F32": np.uint32, "BF16": np.uint16}[t["dtype"]]).reshape(t["shape"])


def pad(name, value, widths):
    if ".mlp." not in name or not name.endswith("_proj.weight"):
        return value
    axis = 1 if "down_proj" in name else 0
    width = widths.get(value.shape[axis], value.shape[axis])
    extra = [(0, 0), (0, 0)]
    extra[axis] = (0, width - value.shape[axis])
    return np.pad(value, extra)


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("source")
    a.add_argument("out")
    a.add_argument("--dense", type=int, required=True)
    a.add_argument("--expert", type=int, required=True)
    o = a.parse_args()
    with open(os.path.join(o.source, "config.json")) as f:
        c = json.load(f)
    widths = {c["moe_intermediate_size"] * c["n_shared_experts"]: o.expert * c["n_shared_experts"], c["moe_intermediate_size"]: o.expert,
              c["intermediate_size"]: o.dense}
    header, at, tensors = {}, 0, []
    for name, dtype, value in read(o.source):
        value = np.ascontiguousarray(pad(name, value, widths))
        header[name] = dict(dtype=dtype, shape=list(value.shape), data_offsets=[at, at + value.nbytes])
        at += value.nbytes
        tensors.append(value)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(o.out)
    with open(os.path.join(o.out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for value in tensors:
            f.write(value.tobytes())
    c["intermediate_size"], c["moe_intermediate_size"] = o.dense, o.expert
    with open(os.path.join(o.out, "config.json"), "w") as f:
        json.dump(c, f, indent=2)
    print(f"{o.out}: {len(tensors)} tensors, {at} bytes")


main()
