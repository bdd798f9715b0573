"""Writes a HuggingFace folder with the tensors of a real DeepSeek and random values, for measurements.

  make_folder.py OUT [--model v2-lite|v3] [--dtype bf16|fp8] [--layers N] [--experts N] [--sparse] [--shard-gb 5] [--seed 0]

The tensors are those of the released models (names, shapes, dtypes); --layers and --experts cut a smaller model of the same widths.  FP8 means
F8_E4M3 projections with F32 scales per 128 x 128 block, the rest BF16, as DeepSeek-V3 is published.  --sparse writes headers and leaves the data as
holes (zeros).  Needs numpy alone."""
import argparse
import json
import os
import struct

import numpy as np

MODELS = {
    "v2-lite": dict(V=102400, D=2048, F=10944, Fm=1408, L=27, dense=1, H=16, qr=0, c=512, n=128, r=64, v=128, E=64, ns=2, k=6, mtp=0, bias=False),
    "v3": dict(V=129280, D=7168, F=18432, Fm=2048, L=61, dense=3, H=128, qr=1536, c=512, n=128, r=64, v=128, E=256, ns=1, k=8, mtp=1, bias=True),
}


def tensors(m):
    """(name, shape, kind): kind 'p' is a projection (FP8 when asked for), 'w' BF16, 'b' F32."""
    def layer(i, moe):
        p = f"model.layers.{i}."
        a = p + "self_attn."
        if m["qr"]:
            yield a + "q_a_proj.weight", (m["qr"], m["D"]), "p"
            yield a + "q_a_layernorm.weight", (m["qr"],), "n"
            yield a + "q_b_proj.weight", (m["H"] * (m["n"] + m["r"]), m["qr"]), "p"
        else:
            yield a + "q_proj.weight", (m["H"] * (m["n"] + m["r"]), m["D"]), "p"
        yield a + "kv_a_proj_with_mqa.weight", (m["c"] + m["r"], m["D"]), "p"
        yield a + "kv_a_layernorm.weight", (m["c"],), "n"
        yield a + "kv_b_proj.weight", (m["H"] * (m["n"] + m["v"]), m["c"]), "p"
        yield a + "o_proj.weight", (m["D"], m["H"] * m["v"]), "p"
        mlps = [("mlp.", m["F"])]
        if moe:
            yield p + "mlp.gate.weight", (m["E"], m["D"]), "w"
            if m["bias"]:
                yield p + "mlp.gate.e_score_correction_bias", (m["E"],), "b"
            mlps = [(f"mlp.experts.{e}.", m["Fm"]) for e in range(m["E"])] + [("mlp.shared_experts.", m["Fm"] * m["ns"])]
        for q, width in mlps:
            yield p + q + "gate_proj.weight", (width, m["D"]), "p"
            yield p + q + "up_proj.weight", (width, m["D"]), "p"
            yield p + q + "down_proj.weight", (m["D"], width), "p"
        yield p + "input_layernorm.weight", (m["D"],), "n"
        yield p + "post_attention_layernorm.weight", (m["D"],), "n"

    yield "model.embed_tokens.weight", (m["V"], m["D"]), "w"
    for i in range(m["L"]):
        yield from layer(i, i >= m["dense"])
    for i in range(m["L"], m["L"] + m["mtp"]):
        p = f"model.layers.{i}."
        yield p + "embed_tokens.weight", (m["V"], m["D"]), "w"
        yield p + "enorm.weight", (m["D"],), "n"
        yield p + "hnorm.weight", (m["D"],), "n"
        yield p + "eh_proj.weight", (m["D"], 2 * m["D"]), "w"
        yield from layer(i, True)
        yield p + "shared_head.norm.weight", (m["D"],), "n"
        yield p + "shared_head.head.weight", (m["V"], m["D"]), "w"
    yield "model.norm.weight", (m["D"],), "n"
    yield "lm_head.weight", (m["V"], m["D"]), "w"


