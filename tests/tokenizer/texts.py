"""Texts that tokenizers disagree about, and others to train small ones on."""

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u1680", "\v", "\f", "        ", "\t\t"]

WORDS = """the of and to in is model training Token tokens I'm don't we'll they'd it's you've HELLO'S can'T l'été naïve Straße ДОМ привет мир
    λόγος שלום سلام नमस्ते 你好 世界 深度求索 こんにちは カタカナ ー・ 한국어 สวัสดี print( return{ if(x==1) /* x */ // https://example.org/a?b=c&d=%20 foo_bar
    camelCase snake_case 3.14159 1234567890 ４５６ ² ½ Ⅷ ٣٤٥ <|EOT|> 😀 👩‍👩‍👧‍👦 🇩🇪 ... --- === !!! ?!? “quoted” «x» ¿qué? © ™ € §
    ſ 'ſ 'S 'T 'RE 'Ve 'LL 'D K Å ﬁ ǅ a-b-c A@B word sword word. ab abc zqzq <l> <r> <lr> <lr><r> <mask> <|endoftext|> <|im_start|> é!""".split()
WORDS += ["e\u0301", "a\u0327\u0301", "\u0301", "\u200b", "\ufeff", "\x00", "\x1b[0m", "\u00ad", "\ue000", "\U0010ffff", "\ufffd", "\u0e33", "\u09c7\u09be", "\u1100\u1161\u11a8",
          "\u212b", "\ufb1d", "\U0001d15e", "\U000105d2\u0307", "ø", "ö", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜", "＜｜User｜>", "<|EOT|", "abc d"]


def training():
    """A few kilobytes in several scripts."""
    yield from ("The quick brown fox doesn't jump over the lazy dogs; they're 12, 345 or 6789 of them." for _ in range(20))
    yield from ("int main(void) { return foo_bar(x, 1) + camelCase[3]; } // the end\n\n\treturn 0;" for _ in range(20))
    yield from ("你好，世界。深度求索的模型。 こんにちは、カタカナ。 한국어 문장입니다." for _ in range(20))
    yield from ("Привет, мир! Это текст. Γειά σου Κόσμε. שלום עולם. नमस्ते दुनिया" for _ in range(20))
    yield from ("été naïve Straße — “quoted” … 😀😀 word sword words the the of of tokens tokenizer training models" for _ in range(20))


def fixed():
    yield ""
    yield from WORDS
    yield from SPACES
    for a in SPACES:
        yield "x" + a + "y" + a + "1" + a + "!" + a + "你" + a
        yield a + a + "x"
    for digits in range(1, 9):
        yield "7" * digits
        yield "x" + "7" * digits + "٣"
    for n in (15, 16, 17, 63, 64, 65, 200):
        yield "a" * n
        yield " " * n
        yield "ab" * n
        yield "字" * n
    yield "Hello, my dog is cute. I love to 1234567 3.14159 don't  stop\n\n\tindent 你好，世界"
    yield "<｜User｜>hi<｜Assistant｜><think>\n</think><｜end▁of▁sentence｜>"
    yield "a word, sword, word-word wordy word"
    yield "é? e\u0301? e\u0301! é! e\u0327\u0301?"
    yield "x  <l>  y  <r>  z  <lr>  <r> <l><r> abc d <lr><r>"
    yield "\u0301\u0301 a\u0301\u0327 \u1100\u1161\u11a8\u11a8 \uac00\u11a8 e\u0301! é!"


def random_texts(rng, n):
    for _ in range(n):
        kind = rng.random()
        size = rng.randrange(1, 8)
        if kind < 0.3:
            base = rng.choice((0x20, 0x80, 0x300, 0x590, 0x900, 0xE00, 0x1100, 0x2000, 0x3000, 0x4E00, 0xAC00, 0xFE00, 0x1D400, 0x1F300, 0x20000))
            yield "".join(chr(base + rng.randrange(0x80)) if rng.random() < 0.8 else rng.choice(SPACES) for _ in range(2 * size))
        elif kind < 0.45:
            yield "".join(rng.choice(SPACES) + rng.choice(["", "", "a", "1", "!", "字", "\u0301", "\u200b"]) for _ in range(size))
        else:
            yield "".join(rng.choice(WORDS) + rng.choice(SPACES + ["", "", " "]) for _ in range(size))
