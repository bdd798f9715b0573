#!/bin/sh
# `hadal tokenizer train`: files plain, compressed and as JSON lines give the same tokenizer, on any number of threads, and it works.
set -eu
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
text=tests/tokenizer/train_text.txt
fail() {
    echo "$*" >&2
    exit 1
}
train() {
    out=$1
    shift
    "$HADAL" tokenizer train "$@" vocab_size=600 tokenizer_path="$scratch/$out" >"$scratch/stdout" 2>"$scratch/stderr" || fail "train $*: $(cat "$scratch/stderr")"
}
HADAL_NUM_THREADS=1 train one "$text"
grep -q '600 tokens' "$scratch/stdout" || fail "no result line"
HADAL_NUM_THREADS=4 train four "$text"
gzip -c "$text" >"$scratch/text.txt.gz"
train gzip "$scratch/text.txt.gz"
for other in four gzip; do
    cmp "$scratch/one/tokenizer.json" "$scratch/$other/tokenizer.json" || fail "$other differs"
done
sed 's/[\\"]//g' <tests/data/test_pieces.c | tr -d '\t\r' | sed 's/.*/{"content": "&"}/' >"$scratch/lines.jsonl"
train lines "$scratch/lines.jsonl" text_column=content
cmp -s "$scratch/one/tokenizer.json" "$scratch/lines/tokenizer.json" && fail "another text gave the same tokenizer"

# What it makes can be used: ids and back.
"$HADAL" tokenize tokenizer_path="$scratch/one" "$text" >"$scratch/ids"
"$HADAL" tokenize tokenizer_path="$scratch/one" show=text "$scratch/ids" >"$scratch/back"
printf '<｜begin▁of▁sentence｜>' | cat - "$text" | cmp - "$scratch/back" || fail "decoding does not give the text back"

refused() {
    message=$1
    shift
    "$HADAL" tokenizer "$@" >"$scratch/stdout" 2>"$scratch/stderr" && fail "tokenizer $* was accepted"
    grep -q "$message" "$scratch/stderr" || fail "tokenizer $*: $(cat "$scratch/stderr")"
}
refused 'takes the word train' "$text"
refused 'takes the word train' train
refused 'tokenizer_path is not set' train "$text" vocab_size=600
refused 'at least 259' train "$text" vocab_size=100 tokenizer_path="$scratch/x"
refused 'nosuch' train "$scratch/nosuch" vocab_size=600 tokenizer_path="$scratch/x"
: >"$scratch/empty.txt"
refused 'no text' train "$scratch/empty.txt" vocab_size=600 tokenizer_path="$scratch/x"
[ ! -e "$scratch/x" ] || fail "a refused training left something behind"
