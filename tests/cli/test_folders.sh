#!/bin/sh
# From a training run to a HuggingFace folder in every type, and the documented check and decode commands on tiny stand-ins, key for key.
. tests/cli/lib.sh

# shellcheck disable=SC2086
{
    run train $tiny run_name=run steps=3 tokenizer_type=byte checkpoint_period=10 max_target_length=64
    wants 0 "saved checkpoint"
    model=$tmp/run

    # convert: a run to a plain folder, to FP8 and back
    run convert "$model" "$tmp/bf16" save_dtype=bfloat16
    wants 0 "bf16: "
    run convert "$tmp/bf16" "$tmp/fp8" save_dtype=float8_e4m3fn scale_fmt=ue8m0 --enable_mtp=true
    wants 0
    run convert "$tmp/fp8" "$tmp/bf16b" save_dtype=bfloat16
    wants 0
    run convert "$tmp/bf16b" "$tmp/bf16b"
    wants 2 "is there already"
    run inspect "$tmp/fp8"
    wants 0 "with block scales" "every tensor of the model is there" "DeepSeek-V3: "
    run diff "$tmp/fp8" "$tmp/bf16b"
    wants 0 " 0 different, 0 only in one of the two"
    run diff "$tmp/bf16" "$tmp/fp8"
    wants 3 "values differ"
    run verify "$tmp/bf16" digests_out="$tmp/digests"
    wants 0
    run convert "$tmp/bf16" "$tmp/shards" max_shard_size_gb=0.0001
    wants 0
    run verify "$tmp/shards" "$tmp/digests"
    wants 0 "tensors are those of"
    run verify "$tmp/bf16b" "$tmp/digests"
    wants 3 "blocks differ"

    # training goes on from any of them, and says which model it is by itself
    for folder in bf16 fp8 shards; do
        run train load_parameters_path="$tmp/$folder" dataset_type=synthetic steps=1 max_target_length=32 per_device_batch_size=1 dtype=float32 \
            enable_checkpointing=false log_config=false enable_tensorboard=false base_output_directory="$tmp" run_name=again
        wants 0 "completed step: 0,"
    done

    # parameters of the published models, from configuration alone
    run inspect model_name=deepseek2-16b;  wants 0 "15706484224 parameters"
    run inspect model_name=deepseek2-236b; wants 0 "235741434880 parameters"
    run inspect model_name=deepseek3-671b; wants 0 "671026419200 parameters"

    # decode: MaxText's command
    decode="run_name=decode per_device_batch_size=1 enable_checkpointing=false model_name=tiny-v3 max_prefill_predict_length=100
            max_target_length=124 tokenizer_type=byte attention=flash megablox=False sparse_matmul=False ici_tensor_parallelism=1
            ici_fsdp_parallelism=1 scan_layers=False"
    run decode configs/base.yml load_parameters_path="$tmp/bf16" $decode dtype=bfloat16 weight_dtype=bfloat16 \
        prompt="An attention function can be described as mapping a query"
    wants 0 "Input \`An attention function can be described as mapping a query\` -> \`" "tokens/s"
    run decode load_parameters_path="$tmp/fp8" $decode dtype=float32 prompt="It was"
    wants 0 "Input \`It was\` -> \`"

    # the same text from one thread and two, and from a prompt read at once and in pieces
    speak="load_parameters_path=$model $decode dtype=float32 decode_sampling_strategy=topk decode_sampling_top_k=20"
    run decode $speak prompt="It was a dark and stormy night" num_threads=1;  wants 0; cp "$out" "$tmp/one"
    run decode $speak prompt="It was a dark and stormy night" num_threads=2;  wants 0; check "threads change nothing" cmp "$out" "$tmp/one"
    run decode $speak prompt="It was a dark and stormy night" use_chunked_prefill=true prefill_chunk_size=7
    wants 0; check "chunks change nothing" cmp "$out" "$tmp/one"
    run decode $speak prompt="It was a dark and stormy night" init_weights_seed=1
    wants 0; check "another seed, another text" sh -c "! cmp -s '$out' '$tmp/one'"
    run decode load_parameters_path="$model" $decode dtype=float32 prompt=It return_log_prob=true
    wants 0 "log-probabilities of its tokens: -"

    # a conversation
    printf '%s' "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}" >"$tmp/t.jinja"
    run decode load_parameters_path="$model" $decode dtype=float32 prompt=Hi use_chat_template=true chat_template_path="$tmp/t.jinja" system_prompt=Be
    wants 0 "prompt: 28 tokens"
    run decode load_parameters_path="$model" $decode prompt=Hi use_chat_template=true
    wants 2 "no chat template"
    run decode load_parameters_path="$model" $decode prompt=Hi use_chat_template=true chat_template="{% import x %}"
    wants 2 "import"

    # what does not fit
    run decode load_parameters_path="$model" $decode prompt="$(printf '%0101d' 0)"
    wants 2 "the prompt has 102 tokens; max_prefill_predict_length is 100"
    run decode load_parameters_path="$model" $decode max_target_length=100000 prompt=x
    wants 2 "max_position_embeddings"
    run decode load_parameters_path="$model" $decode prompt= add_bos=false
    wants 2 "nothing to continue"
    run decode load_parameters_path="$model" $decode tokenizer_type=huggingface tokenizer_path="$tmp/none" prompt=x
    wants 2 "$tmp/none"
    run decode load_parameters_path=acme/absent $decode prompt=x
    wants 2 "acme/absent" "models--acme--absent"
    run decode load_parameters_path="$model" $decode prompt="$(printf 'a\377\376b')"
    wants 2 "the prompt is not UTF-8: its byte 2 is 0xFF"

    # the examples, with the model, the program and what a stand-in lacks given
    PATH=$(dirname "$(realpath "$hadal")"):$PATH
    export PATH
    example() { # example NAME ENVIRONMENT... -- WORD...
        script=$1; shift
        what="examples/$script" code=0
        (while [ "$1" != -- ]; do export "${1?}"; shift; done; shift; exec sh "examples/$script" "$@") >"$out" 2>"$err" </dev/null || code=$?
    }
    example convert-v3.sh MODEL="$tmp/fp8" OUT="$tmp/example" --
    wants 0 "example: " "GB/s"
    run verify "$tmp/example" "$tmp/example.digests"
    wants 0 "tensors are those of"
    example decode-v2-lite.sh MODEL="$tmp/bf16" -- model_name=tiny-v3 tokenizer_type=byte prompt="It was" max_target_length=120
    wants 0 "Input \`It was\` -> \`"
    for v in v2 v3; do
        example "check-$([ $v = v2 ] && echo v2-lite || echo v3).sh" MODEL="tests/golden/check/$v" GOLDEN="tests/golden/check/$v/golden.jsonl" -- \
            tokenizer_type=byte max_target_length=64
        wants 0 "prompts are within the limit"
    done

    # check: MaxText's command
    for v in v2 v3; do
        run check configs/base.yml tokenizer_type=byte load_parameters_path=tests/golden/check/$v run_name=check per_device_batch_size=1 \
            max_prefill_predict_length=4 max_target_length=64 dataset_type=synthetic scan_layers=false sparse_matmul=False dtype=float32 \
            activations_in_float32=true matmul_precision=high --max_kl_div=2e-4 --golden_logits_path=tests/golden/check/$v/golden.jsonl
        wants 0 "prompts are within the limit"
    done
}
finish
