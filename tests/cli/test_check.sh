#!/bin/sh
# shellcheck disable=SC2086
# hadal check: the documented command, flags with and without dashes, exit codes, and what is printed where.
. tests/cli/lib.sh

# Arrange the committed V3 as the documented command wants it.
model=tests/golden/check/v3
head -1 $model/golden.jsonl >"$tmp/golden.jsonl"
keys="tokenizer_type=huggingface tokenizer_path=deepseek-ai/DeepSeek-V3 load_parameters_path=$model run_name=check base_output_directory=$tmp
      per_device_batch_size=1 max_prefill_predict_length=4 max_target_length=4 dataset_type=synthetic scan_layers=false sparse_matmul=False
      dtype=float32 activations_in_float32=true matmul_precision=high"

run check configs/base.yml $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/golden.jsonl"
wants 0 "golden logits by transformers." 'prompt 1 "short": 4 tokens, 4 compared: agrees' "max KL divergence = " "experts: 0 of 4 choices differ" \
    "1 prompt is within the limit (max_kl_div 0.0002)"
check "results go to stdout" grep -q "max KL divergence = " "$out"
run check configs/base.yml $keys model_name=tiny-v3 max_kl_div=2e-4 golden_logits_path="$tmp/golden.jsonl"
wants 0 "agrees"
run check $keys --max_kl_div 2e-4
wants 2 "'--max_kl_div': want key=value"
run check $keys --golden_logits_path="$tmp/golden.jsonl"
wants 2 "set max_kl_div=2e-4, or atol=1e-4"
run check $keys --max_kl_div=2e-4
wants 2 "there is nothing to compare with"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/golden.pickle"
wants 2 "a pickle is a program" "--output-format=json"
run check $keys --max_kl_div=2e-4 --golden_logits_path=$model/golden.jsonl
wants 2 "line 3: the prompt has 40 tokens and max_target_length is 4"
run check $keys --max_kl_div=2e-4 --golden_logits_path=$model/golden.jsonl --token_size=4
wants 0 "3 prompts are within the limit"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/golden.jsonl" --run_hf_model
wants 2 "hadal runs no Python"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/nothing.jsonl"
wants 1 "$tmp/nothing.jsonl"
run check --help
wants 0 "usage: hadal check" "--max_kl_div=2e-4" "golden_logits_path"

# A wrong number in config.json is found, and named.
cp -r $model "$tmp/wrong"
sed -i 's/"routed_scaling_factor": 2.5/"routed_scaling_factor": 2.6/' "$tmp/wrong/config.json"
run check $keys load_parameters_path="$tmp/wrong" --max_kl_div=2e-7 --golden_logits_path="$tmp/golden.jsonl"
wants 3 "OVER THE LIMIT" "1 of 1 prompts are over the limit (max_kl_div 2e-07)"
run check $keys max_target_length=6 load_parameters_path="$tmp/wrong" --bisect=$model/dump
wants 3 "the first activation that differs is layers.1.expert_weights" "scoring_func, norm_topk_prob, routed_scaling_factor"

# Damaged files: one sentence with line and column.
head -c 2000 "$tmp/golden.jsonl" >"$tmp/cut.jsonl"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/cut.jsonl"
wants 1 "cut.jsonl: line 1, column 2001: the file ends inside a record"
sed 's/"logits": \[\[[^,]*/"logits": [[NaN/' "$tmp/golden.jsonl" >"$tmp/nan.jsonl"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/nan.jsonl"
wants 1 "nan.jsonl: line 1, column " "want a finite number (NaN and Infinity are none)"

# Output that cannot be written fails the command.
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/golden.jsonl" output_logits_path=/dev/full
wants 1 "/dev/full"
run check $keys --max_kl_div=2e-4 --golden_logits_path="$tmp/golden.jsonl" metrics_file=/dev/full
wants 1 "/dev/full"

# A golden file of our own, and another format beside it.
run train $tiny run_name=book steps=2 checkpoint_period=2
wants 0
printf '"one text"\n"and another one"\n' >"$tmp/texts.jsonl"
own="tokenizer_type=byte dtype=float32 max_target_length=32"
run check $own load_parameters_path="$tmp/book" prompt_file="$tmp/texts.jsonl"
wants 2 "prompt_file=TEXTS output_logits_path=FILE"
run check $own load_parameters_path="$tmp/book" prompt_file="$tmp/texts.jsonl" documents=jsonl output_logits_path="$tmp/own.jsonl"
wants 0 "own.jsonl: logits of 2 prompts"
run check $own load_parameters_path="$tmp/book" golden_logits_path="$tmp/own.jsonl" max_kl_div=1e-9
wants 0 '"one text": 9 tokens' "2 prompts are within the limit"
run check $own load_parameters_path="$tmp/book" prompt="a text" output_logits_path=/dev/full
wants 1 "/dev/full"
run check $own load_parameters_path="$tmp/book" prompt="a text that is longer than the eight tokens that fit" max_target_length=8 output_logits_path="$tmp/x"
wants 2 "prompt 1 has" "max_target_length is 8"
run convert "$tmp/book" "$tmp/book8" quantization=int8
wants 0
run check $own load_parameters_path="$tmp/book8" golden_logits_path="$tmp/own.jsonl" max_kl_div=1
wants 0 "2 prompts are within the limit"
cp "$out" "$tmp/packed.txt"
run check $own load_parameters_path="$tmp/book" quantization=int8 golden_logits_path="$tmp/own.jsonl" max_kl_div=1
wants 0 "2 prompts are within the limit"
check "packed at load as packed before" cmp -s "$out" "$tmp/packed.txt"
run check $own load_parameters_path="$tmp/book8" quantization=int4 golden_logits_path="$tmp/own.jsonl" max_kl_div=1
wants 2 "holds int8, and quantization asks for int4"
finish
