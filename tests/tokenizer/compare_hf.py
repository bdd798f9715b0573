#!/usr/bin/env python3
"""Compares hadal with HuggingFace tokenizers, id by id.

    compare_hf.py strings [N]        N generated strings (default 1,000,000)
    compare_hf.py characters         every code point among letters, spaces, digits and line ends
    compare_hf.py documents [MB]     documents from this machine (default 50)
    compare_hf.py classes            bos and eos of AutoTokenizer (needs transformers) for several tokenizer_config.json
    compare_hf.py unicode            character classes and NFC of the installed tokenizers against unicodedataplus 16.0.0
    compare_hf.py speed FILE...      encode and encode_batch of both, in the same run, in CPU seconds

Variables: HADAL (the program, default build/release/hadal), TOKENIZER (a tokenizer.json or a folder, default
../shared/data/tokenizer-deepseek-v3.json).  Exit status 1 when anything differs.  Needs tokenizers; prints its version.
"""
import glob
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
import tokenizers
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

HADAL = os.environ.get("HADAL", "build/release/hadal")
PATH = os.environ.get("TOKENIZER", "../shared/data/tokenizer-deepseek-v3.json")
FILE = os.path.join(PATH, "tokenizer.json") if os.path.isdir(PATH) else PATH

WORDS = """the of and to in is model training Token tokens I'm don't we'll they'd it's you've HELLO'S can'T l'été naïve Straße ДОМ привет мир
    λόγος שלום سلام नमस्ते 你好 世界 深度求索 こんにちは カタカナ 한국어 สวัสดี print( return{ if(x==1) /* x */ // https://example.org/a?b=c&d=%20 foo_bar
    camelCase snake_case 3.14159 1234567890 ４５６ ² ½ Ⅷ ٣٤٥ <|EOT|> 😀 👩‍👩‍👧‍👦 🇩🇪 e\u0301 a\u0327\u0301 \u200b \ufeff \x00 \x1b[0m ... --- === !!! ?!? “quoted” «x» ¿qué? © ™ € §
    ſ 'ſ 'S 'T 'RE 'Ve 'LL 'D K Å ﬁ ǅ""".split()
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u1680", "\v", "\f", "        ", "\t\t"]


def special_pieces(contents):
    """Added tokens, and things that are nearly one."""
    for text in contents:
        yield text
        yield text[:-1]
        yield text[1:]
        yield text.replace("｜", "|")
        yield text.upper()


def any_character(rng):
    plane = rng.random()
    while True:
        if plane < 0.35:
            code = rng.randrange(0x80)
        elif plane < 0.55:
            code = rng.randrange(0x3000)
        elif plane < 0.8:
            code = rng.randrange(0x10000)
        elif plane < 0.95:
            code = rng.randrange(0x10000, 0x33480)
        else:
            code = rng.randrange(0x110000)
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def generated(n, contents, seed=1):
    rng = random.Random(seed)
    specials = list(special_pieces(contents))
    corpus = "".join(open(f, encoding="utf-8", errors="replace").read() for f in sorted(glob.glob("src/*/*.[ch]"))[:120])
    for i in range(n):
        kind = rng.random()
        size = int(rng.expovariate(1 / 12)) + 1
        if kind < 0.25:
            yield "".join(any_character(rng) for _ in range(size))
        elif kind < 0.6:
            yield "".join(rng.choice(WORDS) + (rng.choice(SPACES) if rng.random() < 0.7 else "") for _ in range(size))
        elif kind < 0.7:
            yield "".join(rng.choice(SPACES) + (rng.choice("aé字1!ä٣") if rng.random() < 0.3 else "") for _ in range(size))
        elif kind < 0.8:
            yield "".join(rng.choice((rng.choice(specials or WORDS), rng.choice(WORDS), rng.choice(SPACES))) for _ in range(rng.randrange(1, 6)))
        elif kind < 0.9:
            at = rng.randrange(len(corpus))
            yield corpus[at:at + 4 * size]
        else:
            base = rng.choice((0x20, 0x300, 0x590, 0x900, 0xE00, 0x1100, 0x2000, 0x3000, 0x4E00, 0xA000, 0xAC00, 0xF900, 0xFE00, 0x1D400, 0x1F300, 0x20000))
            yield "".join(chr(base + rng.randrange(0x180)) if rng.random() < 0.8 else rng.choice(SPACES) for _ in range(size))


