#!/bin/sh
# shellcheck disable=SC2086
# What a wrong configuration says: the key, what was found, what was wanted, and exit 2.
. tests/cli/lib.sh

run train $tiny stepz=5;                    wants 2 "configuration error" "unknown key 'stepz'" "steps" "hint:"
run train $tiny steps=five;                 wants 2 "steps" "five"
run train $tiny steps=0;                    wants 2 "steps"
run train $tiny attention=flashy;           wants 2 "attention" "flashy" "flash"
run train $tiny steps;                      wants 2 "steps"
run train $tiny steps=2 steps=1;            wants 0 "steps stands twice" "completed step: 0,"
run train missing.yml $tiny;                wants 2 "missing.yml"
run train $tiny model_name=deepsek2-16b;    wants 2 "deepsek2-16b"
run train $tiny quantization=int8;          wants 2 "quantization" "not implemented"
run train $tiny enable_wandb=true;          wants 2 "enable_wandb" "metrics_file"
run train $tiny hf_path=allenai/c4;         wants 2 "hf_path" "dataset_type=text"
run train $tiny enable_rampup_batch_size=true; wants 2 "enable_rampup_batch_size"
run train $tiny metrics_file=gs://bucket/m; wants 2 "metrics_file" "gs://"
run train model_name=tiny-v3 dataset_type=synthetic base_output_directory=gs://bucket/runs; wants 2 "base_output_directory" "gs://"
run train model_name=tiny-v3 base_output_directory="$tmp"; wants 2 "dataset_path"
run train model_name=tiny-v3 dataset_path="$tmp/none.txt" tokenizer_type=byte base_output_directory="$tmp" steps=1 log_config=false
wants_no "completed step"
[ "$code" != 0 ] || complain "a missing text is no error"
run train $tiny base_emb_dim=64;            wants 2 "base_emb_dim" "override_model_config"
run train $tiny device_memory_gb=0.000001 steps=1; wants 2 "device_memory_gb"
run plan $tiny device_memory_gb=0.000001;   wants 2 "device_memory_gb"

# Sources and their precedence, as --print-config shows them.
run train --print-config $tiny steps=7;     wants 0 "steps: 7" "command line" "adam_b2: 0.95" "default"
run train $tiny steps=7 --print-config=set; wants 0 "steps: 7"
wants_no "adam_b2"
M_STEPS=9 run train --print-config $tiny;   wants 0 "steps: 9"
M_STEPS=9 run train --print-config $tiny steps=7; wants 2 "steps"
printf 'base_config: base.yml\nsteps: 11\n' >"$tmp/mine.yml"
run train "$tmp/mine.yml" --print-config $tiny; wants 0 "steps: 11" "mine.yml"
check "print-config trains nothing" test ! -e "$tmp/tiny-v3"

# A token on the command line: a warning, never shown.
run train --print-config $tiny hf_access_token=secret-token-123; wants 0 "hf_access_token: (set)"
wants_no "secret-token-123"
finish
