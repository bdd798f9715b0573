#!/bin/sh
# Ids and texts beside HuggingFace tokenizers, in full: only in ./dev soak, and only where that package and DeepSeek-V3's file are.
[ "${HADAL_SOAK:-0}" = 1 ] || exit 77
python=${HADAL_PYTHON:-python3}
"$python" -c 'import tokenizers' 2>/dev/null || { echo "no tokenizers for $python (HADAL_PYTHON names another): skipped"; exit 77; }
[ -f ../shared/data/tokenizer-deepseek-v3.json ] || { echo "../shared/data/tokenizer-deepseek-v3.json is not here: skipped"; exit 77; }
set -e
for what in "strings 1000000" characters "documents 50"; do
    # The words are to be split.
    # shellcheck disable=SC2086
    "$python" tests/tokenizer/compare_hf.py $what
done
for name in v2 gpt2 prefix llama3 qwen2 behaviors flags; do # o200k runs in PCRE2, whose Unicode is older
    TOKENIZER=tests/tokenizer/fixtures/$name.json "$python" tests/tokenizer/compare_hf.py strings 100000
done
