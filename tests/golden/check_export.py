"""Does HuggingFace transformers read a checkpoint folder, and what loss does it find?

    python check_export.py FOLDER '[5, 17, 3, 99]'
    python check_export.py FOLDER tokens.json

FOLDER holds config.json and model.safetensors, or shards with model.safetensors.index.json.  The tokens are a JSON
list, or a list of lists of equal length.  The model is loaded in float32 by AutoModelForCausalLM; nothing is
downloaded.  Prints the mean next-token loss with 9 digits.  Exit status 3 if a tensor is missing, has the wrong shape,
or is left over (layers of multi-token prediction modules may be left over: transformers does not have them).
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers


def load(folder):
    """(model, list of complaints about its tensors)."""
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager", local_files_only=True,
        output_loading_info=True)
    layers = model.config.num_hidden_layers
    unexpected = []
    for name in info["unexpected_keys"]:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        if not layer or int(layer[1]) < layers:
            unexpected.append(name)
    complaints = [f"missing: {name}" for name in sorted(info["missing_keys"])]
    complaints += [f"left over: {name}" for name in sorted(unexpected)]
    complaints += [f"wrong shape: {name}" for name in sorted(map(str, info["mismatched_keys"]))]
    return model.eval(), complaints


def mean_loss(model, tokens):
    """Mean over rows and positions of the next-token loss, in double from float32 logits."""
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].double().flatten(0, 1), tokens[:, 1:].flatten()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokens", help="JSON text, or the name of a file that holds it")
    arguments = parser.parse_args()
    text = arguments.tokens
    tokens = torch.tensor(json.loads(text if text.lstrip().startswith("[") else Path(text).read_text()))
    torch.set_num_threads(1)
    model, complaints = load(arguments.folder)
    print(f"{type(model).__name__}, {sum(p.numel() for p in model.parameters())} parameters, "
          f"transformers {transformers.__version__}")
    if complaints:
        print("\n".join(complaints))
        return 3
    print(f"loss {mean_loss(model, tokens if tokens.dim() == 2 else tokens[None]):.9f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
