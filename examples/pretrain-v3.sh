#!/bin/sh
# MaxText's documented pre-training command for DeepSeek-V3 (671 billion parameters) on synthetic data, with the program changed.
#
#   examples/pretrain-v3.sh [key=value ...]      asks `hadal plan` first and stops when this machine's memory is too small
#   SMALL=1 examples/pretrain-v3.sh              the same command on a model of the same kind that fits anywhere
set -eu
hadal=${HADAL:-build/release/hadal}
memory_gb=$(awk '/^MemAvailable/ { printf "%.1f", $2 * 1024 / 1e9 }' /proc/meminfo)

set -- base_output_directory="${BASE_OUTPUT_DIRECTORY:-runs}" run_name=matmul_pre_training model_name=deepseek3-671b \
    tokenizer_type=huggingface tokenizer_path=deepseek-ai/DeepSeek-V3 \
    per_device_batch_size=4 enable_checkpointing=false async_checkpointing=false ici_fsdp_parallelism=1 steps=5 \
    max_target_length=1024 attention=flash dtype=bfloat16 weight_dtype=bfloat16 megablox=True sparse_matmul=True \
    dataset_type=synthetic device_memory_gb="$memory_gb" log_config=false "$@"

if [ -n "${SMALL-}" ]; then
    set -- "$@" override_model_config=true base_emb_dim=256 base_mlp_dim=1024 base_moe_mlp_dim=64 base_num_decoder_layers=6 \
        base_num_query_heads=4 base_num_kv_heads=4 vocab_size=1024 q_lora_rank=96 kv_lora_rank=64 qk_nope_head_dim=32 qk_rope_head_dim=16 v_head_dim=32
fi

"$hadal" plan base.yml "$@"
exec "$hadal" train base.yml "$@"
