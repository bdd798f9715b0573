#!/usr/bin/env python3
"""Golden logits of a HuggingFace DeepSeek model, for `hadal check` (and for MaxText's checker, whose flags and file these are).

    python tools/hf_golden_logits.py --model-id FOLDER --output-path golden.jsonl --prompts 'I love to;Today is a;What is the'
    python tools/hf_golden_logits.py --model-id FOLDER --output-path golden.jsonl --prompt-file prompts.jsonl --layerwise --dump dumps

One JSON object per prompt and line: prompt, tokens, hadal_golden (which code made it, and which experts each token visited) and
logits.  One forward pass over the prompt, nothing is generated.  docs/check.md describes the format, and the activations that
--dump writes.  Needs torch, transformers and safetensors; requirements of the tests are in tests/golden/requirements.txt.
"""

import argparse
import json
import math
import os
import platform
import re
import resource
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

FORMAT = 1
NEAR_TIE = 1e-6  # below this gap a choice of experts may differ from the one computed here


class Refusal(Exception):
    """Something the user should read as one sentence."""


# ------------------------------------------------------------------------------------------------------------- prompts

class Record:
    """One prompt and what its forward pass leaves behind."""

    def __init__(self, prompt, tokens=None):
        self.prompt, self.tokens = prompt, tokens
        self.hidden = self.logits = None
        self.experts = {}  # layer -> (ids [T, k], gaps [T])
        self.dump = {}     # name -> tensor


def read_prompts(arguments):
    """--prompts is split at ';', or at ',' when it has none; --prompt-file has one prompt per line, or JSON lines with "prompt"
    and, optionally, "tokens"."""
    records = []
    if arguments.prompts:
        separator = ";" if ";" in arguments.prompts else ","
        records += [Record(p) for p in arguments.prompts.split(separator) if p != ""]
    if arguments.prompt_file:
        lines = Path(arguments.prompt_file).read_text(encoding="utf-8").splitlines()
        if arguments.prompt_file.endswith(".jsonl"):
            objects = [json.loads(line) for line in lines if line.strip()]
            records += [Record(o["prompt"], o.get("tokens")) for o in objects]
        else:
            records += [Record(line) for line in lines if line]
    if not records:
        raise Refusal("there is no prompt: give --prompts 'ONE;TWO' or --prompt-file FILE")
    return records


def tokenize(records, path, trust_remote_code):
    if all(r.tokens is not None for r in records):
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    config = transformers.utils.cached_file(path, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False)
    wants_bos = config is not None and json.loads(Path(config).read_text(encoding="utf-8")).get("add_bos_token", False)
    for r in records:
        if r.tokens is None:
            r.tokens = tokenizer(r.prompt)["input_ids"]
            if wants_bos and r.tokens[:1] != [tokenizer.bos_token_id]:  # transformers 5 loses it with V3's tokenizer class
                r.tokens = [tokenizer.bos_token_id] + r.tokens


# ------------------------------------------------------------------------------------------------ tensors of a folder

class Folder:
    """Tensors of a model folder by name, one file or shards, dequantised: value = float(fp8) * scale of its 128 x 128 block."""

    def __init__(self, path):
        self.path = Path(path)
        index = self.path / "model.safetensors.index.json"
        if index.is_file():
            self.file_of = json.loads(index.read_text())["weight_map"]
        else:
            self.file_of = {}
            for file in sorted(self.path.glob("*.safetensors")):
                with safe_open(file, "pt") as f:
                    self.file_of.update({name: file.name for name in f.keys()})
        if not self.file_of:
            raise Refusal(f"{path}: no safetensors here; --layerwise reads a local folder")
        config = json.loads((self.path / "config.json").read_text())
        block = (config.get("quantization_config") or {}).get("weight_block_size") or [128, 128]
        self.block = tuple(block)

    def read(self, name):
        with safe_open(self.path / self.file_of[name], "pt") as f:
            return f.get_tensor(name)

    def get(self, name, dtype):
        value = self.read(name)
        if value.element_size() == 1:
            scale = self.read(name + "_scale_inv").float()
            rows, columns = value.shape
            scale = scale.repeat_interleave(self.block[0], 0)[:rows].repeat_interleave(self.block[1], 1)[:, :columns]
            value = value.float() * scale
        return value.to(dtype)

    def get_experts(self, prefix, name, like, dtype):
        """gate_up_proj [E, 2 F, D] or down_proj [E, D, F] of a class that keeps experts together, from a folder that does not."""
        out = torch.empty(like.shape, dtype=dtype)
        for e in range(like.shape[0]):
            if name == "gate_up_proj":
                half = like.shape[1] // 2
                out[e, :half] = self.get(f"{prefix}{e}.gate_proj.weight", dtype)
                out[e, half:] = self.get(f"{prefix}{e}.up_proj.weight", dtype)
            else:
                out[e] = self.get(f"{prefix}{e}.down_proj.weight", dtype)
        return out

    def fill(self, module, prefix, dtype_of):
        """Gives a module whose parameters are on the meta device its weights."""
        state = {}
        for name, like in module.state_dict().items():
            full = prefix + name
            fused = re.fullmatch(r"(.*\bexperts\.)(gate_up_proj|down_proj)", full)
            if full in self.file_of:
                state[name] = self.get(full, dtype_of(full))
            elif fused:
                state[name] = self.get_experts(fused[1], fused[2], like, dtype_of(full))
            else:
                raise Refusal(f"{self.path}: there is no tensor {full}")
        module.load_state_dict(state, assign=True)


