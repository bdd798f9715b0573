#!/usr/bin/env python3
"""Makes the small tokenizers of tests/tokenizer/fixtures and the expected ids of tests/tokenizer/*.golden.

    tests/tokenizer/make_fixtures.py

tokenizers are trained on the text below; ids come from tokenizers, whose version stands in each golden file.  A golden is lines of
`JSON string<TAB>ids`, with a first line that begins with '#'.  v3.golden needs ../shared/data/tokenizer-deepseek-v3.json.
"""
import importlib.util
import json
import os
import random
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
FIXTURES = os.path.join(HERE, "fixtures")
V3 = os.path.join(HERE, "..", "..", "..", "shared", "data", "tokenizer-deepseek-v3.json")

spec = importlib.util.spec_from_file_location("texts", os.path.join(HERE, "texts.py"))
texts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(texts)

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
V3_SPLITS = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
             "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]
# In the manner of DeepSeek-V2, with fewer letters.
V2_SPLITS = [r"[\r\n]", r"\s?[A-Za-zµÀ-ÖØ-öø-ƺΑ-Ωα-ωА-яԱ-Ֆ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Symbols of bytes that no UTF-8 text holds; DeepSeek-V2's vocabulary lacks them and has them as added tokens.
V2_MISSING = "øöúÿõ÷ûýÀùÁþü"

split = pre_tokenizers.Split
byte_level = lambda **kw: pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **kw})
sequence = pre_tokenizers.Sequence
isolated = lambda patterns: [split(Regex(p), "isolated") for p in patterns]

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
PLAIN = [AddedToken(BOS, special=True, normalized=False), AddedToken(EOS, special=True, normalized=False)]

# name: pre_tokenizer, normalizer, added tokens, vocabulary size
STYLES = {
    "v3": (sequence(isolated(V3_SPLITS) + [byte_level()]), normalizers.Sequence([]),
           PLAIN + [AddedToken("<｜User｜>", normalized=True), AddedToken("<|EOT|>", special=True, normalized=True)], 700),
    "v2": (sequence(isolated(V2_SPLITS) + [pre_tokenizers.Digits(individual_digits=True), byte_level()]), None,
           PLAIN + [AddedToken(c, normalized=False) for c in V2_MISSING], 500),
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None, [AddedToken("<|endoftext|>", special=True, normalized=False)], 500),
    "prefix": (pre_tokenizers.ByteLevel(add_prefix_space=True), None, [AddedToken("<mask>", special=True, lstrip=True, normalized=False)], 400),
    "llama3": (sequence([split(Regex(LLAMA3), "isolated"), byte_level()]), None,
               [AddedToken("<|begin_of_text|>", special=True), AddedToken("<|end_of_text|>", special=True)], 600),
    "qwen2": (sequence([split(Regex(QWEN2), "isolated"), byte_level()]), normalizers.NFC(),
              [AddedToken("<|im_start|>", special=True), AddedToken("é!", normalized=True), AddedToken("e\u0301?", normalized=True)], 600),
    "o200k": (sequence([split(Regex(O200K), "isolated"), byte_level()]), None, [], 500),
    "behaviors": (sequence([split("-", "merged_with_previous"), split(Regex(r"\p{N}"), "contiguous"), split(Regex("[A-Z]"), "merged_with_next"),
                            split("@", "removed"), split(Regex(r"[a-z ]+"), "isolated", invert=True), byte_level()]), None, [], 400),
    "flags": (sequence([split(Regex(r"\s+|\S+"), "isolated"), byte_level()]), None,
              [AddedToken("word", single_word=True), AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True),
               AddedToken("<lr>", lstrip=True, rstrip=True, special=True), AddedToken("<lr><r>"), AddedToken("ab"), AddedToken("abc d")], 400),
}


def train(name):
    pre, normalizer, added, size = STYLES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    special = [t for t in added if t.special]
    alphabet = [c for c in pre_tokenizers.ByteLevel.alphabet() if name != "v2" or c not in V2_MISSING]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(texts.training(), trainer)
    tokenizer.add_tokens([t for t in added if not t.special])
    if name == "llama3":
        template = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                                 special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    path = os.path.join(FIXTURES, name + ".json")
    tokenizer.save(path, pretty=False)
    data = json.load(open(path, encoding="utf-8"))
    if name == "llama3":
        data["model"]["ignore_merges"] = True
        data["model"]["vocab"]["zqzq"] = len(data["model"]["vocab"]) + 0  # no merge leads to it
        for t in data["added_tokens"]:
            if t["id"] >= data["model"]["vocab"]["zqzq"]:
                t["id"] += 1
    if name == "gpt2":
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    json.dump(data, open(path, "w", encoding="utf-8"), ensure_ascii=name == "gpt2", separators=(",", ":"))
    return Tokenizer.from_file(path)


def write_golden(name, tokenizer, lines, special):
    with open(os.path.join(HERE, name + ".golden"), "w", encoding="utf-8", newline="\n") as f:
        f.write(f"# tokenizers {tokenizers.__version__}, made by make_fixtures.py\n")
        for text in lines:
            ids = tokenizer.encode(text, add_special_tokens=special).ids
            f.write(json.dumps(text, ensure_ascii=False) + "\t" + " ".join(map(str, ids)) + "\n")


def main():
    os.makedirs(FIXTURES, exist_ok=True)
    for name in STYLES:
        tokenizer = train(name)
        lines = list(texts.fixed()) + list(texts.random_texts(random.Random(name), 60))
        write_golden(name, tokenizer, lines, True)
    if os.path.exists(V3):
        write_golden("deepseek-v3", Tokenizer.from_file(V3), list(texts.fixed()) + list(texts.random_texts(random.Random("v3"), 2500)), False)
    return 0


sys.exit(main())
