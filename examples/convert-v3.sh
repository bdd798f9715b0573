#!/bin/sh
# DeepSeek-V3 as it is published (FP8 with block scales) to BF16, as DeepSeek's fp8_cast_bf16.py does, and a certificate of what was written.
# MODEL: a folder, or a name in the hub's cache; OUT: a new folder, 1.37 TB for V3.
set -eu
MODEL=${MODEL:-deepseek-ai/DeepSeek-V3}
OUT=${OUT:-DeepSeek-V3-BF16}
hadal convert "$MODEL" "$OUT" save_dtype=bfloat16 "$@"
hadal verify "$OUT" digests_out="$OUT.digests"
