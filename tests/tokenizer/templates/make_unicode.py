"""Writes src/tokenizer/template_unicode.def: what Python's str methods know of code points beyond ASCII.

    python tests/tokenizer/templates/make_unicode.py > src/tokenizer/template_unicode.def

Rows: CASE(which, first, last, step, delta) for simple mappings of runs of letters, SPECIAL(which, code, a, b, c) for mappings to
several code points, UNPRINTABLE, CASED, IGNORABLE(first, last).  Whether a code point is cased or case-ignorable is found by asking
str.lower() about a capital sigma beside it, which is the only use Python makes of it.
"""
import sys
import unicodedata

LIMIT = 0x110000
CODES = [c for c in range(LIMIT) if not 0xD800 <= c <= 0xDFFF]


def runs(codes):
    out = []
    for c in codes:
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def emit(rows, width=132):
    line = ""
    for row in rows:
        if line and len(line) + 1 + len(row) > width:
            print(line)
            line = ""
        line += (" " if line else "") + row
    if line:
        print(line)


def case_rows(which, mapped):
    simple, special = [], []
    for c in CODES:
        m = mapped(chr(c))
        if m == chr(c):
            continue
        if len(m) == 1:
            simple.append((c, ord(m) - c))
        else:
            cs = [ord(x) for x in m] + [0, 0]
            special.append(f"SPECIAL({which}, 0x{c:X}, 0x{cs[0]:X}, 0x{cs[1]:X}, 0x{cs[2]:X})")
    out = []  # first, last, step, delta
    for c, d in simple:
        if out and out[-1][3] == d:
            first, last, step, _ = out[-1]
            gap = c - last
            if (first == last and gap <= 2) or gap == step:
                out[-1] = [first, c, gap, d]
                continue
        out.append([c, c, 1, d])
    return [f"CASE({which}, 0x{a:X}, 0x{b:X}, {s}, {d})" for a, b, s, d in out], special


def ranges(name, codes):
    return [f"{name}(0x{a:X}, 0x{b:X})" for a, b in runs(codes)]


def main():
    # "A" + x + SIGMA: the sigma is final when x, skipping ignorables, ends in something cased and nothing cased follows.
    sigma = "\u03a3"
    ignorable = [c for c in CODES if c > 0x7F and ("A" + chr(c) + sigma).lower()[-1] == "\u03c2"
                 and (" " + chr(c) + sigma).lower()[-1] != "\u03c2"]
    cased = [c for c in CODES if c > 0x7F and (" " + chr(c) + sigma).lower()[-1] == "\u03c2"]
    print(f"/* Made by tests/tokenizer/templates/make_unicode.py with Python {sys.version.split()[0]},")
    print(f" * Unicode {unicodedata.unidata_version}.  Properties of code points beyond ASCII; each table in ascending order. */")
    for which, mapped in (("UPPER", str.upper), ("LOWER", str.lower), ("TITLE", str.title)):
        if which == "TITLE":  # only where it differs from upper
            rows, special = case_rows(which, lambda x: x.title() if x.title() != x.upper() else x)
            same = [c for c in CODES if chr(c).title() == chr(c) != chr(c).upper()]
            rows += [f"CASE(TITLE, 0x{a:X}, 0x{b:X}, 1, 0)" for a, b in runs(same)]
            rows.sort(key=lambda r: int(r.split("0x")[1].split(",")[0], 16))
        else:
            rows, special = case_rows(which, mapped)
            rows = [r for r in rows if int(r.split("0x")[1].split(",")[0], 16) > 0x7F]
        print(f"#ifdef CASE_{which}")
        emit(rows)
        print("#endif")
        print(f"#ifdef SPECIAL_{which}")
        emit(special)
        print("#endif")
    for name, codes in (("UNPRINTABLE", [c for c in range(0x80, LIMIT) if not chr(c).isprintable()]), ("CASED", cased), ("IGNORABLE", ignorable)):
        print(f"#ifdef {name}")
        emit(ranges(name, codes))
        print("#endif")


main()
