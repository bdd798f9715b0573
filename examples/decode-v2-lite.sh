#!/bin/sh
# MaxText's documented decode command, with the program, model and tokenizer named.  MODEL: a folder, or a name in the hub's cache.
set -eu
MODEL=${MODEL:-deepseek-ai/DeepSeek-V2-Lite}
exec hadal decode base.yml load_parameters_path="$MODEL" run_name=decode per_device_batch_size=1 enable_checkpointing=false \
    model_name=deepseek2-16b max_prefill_predict_length=100 max_target_length=1024 tokenizer_type=huggingface tokenizer_path="$MODEL" attention=flash \
    dtype=bfloat16 weight_dtype=bfloat16 megablox=False sparse_matmul=False ici_tensor_parallelism=1 ici_fsdp_parallelism=1 \
    prompt="An attention function can be described as mapping a query and a set of key-value pairs to an output, where the query, keys, values, and outputs are all vectors. The output is computed as a" \
    scan_layers=False "$@"
