#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_table.c: the character classes the pre-tokenisers ask for, and what NFC needs.

    python3 -m pip install unicodedataplus==16.0.0.post1
    tools/make_unicode_table.py > src/tokenizer/unicode_table.c

The versions are those of the reference: HuggingFace tokenizers 0.22 and 0.23 (Oniguruma) agree with Unicode 16.0.0 in \\p{L}, \\p{M}, \\p{N},
\\p{P}, \\p{S} and \\s on every code point, and their NFC knows the characters of Unicode 9.0 and no later ones; tests/tokenizer/compare_hf.py unicode asks them
again.
"""
import sys

import unicodedataplus as ucd

BLOCK = 128
SPACE = {*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
# Alphabetic without being a letter, a mark or a letter number: PropList's Other_Alphabetic of category So.
ALPHABETIC_SYMBOL = {*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)}
JOIN_CONTROL = {0x200C, 0x200D}
# [一-龥぀-ゟ゠-ヿ], the second Split of DeepSeek-V3.
CJK = {*range(0x4E00, 0x9FA6), *range(0x3040, 0x3100)}
HANGUL = range(0xAC00, 0xD7A4)
NFC_AGE = 9.0


def age(code):
    text = ucd.age(chr(code))
    return float("inf") if text == "Unassigned" else float(text)


def flags(code):
    category = ucd.category(chr(code))
    word = category[0] in "LM" or category in ("Nl", "Nd", "Pc") or code in JOIN_CONTROL or code in ALPHABETIC_SYMBOL
    bit = "LMNPS".find(category[0])
    return (1 << bit if bit >= 0 else 0) | (32 if code in SPACE else 0) | (64 if word else 0) | (128 if code in CJK else 0)


def print_array(kind, name, values, per_line=40):
    print(f"const {kind} {name}[{len(values)}] = {{")
    for i in range(0, len(values), per_line):
        print("    " + ",".join(str(v) for v in values[i:i + per_line]) + ",")
    print("};\n")


def print_classes():
    blocks, index = {}, []
    for start in range(0, 0x110000, BLOCK):
        block = tuple(flags(c) for c in range(start, start + BLOCK))
        index.append(blocks.setdefault(block, len(blocks)))
    assert len(blocks) <= 65536
    print_array("uint16_t", "hd_unicode_index", index)
    print_array("uint8_t", "hd_unicode_flags", [f for block in blocks for f in block])


def print_nfc():
    decomposition, composition, classes = [], [], []
    for c in range(0x110000):
        if 0xD800 <= c < 0xE000 or c in HANGUL or age(c) > NFC_AGE:
            continue
        text = ucd.decomposition(chr(c))
        if ucd.combining(chr(c)):
            if classes and classes[-1][1] == c - 1 and classes[-1][2] == ucd.combining(chr(c)):
                classes[-1][1] = c
            else:
                classes.append([c, c, ucd.combining(chr(c))])
        if text and not text.startswith("<"):
            parts = [int(p, 16) for p in text.split()]
            decomposition.append((c, parts[0], parts[1] if len(parts) > 1 else 0))
            if len(parts) == 2 and ucd.normalize("NFC", text_of(parts)) == chr(c):
                composition.append((parts[0], parts[1], c))
    print_rows("hd_unicode_pair", "hd_unicode_decompositions", decomposition)
    print_rows("hd_unicode_pair", "hd_unicode_compositions", [(c, a, b) for a, b, c in sorted(composition)])
    print_rows("hd_unicode_class", "hd_unicode_classes", classes)
    joining = sorted({b for _, b, _ in composition if ucd.combining(chr(b)) == 0})
    print_array("uint32_t", "hd_unicode_joining", joining, 16)
    for name, rows in (("decompositions", decomposition), ("compositions", composition), ("classes", classes), ("joining", joining)):
        print(f"const size_t hd_unicode_n_{name} = {len(rows)};")


def text_of(codes):
    return "".join(map(chr, codes))


def print_rows(kind, name, rows, per_line=6):
    print(f"const {kind} {name}[{len(rows)}] = {{")
    for i in range(0, len(rows), per_line):
        print("    " + ", ".join("{" + ", ".join(map(str, row)) + "}" for row in rows[i:i + per_line]) + ",")
    print("};\n")


def main():
    assert ucd.unidata_version == "16.0.0", ucd.unidata_version
    print("/* Made by tools/make_unicode_table.py from Unicode " + ucd.unidata_version + "; NFC as of 9.0.  See unicode.h. */")
    print("/* clang-format off */")
    print('#include "tokenizer/unicode.h"\n')
    print_classes()
    print_nfc()


sys.exit(main())