def characters():
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            c = chr(code)
            yield f"{c}a{c} {c}1{c}\n{c}{c} !{c}  {c}é字{c}ア"


def documents(mb):
    """Text files of this machine, as they are; whatever is no UTF-8 is read with errors="replace"."""
    patterns = ["/usr/share/doc/**/*", "/usr/share/perl/**/*.p[lm]", "/usr/lib/python3*/**/*.py", "/usr/include/**/*.h", "/usr/share/i18n/**/*",
                "/usr/share/common-licenses/*", "/usr/share/locale/**/*", "/usr/share/info/*", "/usr/share/man/**/*"]
    left = mb * 1000000
    for pattern in patterns:
        share = mb * 1000000 / 5
        for name in sorted(glob.glob(pattern, recursive=True)):
            if left <= 0 or share <= 0:
                break
            if not os.path.isfile(name):
                continue
            data = open(name, "rb").read()
            if name.endswith(".gz"):
                try:
                    data = gzip.decompress(data)
                except (OSError, EOFError):
                    continue
            text = data.decode("utf-8", "replace")
            if not text or len(text) > 4000000:
                continue
            left -= len(data)
            share -= len(data)
            yield text


def hadal_ids(texts, *keys):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        for text in texts:
            f.write(json.dumps(text, ensure_ascii=False) + "\n")
        f.flush()
        run = subprocess.run([HADAL, "tokenize", f"tokenizer_path={PATH}", "documents=jsonl", f.name, *keys], stdout=subprocess.PIPE, check=True)
    return [[int(i) for i in line.split()] for line in run.stdout.decode().split("\n")[:-1]]


def hadal_texts(rows):
    lines = "\n".join(" ".join(map(str, row)) for row in rows) + "\n"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write(lines)
        f.flush()
        run = subprocess.run([HADAL, "tokenize", f"tokenizer_path={PATH}", "documents=jsonl", "show=text", f.name], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in run.stdout.decode().split("\n")[:-1]]


def compare(tokenizer, texts, what, exact=True):
    """Blocks of texts, so that neither side holds everything."""
    n_text = n_id = n_char = n_bad = n_round = 0
    block = []

    def check():
        nonlocal n_text, n_id, n_char, n_bad, n_round
        want = [e.ids for e in tokenizer.encode_batch(block, add_special_tokens=False)]
        got = hadal_ids(block, "add_special_tokens=false")
        assert len(got) == len(block), (len(got), len(block))
        for text, w, g in zip(block, want, got):
            if w != g:
                n_bad += 1
                if n_bad <= 10:
                    print("DIFFERS", ascii(text)[:200], w[:40], g[:40])
        if exact:
            for text, back in zip(block, hadal_texts(got)):
                if text != back:
                    n_round += 1
                    if n_round <= 10:
                        print("NOT DECODED", ascii(text)[:200], ascii(back)[:200])
        n_text += len(block)
        n_id += sum(map(len, want))
        n_char += sum(map(len, block))
        block.clear()

    for text in texts:
        block.append(text)
        if len(block) >= 50000 or sum(map(len, block[-1:])) > 1000000 or len(block) % 1000 == 0 and sum(map(len, block)) > 8000000:
            check()
    if block:
        check()
    print(f"{what}: {n_text} texts, {n_char} characters, {n_id} ids: {n_bad} differ, {n_round} do not decode to themselves")
    return n_bad == 0 and n_round == 0


