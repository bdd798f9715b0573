#!/bin/sh
# shellcheck disable=SC2086
# Commands, options, help, and the exit code of each mistake.
. tests/cli/lib.sh

run;                         wants 2 "usage: hadal COMMAND" "train" "state-hash"
run help;                    wants 0 "usage: hadal COMMAND"
run --help;                  wants 0 "usage: hadal COMMAND"
run version;                 wants 0 "hadal 0."
run --version;               wants 0 "hadal 0."
run trian;                   wants 2 "unknown command 'trian'; did you mean 'train'?"
run state_hash x;            wants 2 "did you mean 'state-hash'?"
run frobnicate;              wants 2 "unknown command 'frobnicate'" "hadal help"
run base.yml steps=3;        wants 2 "the first word is the command" "hadal train base.yml"
run steps=3;                 wants 2 "hadal train steps=3"

for command in sft eval bench; do
    run $command;            wants 2 "'$command'" "not supported by this version"
done

run train --help;            wants 0 "usage: hadal train" "Examples" "--print-config" "hadal train model_name=deepseek-mini" \
                                     "per_device_batch_size" "learning_rate" "remat_policy"
run plan -h;                 wants 0 "usage: hadal plan" "device_memory_gb"
run decode --help;           wants 0 "usage: hadal decode" "prompt"
run state-hash --help;       wants 0 "SHA-256" "CHECKPOINT"
run help train;              wants 0 "usage: hadal train"
run help remat_policy;       wants 0 "remat_policy" "full"
run help environment;        wants 0 "HADAL_NUM_THREADS" "NO_COLOR" "M_<KEY>"
run help remat_polcy;        wants 2 "remat_policy"
run help a b;                wants 2 "one topic"
run help base.yml;           wants 0 "per_device_batch_size:"
check "help base.yml is the shipped file" cmp -s "$out" configs/base.yml

run plan --print-config=set --steps=5 --log_config;  wants 0 "steps: 5" "log_config: true"
run train --stps=5;          wants 2 "unknown key 'stps'" "steps"
run train --steps;           wants 2 "'--steps': want key=value"
run train --frob;            wants 2 "unknown option '--frob'"
run state-hash;              wants 2 "state-hash takes one checkpoint"
run state-hash "$tmp/none";  wants 2 "$tmp/none"
run state-hash --print-config; wants 2 "unknown option"

# A reader that leaves early is no failure.
code=0
"$hadal" help base.yml | head -1 >"$out" || code=$?
what="help base.yml | head -1"; wants 0
# Output that cannot be written is one.
code=0
"$hadal" help >/dev/full 2>"$err" || code=$?
what="help >/dev/full"; wants 1 "standard output"
finish
