#!/bin/sh
# shellcheck disable=SC2086
# The documented MaxText pre-training commands, key for key, with the model's dimensions made small.
. tests/cli/lib.sh

small="override_model_config=true base_emb_dim=64 base_num_query_heads=2 base_num_kv_heads=2 base_mlp_dim=96 base_moe_mlp_dim=32
       base_num_decoder_layers=4 vocab_size=512 num_experts=16 num_experts_per_tok=2 kv_lora_rank=32 qk_nope_head_dim=16 qk_rope_head_dim=8
       v_head_dim=16"
common="base_output_directory=$tmp run_name=pretrain per_device_batch_size=2 enable_checkpointing=false async_checkpointing=false
        steps=3 max_target_length=128 tokenizer_type=huggingface attention=flash dtype=bfloat16 weight_dtype=bfloat16 megablox=True
        sparse_matmul=True dataset_type=synthetic"

# shellcheck disable=SC2086
{
    run train base.yml model_name=deepseek2-16b tokenizer_path=deepseek-ai/DeepSeek-V2-Lite $common $small
    wants 0 "completed step: 2," "moe_lb_loss:"
    run train configs/base.yml model_name=deepseek3-671b tokenizer_path=deepseek-ai/DeepSeek-V3 ici_fsdp_parallelism=1 \
        q_lora_rank=48 $common $small
    wants 0 "completed step: 2,"
    # capacity factor and the dense strategy
    two=$(printf '%s' "$common" | sed 's/megablox=True//; s/sparse_matmul=True//')
    run train model_name=deepseek2-16b $two $small megablox=False sparse_matmul=False capacity_factor=1.25
    wants 0 "completed step: 2,"
    run train model_name=deepseek2-16b $two $small megablox=False sparse_matmul=False
    wants 0 "completed step: 2,"
    # multi-token prediction
    run train model_name=deepseek3-671b $common $small q_lora_rank=48 mtp_num_layers=1 mtp_loss_scaling_factor=0.1
    wants 0 "completed step: 2," "main_model_loss:" "mtp_loss:"
    # plans of the real models, on any machine
    run plan model_name=deepseek2-16b $common
    wants 0
    run plan model_name=deepseek3-671b $common
    wants 0
}
finish
