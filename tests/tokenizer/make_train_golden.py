"""Writes train.golden: the merges that HuggingFace's BpeTrainer finds in train_text.txt, which this makes as well.

    python tests/tokenizer/make_train_golden.py

Needs tokenizers (0.23 made what is committed).  One merge per line, as tokenizer.json writes it.
"""
import json
import pathlib
import random

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
VOCAB = 600
SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]


def make_text():
    r = random.Random(7)
    syllables = ["ka", "lo", "mi", "tes", "ran", "ü", "der", "ing", "o", "st", "你", "好", "ение", "qu", "e", "s", "A", "Th"]
    words = ["".join(r.choice(syllables) for _ in range(r.randrange(1, 5))) for _ in range(400)]
    out = []
    for _ in range(2500):
        k = r.random()
        if k < .8:
            out.append(r.choice(words[: int(400 * r.random() ** 2) + 1]) + " ")
        elif k < .88:
            out.append(str(r.randrange(10 ** r.randrange(1, 6))) + r.choice(["", " ", ", "]))
        elif k < .95:
            out.append(r.choice([". ", ", ", "; ", " - ", "\n", "\n\n", "\t", "  ", "()", "...", "\r\n", "=foo", "😀"]))
        else:
            out.append("a" * r.randrange(1, 12) + " ")
    return "".join(out)


def main():
    text = make_text()
    (HERE / "train_text.txt").write_bytes(text.encode())
    source = json.loads((HERE / "../../../shared/data/tokenizer-deepseek-v3.json").resolve().read_text(encoding="utf-8"))
    patterns = [p["pattern"]["Regex"] for p in source["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns] +
                                                      [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, min_frequency=2, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    with open(HERE / "train.golden", "w", encoding="utf-8") as f:
        for merge in merges:
            print(merge if isinstance(merge, str) else " ".join(merge), file=f)


main()
