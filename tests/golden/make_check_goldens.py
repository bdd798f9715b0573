"""Small models and their golden logits for the tests of `hadal check`, in the folder check/.

    python make_check_goldens.py                 with the versions of requirements.txt

Each folder check/NAME is a HuggingFace model folder as transformers writes it (bfloat16) with golden.jsonl and, for one prompt,
dump/*.safetensors, both by tools/hf_golden_logits.py in float32.  Weights and tokens come from the counter generator.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import counter
from make_hf_goldens import COMMON, V2, V3, Model, yarn

HERE = Path(__file__).parent
TOOL = HERE.parent.parent / "tools" / "hf_golden_logits.py"
PROMPTS = [("short", 4), ("one", 1), ("long", 40)]
DUMPED = [("dumped", 6)]

SIZES = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "moe_intermediate_size": 8, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
         "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
         "max_position_embeddings": 640}

MODELS = {
    "v2": COMMON | V2 | SIZES | {"q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
                                 "routed_scaling_factor": 1.0, "rope_scaling": yarn(0.707, 0.707) |
                                 {"original_max_position_embeddings": 16}},
    "v3": COMMON | V3 | SIZES | {"q_lora_rank": 12, "n_group": 4, "topk_group": 2, "rope_scaling": yarn(1.0, 1.0) |
                                 {"original_max_position_embeddings": 16}},
}


def write_prompts(path, prompts, seed, vocab):
    with open(path, "w") as out:
        for name, n in prompts:
            tokens = counter.below(seed, "check." + name, vocab, n)
            out.write(json.dumps({"prompt": name, "tokens": [int(t) for t in tokens]}) + "\n")


def run_tool(folder, prompts, output, *more):
    subprocess.run([sys.executable, TOOL, "--model-id", folder.name, "--hf-model-path", folder, "--prompt-file", prompts,
                    "--output-path", output, *more], check=True)


def make(name, config, seed):
    folder = HERE / "check" / name
    shutil.rmtree(folder, ignore_errors=True)
    model = Model(config)
    model.fill(seed)
    model.trunk.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    prompts = folder / "prompts.jsonl"
    write_prompts(prompts, PROMPTS, seed, config["vocab_size"])
    run_tool(folder, prompts, folder / "golden.jsonl")
    write_prompts(prompts, DUMPED, seed, config["vocab_size"])
    run_tool(folder, prompts, folder / "unused.jsonl", "--layerwise", "--dump", folder / "dump")
    prompts.unlink()
    (folder / "unused.jsonl").unlink()
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for i, (name, config) in enumerate(MODELS.items()):
        make(name, config, i + 1)
