"""Trains on a file with hadal and with HuggingFace's trainer; compares merges, vocabulary, ids and time.

    python tests/tokenizer/compare_train.py FILE VOCAB_SIZE [HADAL]

Needs tokenizers.  HuggingFace gets the file as one sequence, as hadal takes it; --lines gives it line by line, which lets it use
all processors and may change merges (white space at the ends of lines).
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import tokenizers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers


def train_hf(texts, patterns, specials, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] +
                                                      [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    start = time.time()
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())["model"], time.time() - start


def merges(model):
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]


def main():
    words = [a for a in sys.argv[1:] if a != "--lines"]
    path, vocab_size = words[0], int(words[1])
    hadal = words[2] if len(words) > 2 else str(pathlib.Path(__file__).parent / "../../build/release/hadal")
    text = open(path, "rb").read().decode("utf-8", "replace")
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        subprocess.run([hadal, "tokenizer", "train", path, f"vocab_size={vocab_size}", f"tokenizer_path={folder}"], check=True)
        seconds = time.time() - start
        ours = json.load(open(f"{folder}/tokenizer.json", encoding="utf-8"))
        patterns = [p["pattern"]["Regex"] for p in ours["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split"]
        specials = [t["content"] for t in ours["added_tokens"]]
        theirs, their_seconds = train_hf(text.splitlines(keepends=True) if "--lines" in sys.argv else [text], patterns, specials, vocab_size)
        lines = [line for line in text[:4 << 20].split("\n")[:3000] if not line.endswith("\r")]
        pathlib.Path(f"{folder}/lines").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        ids = subprocess.run([hadal, "tokenize", f"tokenizer_path={folder}", "documents=lines", f"{folder}/lines"], check=True, capture_output=True, text=True).stdout
        loaded = Tokenizer.from_file(f"{folder}/tokenizer.json")
        same_ids = ids == "".join(" ".join(map(str, loaded.encode(line).ids)) + "\n" for line in lines)
    print(f"tokenizers {tokenizers.__version__}: merges {'the same' if merges(theirs) == merges(ours['model']) else 'DIFFER'}, "
          f"vocabulary {'the same' if theirs['vocab'] == ours['model']['vocab'] else 'DIFFERS'}, ids of {len(lines)} lines {'the same' if same_ids else 'DIFFER'}; "
          f"hadal {seconds:.2f} s, HuggingFace {their_seconds:.2f} s")


main()