class parameters_on_meta:
    """Inside, modules are made without memory for parameters; buffers are real."""

    def __enter__(self):
        self.original = original = nn.Module.register_parameter

        def register(module, name, parameter):
            original(module, name, parameter)
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

        nn.Module.register_parameter = register

    def __exit__(self, *_):
        nn.Module.register_parameter = self.original


# --------------------------------------------------------------------------------------------------- what is watched

def rope_settings(config):
    return getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}


def softmax_scale(config):
    """1 / sqrt(head width), times the square of YaRN's factor."""
    scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
    rope = rope_settings(config)
    factor, mscale = rope.get("factor", 1) or 1, rope.get("mscale_all_dim", 0) or 0
    kind = rope.get("rope_type", rope.get("type", "default"))
    m = 0.1 * mscale * math.log(factor) + 1 if kind != "default" and factor > 1 and mscale else 1.0
    return scale * m * m


def correct_softmax_scale(model, config):
    """The native V2 class left YaRN's factor out before transformers pull request 47435.  (scale, whether it had to be set)."""
    wanted, corrected = softmax_scale(config), False
    for layer in model.model.layers:
        name = next((n for n in ("scaling", "softmax_scale") if hasattr(layer.self_attn, n)), None)
        if name is None:
            raise Refusal(f"{type(layer.self_attn).__name__} has no softmax scale to look at")
        if not abs(getattr(layer.self_attn, name) / wanted - 1) < 1e-6:
            setattr(layer.self_attn, name, wanted)
            corrected = True
    return wanted, corrected


def choose(logits, bias, config, k):
    """(experts [T, k], gaps [T]) as the equations say: the gap is the smallest distance between the last that was taken and the
    first that was not, over the choice of groups and of experts."""
    scores = logits.softmax(-1) if bias is None else logits.sigmoid() + bias
    method = getattr(config, "topk_method", None) or ("greedy" if bias is None else "noaux_tc")
    n_group, top_group = getattr(config, "n_group", 1) or 1, getattr(config, "topk_group", 1) or 1
    gap = torch.full(scores.shape[:1], 9.0)
    if method != "greedy" and n_group > 1:
        grouped = scores.view(scores.shape[0], n_group, -1)
        group_score = grouped.amax(-1) if bias is None else grouped.topk(2, -1)[0].sum(-1)
        order = group_score.sort(-1, descending=True)
        if top_group < n_group:
            gap = torch.minimum(gap, order.values[:, top_group - 1] - order.values[:, top_group])
        closed = torch.ones_like(group_score, dtype=torch.bool).scatter(1, order.indices[:, :top_group], False)
        scores = grouped.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(1)
    order = scores.sort(-1, descending=True)
    if k < scores.shape[1]:
        gap = torch.minimum(gap, order.values[:, k - 1] - order.values[:, k])
    return order.indices[:, :k], gap