def stored(name, shape, kind, fp8):
    if fp8 and kind == "p":
        yield name, shape, "F8_E4M3", 1, kind
        yield name + "_scale_inv", tuple((s + 127) // 128 for s in shape), "F32", 4, "s"
    else:
        yield name, shape, ("F32" if kind == "b" else "BF16"), (4 if kind == "b" else 2), kind


def values(rng, count, dtype, kind):
    """Bytes of a part of a tensor: values of about N(0, 0.02)."""
    if dtype == "F8_E4M3":
        # sign, exponents of a normal distribution's bulk, any mantissa: no NaN
        bits = rng.integers(0, 256, count, dtype=np.uint8)
        return ((bits & 0x87) | (((bits >> 3) & 3) + 10 << 3).astype(np.uint8)).tobytes()
    if kind == "s":
        return np.full(count, 2e-3, dtype=np.float32).tobytes()
    if kind == "n":
        return np.full(count, 0x3F80, dtype=np.uint16).tobytes()
    if dtype == "F32":
        return (rng.standard_normal(count, dtype=np.float32) * 0.01).tobytes()
    bits = rng.integers(0, 1 << 16, count, dtype=np.uint16)
    # BF16: sign and mantissa as they fall, exponent 2^-9 .. 2^-6
    return ((bits & 0x807F) | ((((bits >> 7) & 3) + 118) << 7).astype(np.uint16)).tobytes()


def config(m, name, fp8):
    v3 = name == "v3"
    c = dict(architectures=["DeepseekV3ForCausalLM" if v3 else "DeepseekV2ForCausalLM"], model_type="deepseek_v3" if v3 else "deepseek_v2",
             vocab_size=m["V"], hidden_size=m["D"], intermediate_size=m["F"], moe_intermediate_size=m["Fm"], num_hidden_layers=m["L"],
             num_attention_heads=m["H"], num_key_value_heads=m["H"], n_shared_experts=m["ns"], n_routed_experts=m["E"],
             routed_scaling_factor=2.5 if v3 else 1.0, kv_lora_rank=m["c"], q_lora_rank=m["qr"] or None, qk_rope_head_dim=m["r"],
             v_head_dim=m["v"], qk_nope_head_dim=m["n"], topk_method="noaux_tc" if v3 else "greedy",
             n_group=8 if v3 and m["E"] % 8 == 0 else 1, topk_group=4 if v3 and m["E"] % 8 == 0 else 1, num_experts_per_tok=m["k"],
             moe_layer_freq=1, first_k_dense_replace=m["dense"], norm_topk_prob=v3, scoring_func="sigmoid" if v3 else "softmax",
             num_nextn_predict_layers=m["mtp"], hidden_act="silu", max_position_embeddings=163840, rms_norm_eps=1e-6, rope_theta=10000,
             rope_scaling=dict(type="yarn", factor=40, original_max_position_embeddings=4096, beta_fast=32, beta_slow=1,
                               mscale=1.0 if v3 else 0.707, mscale_all_dim=1.0 if v3 else 0.707),
             attention_bias=False, tie_word_embeddings=False, bos_token_id=0 if v3 else 100000, eos_token_id=1 if v3 else 100001,
             torch_dtype="bfloat16")
    if fp8:
        c["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128])
    return c


def write_shard(path, rows, sparse, rng):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, dtype, size, _ in rows:
        n = int(np.prod(shape)) * size
        header[name] = dict(dtype=dtype, shape=list(shape), data_offsets=[at, at + n])
        at += n
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        if sparse:
            f.truncate(8 + len(text) + at)
            return
        for _, shape, dtype, size, kind in rows:
            left = int(np.prod(shape))
            while left > 0:
                part = min(left, 1 << 24)
                f.write(values(rng, part, dtype, kind))
                left -= part


def main():
    a = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    a.add_argument("out")
    a.add_argument("--model", choices=MODELS, default="v2-lite")
    a.add_argument("--dtype", choices=["bf16", "fp8"], default="bf16")
    a.add_argument("--layers", type=int)
    a.add_argument("--experts", type=int)
    a.add_argument("--sparse", action="store_true")
    a.add_argument("--shard-gb", type=float, default=4.3)
    a.add_argument("--seed", type=int, default=0)
    o = a.parse_args()
    m = dict(MODELS[o.model])
    if o.layers:
        m["L"], m["dense"] = o.layers, min(m["dense"], o.layers)
    if o.experts:
        m["E"] = o.experts
    os.makedirs(o.out)
    rng, shards, held = np.random.default_rng(o.seed), [[]], 0
    for t in tensors(m):
        for row in stored(*t, o.dtype == "fp8"):
            n = int(np.prod(row[1])) * row[3]
            if held and held + n > o.shard_gb * 1e9:
                shards.append([])
                held = 0
            shards[-1].append(row)
            held += n
    index, total = {}, 0
    for i, rows in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):06d}.safetensors"
        write_shard(os.path.join(o.out, name), rows, o.sparse, rng)
        for row in rows:
            index[row[0]] = name
            total += int(np.prod(row[1])) * row[3]
    with open(os.path.join(o.out, "model.safetensors.index.json"), "w") as f:
        json.dump(dict(metadata=dict(total_size=total), weight_map=index), f, indent=2)
    with open(os.path.join(o.out, "config.json"), "w") as f:
        json.dump(config(m, o.model, o.dtype == "fp8"), f, indent=2)
    print(f"{o.out}: {len(index)} tensors, {total} bytes in {len(shards)} files")


main()
