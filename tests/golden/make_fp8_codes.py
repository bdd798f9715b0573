"""fp8_codes.h: what PyTorch makes of every F8_E4M3 code, of block scales, and of values between two neighbours.

    python make_fp8_codes.py            writes fp8_codes.h beside this script

Products are float(code) * scale in float32, rounded once: the rule of deepseek-ai/DeepSeek-V3, inference/kernel.py.  PyTorch turns values
above 464 into NaN where block quantisation saturates, so values are clamped to +-448 before the cast.  Bits of NaN depend on the
processor: each is written as the positive quiet NaN without payload.  README.md lists the arrays."""
import hashlib
from pathlib import Path

import numpy as np
import torch

SCALES = [1.0, 2.0**-8, 2.0**-126, 2.0**-133, 2.0**119, 0.0013249, 3.1415927e-05, 0.99999994, 1.1754942e-38, 7.59e35, 0.0, float("inf"), float("nan")]


def f32_bits(t):
    bits = t.contiguous().view(torch.int32).numpy().view(np.uint32)
    return np.where(np.isnan(t.numpy()), np.uint32(0x7FC00000), bits)


def half_bits(t, nan):
    bits = t.contiguous().view(torch.int16).numpy().view(np.uint16)
    return np.where(torch.isnan(t).numpy(), np.uint16(nan), bits)


def f8_bits(t):
    bits = t.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return np.where(torch.isnan(t).numpy(), np.uint8(0x7F), bits)


def neighbours(values):
    """Each value and the floats on both sides of it, of either sign."""
    values = np.asarray(values, np.float32)
    near = np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(-np.inf))])
    return np.concatenate([near, -near])


def interesting():
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    rng = np.random.default_rng(1)
    bf16_ties = (np.arange(0x3F80, 0x3F90, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    f16 = np.arange(0, 0x7C00, 2503, dtype=np.uint16).view(np.float16).astype(np.float32)
    f16_next = np.arange(1, 0x7C00, 2503, dtype=np.uint16).view(np.float16).astype(np.float32)
    lists = [codes, (codes[1:] + codes[:-1]) / 2, bf16_ties, f16, (f16 + f16_next) / 2, [464, 480, 65504, 65519.996, 65520, 3.3895314e38, 3.4e38],
             [2.0**-24, 2.0**-25, 2.0**-26, 2.0**-126, 2.0**-133, 2.0**-134, 1e-45], rng.standard_normal(32) * 100]
    special = np.array([0, np.inf, np.nan], np.float32)
    return np.unique(np.concatenate([neighbours(np.concatenate([np.asarray(x, np.float32) for x in lists])), special, -special]).view(np.uint32)).view(np.float32)


def array(out, c_type, name, values, width):
    def lines(row):
        flat = [f"0x{int(v):0{width}X}" for v in row]
        per_line = 138 // (width + 4)
        return ",\n    ".join(", ".join(flat[i:i + per_line]) for i in range(0, len(flat), per_line))

    shape = "".join(f"[{n}]" for n in values.shape)
    body = lines(values) if values.ndim == 1 else ",\n    ".join("{" + lines(row) + "}" for row in values)
    out.append(f"static const {c_type} golden_{name}{shape} = {{\n    {body}}};\n")


def digest(data):
    return hashlib.sha256(np.ascontiguousarray(data).tobytes()).hexdigest()


def main():
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(torch.float8_e4m3fn).float()
    e8m0 = torch.arange(256, dtype=torch.int16).to(torch.uint8).view(torch.float8_e8m0fnu).float()
    scales = torch.tensor(SCALES)
    products = codes[None, :] * scales[:, None]
    values = torch.from_numpy(interesting())
    every_bf16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    every_f16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    out = [f"/* Made by make_fp8_codes.py with torch {torch.__version__}, numpy {np.__version__}; see README.md.  Numbers are bits. */\n",
           "/* clang-format off */"]
    array(out, "uint32_t", "code", f32_bits(codes), 8)
    array(out, "uint32_t", "e8m0", f32_bits(e8m0), 8)
    array(out, "uint32_t", "scale", f32_bits(scales), 8)
    array(out, "uint16_t", "product_bf16", half_bits(products.to(torch.bfloat16), 0x7FC0), 4)
    array(out, "uint16_t", "product_f16", half_bits(products.to(torch.float16), 0x7E00), 4)
    array(out, "uint32_t", "value", f32_bits(values), 8)
    array(out, "uint16_t", "value_bf16", half_bits(values.to(torch.bfloat16), 0x7FC0), 4)
    array(out, "uint16_t", "value_f16", half_bits(values.to(torch.float16), 0x7E00), 4)
    array(out, "uint8_t", "value_f8", f8_bits(values), 2)
    out.append("/* SHA-256 of what becomes of all 65536 values of the narrow types, in the order of their bits, little-endian. */")
    for name, data in [("bf16_to_f8", f8_bits(every_bf16.float())), ("bf16_to_f16", half_bits(every_bf16.to(torch.float16), 0x7E00)),
                       ("f16_to_bf16", half_bits(every_f16.to(torch.bfloat16), 0x7FC0)), ("f16_to_f32", f32_bits(every_f16.float())),
                       ("bf16_to_f32", f32_bits(every_bf16.float()))]:
        out.append(f'static const char golden_{name}[] = "{digest(data)}";')
    Path(__file__).with_name("fp8_codes.h").write_text("\n".join(out) + "\n")


main()