class Watcher:
    """Hooks that note, for the record in work, the experts of each token and, with dump, the activations of docs/check.md."""

    def __init__(self, model, config, dump):
        self.config, self.dump, self.record, self.checked = config, dump, None, False
        self.moe = {}
        self.watch(model.model.embed_tokens, "embed")
        self.watch(model.model.norm, "final_norm")
        for i, layer in enumerate(model.model.layers):
            self.watch_layer(i, layer)
        self.module_name = type(model.model.layers[0].self_attn).__module__
        if dump and hasattr(sys.modules[self.module_name], "eager_attention_forward"):
            self.watch_attention(model)

    def note(self, name, value):
        if self.dump:
            flat = value.detach().reshape(len(self.record.tokens), -1)
            flat = flat if flat.dtype in (torch.int32, torch.int64) else flat.float()
            self.record.dump[name] = flat.to(torch.int32).clone() if flat.dtype == torch.int64 else flat.clone()

    def watch(self, module, name):
        module.register_forward_hook(lambda m, args, out: self.note(name, out[0] if isinstance(out, tuple) else out))

    def watch_layer(self, i, layer):
        here = f"layers.{i}."
        attention = layer.self_attn
        self.watch(layer.input_layernorm, here + "input_norm")
        self.watch(attention.kv_a_layernorm, here + "kv_latent")
        self.watch(attention.kv_b_proj, here + "kv")
        attention.o_proj.register_forward_pre_hook(lambda m, args: self.note(here + "attention", args[0]))
        layer.post_attention_layernorm.register_forward_pre_hook(lambda m, args: self.note_mid(i, args[0]))
        self.watch(layer.post_attention_layernorm, here + "post_norm")
        self.watch(layer, here + "output")
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(lambda m, args, out: self.note_router(i, m, args[0], out))
            layer.mlp.experts.register_forward_hook(lambda m, args, out: self.note_experts(i, m, out))

    def note_mid(self, i, value):
        self.mid = value
        self.note(f"layers.{i}.mid", value)

    def note_router(self, i, gate, x, out):
        """Works for the native classes and for remote code: of the outputs, the integers are the experts."""
        x = x.reshape(-1, x.shape[-1])
        k = self.config.num_experts_per_tok
        bias = getattr(gate, "e_score_correction_bias", None)
        logits = nn.functional.linear(x.float(), gate.weight.float())
        ids = next(t for t in out if torch.is_tensor(t) and not t.is_floating_point()).reshape(-1, k)
        weights = next(t for t in out if torch.is_tensor(t) and t.is_floating_point() and t.shape[-1] == k
                       and t.numel() == ids.numel()).reshape(-1, k)
        expected, gap = choose(logits, bias, self.config, k)
        other = (expected.sort(-1).values != ids.sort(-1).values).any(-1)
        if (other & (gap > NEAR_TIE)).any():
            raise Refusal(f"layer {i}: {type(gate).__name__} does not choose experts as config.json says")
        self.record.experts[i] = (ids, gap)
        self.moe = {"x": x, "ids": ids, "weights": weights}
        here = f"layers.{i}."
        self.note(here + "router_logits", logits)
        self.note(here + "expert_ids", ids)
        self.note(here + "expert_weights", weights.float())
        self.note(here + "expert_gaps", gap)

    def note_experts(self, i, experts, out):
        if not hasattr(experts, "gate_up_proj"):
            return
        out = out.reshape(-1, out.shape[-1])
        self.note(f"layers.{i}.routed", self.mid.reshape(out.shape) + out)
        if not self.checked:
            self.check_experts(experts, out[0])

    def check_experts(self, experts, out):
        """One token by the formula: an early native V2 class mixed up the routing weights."""
        x, wanted = self.moe["x"][0].float(), torch.zeros(out.shape)
        for e, w in zip(self.moe["ids"][0], self.moe["weights"][0]):
            gate, up = (experts.gate_up_proj[e].float() @ x).chunk(2)
            wanted += w.float() * (experts.down_proj[e].float() @ (nn.functional.silu(gate) * up))
        limit = 1e-4 if experts.down_proj.dtype == torch.float32 else 5e-2
        if not (out.float() - wanted).norm() <= limit * wanted.norm():
            raise Refusal(f"{type(experts).__name__} of transformers {transformers.__version__} does not compute "
                          "sum(weight * expert(x)); use another version")
        self.checked = True

    def watch_attention(self, model):
        """Queries and keys after RoPE, pairs as neighbours, through an attention function of our own around the eager one."""
        from transformers import AttentionInterface
        from transformers.masking_utils import AttentionMaskInterface, eager_mask
        eager = sys.modules[self.module_name].eager_attention_forward
        halves = "deepseek_v2" not in self.module_name  # the native V2 class leaves pairs where they are

        def in_pairs(x, rope):
            if not halves:
                return x
            plain, first, second = x.split([x.shape[-1] - rope, rope // 2, rope // 2], -1)
            return torch.cat([plain, torch.stack([first, second], -1).flatten(-2)], -1)

        def attend(module, query, key, value, mask, **kwargs):
            here, rope = f"layers.{module.layer_idx}.", self.config.qk_rope_head_dim
            self.note(here + "q", in_pairs(query, rope)[0].transpose(0, 1))
            self.note(here + "k_rope", in_pairs(key, rope)[0, 0, :, -rope:])
            return eager(module, query, key, value, mask, **kwargs)

        AttentionInterface.register("golden_eager", attend)
        AttentionMaskInterface.register("golden_eager", eager_mask)
        model.config._attn_implementation = "golden_eager"


# ------------------------------------------------------------------------------------------------------- forward passes

def torch_dtype(name, config):
    if name == "auto":
        return getattr(config, "dtype", None) or getattr(config, "torch_dtype", None) or torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def run_whole(records, path, config, dtype, arguments):
    if getattr(config, "quantization_config", None):
        raise Refusal("the weights are FP8, which transformers computes on a GPU only; --layerwise reads them as "
                      "float(fp8) * scale")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=dtype, trust_remote_code=arguments.trust_remote_code).eval()
    if model.config._attn_implementation != "eager":
        raise Refusal(f"transformers chose the attention {model.config._attn_implementation}, want eager")
    stamp = correct_softmax_scale(model, config)
    watcher = Watcher(model, config, arguments.dump is not None)
    for r in records:
        watcher.record = r
        r.logits = model(input_ids=torch.tensor([r.tokens]), use_cache=False).logits[0].float()
        watcher.note("logits", r.logits)
    return model, stamp


class Arrived(Exception):
    """Carries what the first layer was called with."""


def enter(model, tokens):
    """(hidden state, keyword arguments) that the model gives its first layer."""
    def stop(module, args, kwargs):
        raise Arrived(args, kwargs)
    hook = model.model.layers[0].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.model(input_ids=torch.tensor([tokens]), use_cache=False)
    except Arrived as arrived:
        args, kwargs = arrived.args
        return (args[0] if args else kwargs.pop("hidden_states")), kwargs
    finally:
        hook.remove()
    raise Refusal("the model did not call its first layer")


def run_layerwise(records, path, config, dtype, arguments):
    """The model's own layers, one of them in memory at a time; each is loaded once and sees all prompts."""
    if not Path(path).is_dir():
        from huggingface_hub import snapshot_download
        path = snapshot_download(path)
    folder = Folder(path)
    if getattr(config, "quantization_config", None):
        del config.quantization_config
    with parameters_on_meta():
        model = transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=arguments.trust_remote_code).eval()
    keep = [p for n in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict") for p in getattr(model, n, None) or []]

    def dtype_of(name):
        kept = name.endswith("e_score_correction_bias") or any(re.search(rf"(^|\.){re.escape(p)}($|\.)", name) for p in keep)
        return torch.float32 if kept else dtype

    stamp = correct_softmax_scale(model, config)
    watcher = Watcher(model, config, arguments.dump is not None)
    folder.fill(model.model.embed_tokens, "model.embed_tokens.", dtype_of)
    for r in records:
        watcher.record = r
        r.hidden, r.kwargs = enter(model, r.tokens)
    model.model.embed_tokens.to("meta")
    for i, layer in enumerate(model.model.layers):
        folder.fill(layer, f"model.layers.{i}.", dtype_of)
        for r in records:
            watcher.record = r
            out = layer(r.hidden, **r.kwargs)
            r.hidden = out[0] if isinstance(out, tuple) else out
        layer.to("meta")
        print(f"layer {i + 1} of {len(model.model.layers)}, {peak_gib():.2f} GiB at most", file=sys.stderr, flush=True)
    folder.fill(model.model.norm, "model.norm.", dtype_of)
    folder.fill(model.lm_head, "lm_head.", dtype_of)
    for r in records:
        watcher.record = r
        r.logits = model.lm_head(model.model.norm(r.hidden))[0].float()
        watcher.note("logits", r.logits)
    return model, stamp


# -------------------------------------------------------------------------------------------------------------- writing

def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def experts_json(record):
    layers = sorted(record.experts)
    return {"layers": layers, "ids": [record.experts[i][0].tolist() for i in layers],
            "gaps": [[float(f"{g:.4g}") for g in record.experts[i][1].tolist()] for i in layers]}


def write_record(out, record, stamp):
    """Nine significant digits name an f32 exactly."""
    if not torch.isfinite(record.logits).all():
        raise Refusal(f"prompt {record.prompt[:40]!r}: a logit is not finite")
    head = {"prompt": record.prompt, "tokens": list(map(int, record.tokens)),
            "hadal_golden": stamp | ({"experts": experts_json(record)} if record.experts else {})}
    out.write(json.dumps(head)[:-1] + ', "logits": [')
    row_format = "[" + ", ".join(["%.9g"] * record.logits.shape[1]) + "]"
    for i, row in enumerate(record.logits):
        out.write((", " if i else "") + row_format % tuple(row.tolist()))
    out.write("]}\n")


def write_dumps(records, folder, stamp):
    Path(folder).mkdir(parents=True, exist_ok=True)
    for i, r in enumerate(records):
        tensors = {"tokens": torch.tensor(r.tokens, dtype=torch.int32)}
        tensors |= {name: value.contiguous() for name, value in r.dump.items()}
        save_file(tensors, Path(folder) / f"prompt_{i:03d}.safetensors",
                  {"format": "pt", "prompt": r.prompt, "hadal_golden": json.dumps(stamp)})


def parse_bool(text):
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise argparse.ArgumentTypeError(f"want true or false, got {text!r}")
    return text.lower() in ("true", "1", "yes")


def parse_arguments(argv):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--model-id", required=True, help="hub name or folder of the model")
    p.add_argument("--output-path", required=True, help="file to write (JSON lines)")
    p.add_argument("--prompts", help="prompts, separated by ';' (or by ',' when there is no ';')")
    p.add_argument("--prompt-file", help="one prompt per line; .jsonl: objects with prompt and, optionally, tokens")
    p.add_argument("--hf-model-path", help="folder to load instead of --model-id")
    p.add_argument("--hf-load-dtype", "--dtype", dest="dtype", default="float32", choices=["float32", "bfloat16", "auto"],
                   help="type of weights and activations; auto: what config.json says")
    p.add_argument("--trust-remote-code", nargs="?", const=True, default=False, type=parse_bool,
                   help="run the modeling file of the model's repository instead of transformers' own class")
    p.add_argument("--layerwise", action="store_true", help="one decoder layer in memory at a time; also reads FP8 weights")
    p.add_argument("--dump", metavar="FOLDER", help="also write each prompt's activations, for hadal check --bisect")
    p.add_argument("--output-format", default="json", choices=["json", "pickle"], help="pickle is not written")
    for flag in ("--apply-chat-template", "--image-paths", "--gcs-bucket"):
        p.add_argument(flag, nargs="?", const=True, help=argparse.SUPPRESS)
    arguments = p.parse_args(argv)
    if arguments.output_format == "pickle":
        p.error("a pickle is a program; --output-format=json is the format that is written")
    if arguments.apply_chat_template or arguments.image_paths:
        p.error("images are not supported: DeepSeek V2 and V3 read text")
    if arguments.gcs_bucket:
        p.error("nothing is uploaded; copy the file that --output-path names")
    return arguments


def generate(arguments):
    records = read_prompts(arguments)
    path = arguments.hf_model_path or arguments.model_id
    tokenize(records, path, arguments.trust_remote_code)
    for r in records:
        if not r.tokens:
            raise Refusal(f"prompt {r.prompt[:40]!r} has no tokens")
        print(f"{len(r.tokens)} tokens: {r.tokens[:20]}{' ...' if len(r.tokens) > 20 else ''}", file=sys.stderr)
    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=arguments.trust_remote_code)
    config._attn_implementation = config._experts_implementation = "eager"
    dtype = torch_dtype(arguments.dtype, config)
    run = run_layerwise if arguments.layerwise else run_whole
    with torch.no_grad():
        model, (scale, corrected) = run(records, path, config, dtype, arguments)
    stamp = {"format": FORMAT, "model": arguments.model_id, "class": f"{type(model).__module__}.{type(model).__name__}",
             "dtype": str(dtype).removeprefix("torch."), "attention": "eager", "layerwise": arguments.layerwise,
             "trust_remote_code": arguments.trust_remote_code, "softmax_scale": scale,
             "softmax_scale_corrected": corrected,
             "versions": {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
                          "python": platform.python_version()}}
    partial = arguments.output_path + ".partial"
    with open(partial, "w", encoding="utf-8") as out:
        for r in records:
            write_record(out, r, stamp)
    os.replace(partial, arguments.output_path)
    if arguments.dump:
        write_dumps(records, arguments.dump, stamp)
    print(f"{peak_gib():.2f} GiB of memory at most", file=sys.stderr)
    print(f"File is stored locally at {arguments.output_path}.")


def main():
    try:
        generate(parse_arguments(sys.argv[1:]))
    except Refusal as refusal:
        sys.exit(f"hf_golden_logits.py: {refusal}")


if __name__ == "__main__":
    main()
