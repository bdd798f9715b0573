"""Forward pass of DeepSeek V2/V3 (and of V3's multi-token prediction modules) in NumPy, in double.

Written from the equations, not from any other implementation: it is what the HuggingFace classes are checked against
before their numbers become golden files.  One row at a time, no batching, no cache, every score materialised.
Weights are a dict {HuggingFace tensor name: array}; `config` is the dict of config.json.
Shapes: T tokens, D hidden, H heads, n/r/v nope, rope and value head widths, c latent width, E experts.
"""

import math

import numpy as np


def rms_norm(x, weight, eps=1e-6):
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def swiglu(x, gate, up, down):
    g = x @ gate.T
    return (g / (1.0 + np.exp(-g)) * (x @ up.T)) @ down.T


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def yarn_mscale(factor, mscale):
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def yarn_frequencies(config):
    """Rotation speed of each of the r/2 pairs, and the factor on cos and sin."""
    y, dim, base = config["rope_scaling"], config["qk_rope_head_dim"], config["rope_theta"]

    def pair_of(rotations):
        turns = y["original_max_position_embeddings"] / (rotations * 2.0 * math.pi)
        return dim * math.log(turns) / (2.0 * math.log(base))

    low = max(math.floor(pair_of(y["beta_fast"])), 0)
    high = min(math.ceil(pair_of(y["beta_slow"])), dim - 1)
    j = np.arange(dim // 2)
    theta = base ** (-2.0 * j / dim)
    interpolated = np.clip((j - low) / (high - low), 0.0, 1.0)
    speed = theta * (1.0 - interpolated) + theta / y["factor"] * interpolated
    return speed, yarn_mscale(y["factor"], y["mscale"]) / yarn_mscale(y["factor"], y["mscale_all_dim"])


def rope(x, positions, config):
    """Rotate the interleaved pairs (2j, 2j+1) of the last axis; x is [..., T, r]."""
    speed, factor = yarn_frequencies(config)
    angle = positions[:, None] * speed
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor
    out = np.empty_like(x)
    out[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    out[..., 1::2] = x[..., 0::2] * sin + x[..., 1::2] * cos
    return out


def attention(x, w, prefix, config, positions, segments, stats):
    """Multi-head latent attention, causal inside each segment; x and result are [T, D]."""
    heads, n, r = config["num_attention_heads"], config["qk_nope_head_dim"], config["qk_rope_head_dim"]
    c, v, steps = config["kv_lora_rank"], config["v_head_dim"], len(x)
    if config["q_lora_rank"]:
        latent = rms_norm(x @ w[prefix + "q_a_proj.weight"].T, w[prefix + "q_a_layernorm.weight"])
        q = latent @ w[prefix + "q_b_proj.weight"].T
    else:
        q = x @ w[prefix + "q_proj.weight"].T
    q = q.reshape(steps, heads, n + r).swapaxes(0, 1)
    kv_a = x @ w[prefix + "kv_a_proj_with_mqa.weight"].T
    latent = rms_norm(kv_a[:, :c], w[prefix + "kv_a_layernorm.weight"])
    kv = (latent @ w[prefix + "kv_b_proj.weight"].T).reshape(steps, heads, n + v).swapaxes(0, 1)
    k_rope = rope(kv_a[:, c:], positions, config)
    scores = q[..., :n] @ kv[..., :n].swapaxes(1, 2) + rope(q[..., n:], positions, config) @ k_rope.T
    yarn = config["rope_scaling"]
    scores *= (n + r) ** -0.5 * yarn_mscale(yarn["factor"], yarn["mscale_all_dim"]) ** 2
    row = np.arange(steps)
    visible = (row[:, None] >= row) & (segments[:, None] == segments)
    p = softmax(np.where(visible, scores, -np.inf))
    stats["attention_top_probability"].append(p.max(-1)[:, 32:].mean())
    return (p @ kv[..., n:]).swapaxes(0, 1).reshape(steps, heads * v) @ w[prefix + "o_proj.weight"].T


def route(x, w, prefix, config):
    """Weights [T, E] of the experts, zero for those not selected."""
    logits = x @ w[prefix + "gate.weight"].T
    if config["scoring_func"] == "sigmoid":
        scores = 1.0 / (1.0 + np.exp(-logits))
        choice = scores + w[prefix + "gate.e_score_correction_bias"]
    else:
        scores = choice = softmax(logits)
    tokens, experts = scores.shape
    if config["topk_method"] != "greedy":
        grouped = np.sort(choice.reshape(tokens, config["n_group"], -1), axis=-1)
        best = grouped[..., -1] if config["topk_method"] == "group_limited_greedy" else grouped[..., -2:].sum(-1)
        kept = np.zeros_like(best, dtype=bool)
        np.put_along_axis(kept, np.argsort(-best, axis=-1)[:, : config["topk_group"]], True, axis=-1)
        choice = np.where(np.repeat(kept, experts // config["n_group"], axis=-1), choice, -np.inf)
    selected = np.zeros_like(scores, dtype=bool)
    np.put_along_axis(selected, np.argsort(-choice, axis=-1)[:, : config["num_experts_per_tok"]], True, axis=-1)
    weights = np.where(selected, scores, 0.0)
    if config["norm_topk_prob"]:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    return weights * config["routed_scaling_factor"]


def moe(x, w, prefix, config, stats):
    """Routed experts plus the always-on shared one."""

    def mlp(name, rows):
        return swiglu(rows, *(w[f"{prefix}{name}.{part}_proj.weight"] for part in ("gate", "up", "down")))

    weights = route(x, w, prefix, config)
    y = mlp("shared_experts", x)
    load = np.count_nonzero(weights, axis=0)
    stats["expert_tokens"].append(load.tolist())
    for e in np.flatnonzero(load):
        rows = np.flatnonzero(weights[:, e])
        y[rows] += weights[rows, e, None] * mlp(f"experts.{e}", x[rows])
    return y


def decoder_layer(h, w, layer, config, positions, segments, stats):
    prefix = f"model.layers.{layer}."
    eps = config["rms_norm_eps"]
    x = rms_norm(h, w[prefix + "input_layernorm.weight"], eps)
    h = h + attention(x, w, prefix + "self_attn.", config, positions, segments, stats)
    x = rms_norm(h, w[prefix + "post_attention_layernorm.weight"], eps)
    if layer >= config["first_k_dense_replace"]:
        return h + moe(x, w, prefix + "mlp.", config, stats)
    return h + swiglu(x, *(w[f"{prefix}mlp.{part}_proj.weight"] for part in ("gate", "up", "down")))


def shift_within_segments(values, segments):
    """values[t + 1] where t + 1 lies in the same segment, else 0."""
    shifted = np.zeros_like(values)
    same = (segments[1:] == segments[:-1]) & (segments[:-1] != 0)
    shifted[:-1][same] = values[1:][same]
    return shifted


def forward(w, config, tokens, positions, segments, modules=0):
    """Logits [T, V] of the trunk, list of logits of the prediction modules, and statistics."""
    stats = {"attention_top_probability": [], "expert_tokens": []}
    eps, layers = config["rms_norm_eps"], config["num_hidden_layers"]
    embedding, head = w["model.embed_tokens.weight"], w["lm_head.weight"]
    h = embedding[tokens]
    for layer in range(layers):
        h = decoder_layer(h, w, layer, config, positions, segments, stats)
    logits = rms_norm(h, w["model.norm.weight"], eps) @ head.T
    module_logits = []
    for layer in range(layers, layers + modules):
        tokens = shift_within_segments(tokens, segments)
        prefix = f"model.layers.{layer}."
        x = np.concatenate([rms_norm(embedding[tokens], w[prefix + "enorm.weight"], eps),
                            rms_norm(h, w[prefix + "hnorm.weight"], eps)], axis=-1)
        h = decoder_layer(x @ w[prefix + "eh_proj.weight"].T, w, layer, config, positions, segments, stats)
        module_logits.append(rms_norm(h, w[prefix + "shared_head.norm.weight"], eps) @ head.T)
    return logits, module_logits, stats


def cross_entropy(logits, targets):
    """Per-token loss [T]."""
    top = logits.max(-1)
    lse = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    return lse - logits[np.arange(len(targets)), targets]


def loss_sums(w, config, row, modules=0):
    """(sum of weight * loss, sum of weight) of the trunk and, over all modules together, of the prediction modules."""
    logits, module_logits, _ = forward(w, config, row["tokens"], row["positions"], row["segments"], modules)
    targets, weights = row["targets"], row["loss_weights"].astype(np.float64)
    main = np.array([np.sum(weights * cross_entropy(logits, targets)), np.sum(weights)])
    extra = np.zeros(2)
    for z in module_logits:
        targets = shift_within_segments(targets, row["segments"])
        weights = shift_within_segments(weights, row["segments"])
        extra += [np.sum(weights * cross_entropy(z, targets)), np.sum(weights)]
    return main, extra


def total_loss(w, config, rows, modules=0, module_scale=0.1):
    """Loss of a batch of rows: (main, scaled loss of the modules)."""
    sums = [loss_sums(w, config, row, modules) for row in rows]
    main, extra = sum(s[0] for s in sums), sum(s[1] for s in sums)
    return main[0] / main[1], module_scale * extra[0] / extra[1] if modules else 0.0