def check_classes():
    """What transformers' AutoTokenizer adds, for DeepSeek's file under other configurations."""
    import transformers
    print("transformers", transformers.__version__)
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    old = int(transformers.__version__.split(".")[0]) < 5
    good, text = True, "Hello, 你好"
    for name in ("LlamaTokenizerFast", "LlamaTokenizer", "PreTrainedTokenizerFast"):
        for add_bos in (None, True, False):
            for add_eos in (None, True, False):
                config = {"tokenizer_class": name, "bos_token": {"__type": "AddedToken", "content": bos}, "eos_token": eos, "pad_token": eos}
                config.update({k: v for k, v in (("add_bos_token", add_bos), ("add_eos_token", add_eos)) if v is not None})
                with tempfile.TemporaryDirectory() as folder:
                    os.symlink(os.path.abspath(FILE), os.path.join(folder, "tokenizer.json"))
                    json.dump(config, open(os.path.join(folder, "tokenizer_config.json"), "w"))
                    json.dump({"model_type": "deepseek_v3"}, open(os.path.join(folder, "config.json"), "w"))
                    # Version 5 drops add_bos_token and add_eos_token of the file; given as arguments they act as version 4's class did.
                    given = {} if old or name == "PreTrainedTokenizerFast" else {"add_bos_token": add_bos is not False, "add_eos_token": add_eos is True}
                    want = transformers.AutoTokenizer.from_pretrained(folder, **given)(text).input_ids
                    run = subprocess.run([HADAL, "tokenize", f"tokenizer_path={folder}", f"text={text}"], stdout=subprocess.PIPE, check=True)
                got = [int(i) for i in run.stdout.split()]
                good = good and got == want
                print(name, add_bos, add_eos, "same" if got == want else f"DIFFERS {want} {got}")
    return good


def check_unicode():
    import unicodedataplus as ucd
    print("unicodedataplus", ucd.unidata_version)
    codes = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    good = True
    for name in ("L", "M", "N", "P", "S", "s"):
        split = pre_tokenizers.Split(Regex(r"\s" if name == "s" else r"\p{%s}" % name), "removed")
        found = set(codes)
        for i in range(0, len(codes), 4096):
            for piece, _ in split.pre_tokenize_str("".join(map(chr, codes[i:i + 4096]))):
                found -= set(map(ord, piece))
        want = {c for c in codes if (chr(c).isspace() and c not in range(0x1C, 0x20) if name == "s" else ucd.category(chr(c))[0] == name)}
        print(name, len(found), "differences:", len(found ^ want))
        good = good and found == want
    nfc, later = normalizers.NFC(), 0
    for c in codes:
        text = "a\u0345" + chr(c) + "\u0327\u0301"
        if nfc.normalize_str(text) != ucd.normalize("NFC", text):
            later += 1
            good = good and float(ucd.age(chr(c))) > 9.0
    print("NFC: characters of Unicode 10.0 and later that join nothing:", later)
    return good


def best(f, n):
    took = []
    for _ in range(n):
        start = time.process_time()
        f()
        took.append(time.process_time() - start)
    return min(took)


def speed(tokenizer, files):
    """The reference gets parts of 100,000 characters, which it encodes faster than one long text."""
    bench = os.path.join(os.path.dirname(HADAL), "bench", "bench_tokenizer")
    for name in files:
        text = open(name, encoding="utf-8", errors="replace").read()[:8000000]
        parts = [text[i:i + 100000] for i in range(0, len(text), 100000)]
        size = len(text.encode()) / 2**20
        alone = best(lambda: [tokenizer.encode(p, add_special_tokens=False) for p in parts], 2)
        batch = best(lambda: tokenizer.encode_batch(parts, add_special_tokens=False), 2)
        print(f"{name}: {size:.1f} MiB\ntokenizers encode        {size / alone:7.2f} MiB/s of CPU\ntokenizers encode_batch  {size / batch:7.2f} MiB/s of CPU", flush=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            subprocess.run([bench, FILE, f.name], check=True)
    return True


def main():
    print("tokenizers", tokenizers.__version__)
    tokenizer = Tokenizer.from_file(FILE)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    contents = [t["content"] for t in json.load(open(FILE, encoding="utf-8"))["added_tokens"]]
    data = json.load(open(FILE, encoding="utf-8"))
    strips = any(t["lstrip"] or t["rstrip"] for t in data["added_tokens"]) or '"add_prefix_space": true, "trim' in json.dumps(data["pre_tokenizer"])
    exact = data["normalizer"] in (None, {"type": "Sequence", "normalizers": []}) and not strips and "Removed" not in json.dumps(data["pre_tokenizer"])
    command, size = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2].isdigit() else None
    if command == "strings":
        good = compare(tokenizer, generated(size or 1000000, contents), "strings", exact)
    elif command == "documents":
        good = compare(tokenizer, documents(size or 50), "documents", exact)
    elif command == "characters":
        good = compare(tokenizer, characters(), "characters", exact)
    elif command == "classes":
        good = check_classes()
    elif command == "unicode":
        good = check_unicode()
    else:
        good = speed(tokenizer, sys.argv[2:])
    return 0 if good else 1


sys.exit(main())
