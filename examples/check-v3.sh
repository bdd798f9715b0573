#!/bin/sh
# The documented logit check for V3.  GOLDEN comes from tools/hf_golden_logits.py --model-id "$MODEL" --layerwise; weights are read layer by layer when
# they do not fit device_memory_gb.
set -eu
MODEL=${MODEL:-deepseek-ai/DeepSeek-V3}
GOLDEN=${GOLDEN:-golden.jsonl}
exec hadal check base.yml tokenizer_type=huggingface tokenizer_path="$MODEL" load_parameters_path="$MODEL" run_name=check per_device_batch_size=1 \
    model_name=deepseek3-671b max_prefill_predict_length=4 max_target_length=4 dataset_type=synthetic scan_layers=false sparse_matmul=False dtype=float32 \
    activations_in_float32=true matmul_precision=high --max_kl_div=2e-4 --golden_logits_path="$GOLDEN" "$@"
