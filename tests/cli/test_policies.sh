#!/bin/sh
# shellcheck disable=SC2086
# What a run does when things go their own way: values that are not finite, frozen weights, the end of the data, full or damaged
# disks, a second trainer, other rank counts.
. tests/cli/lib.sh

steps() { grep -c '^completed step:' "$out"; }
hash_of() { "$hadal" state-hash "$1"; }

# ---- not finite ------------------------------------------------------------------------------------------------------------------
hot="$tiny learning_rate=1e38 warmup_steps_fraction=0 steps=6 checkpoint_period=1"
run train $hot run_name=hot
wants 1 "the weights were not changed by it" "nonfinite_policy=skip"
run train $hot run_name=skip nonfinite_policy=skip
wants 0
check "all steps are counted" test "$(steps)" = 6

# ---- frozen weights ---------------------------------------------------------------------------------------------------------------
run plan $tiny steps=1
all=$(sed -n 's/.*, \([0-9]*\) trained$/\1/p' "$out")
moments=$(sed -n 's/ *optimizer moments *\([0-9]*\) bytes.*/\1/p' "$out")
run plan $tiny steps=1 'trainable_parameters_mask=[lm_head]'
wants 0
some=$(sed -n 's/.*, \([0-9]*\) trained$/\1/p' "$out")
check "a mask trains less" test "$some" -lt "$all"
check "moments belong to trained weights" test "$(sed -n 's/ *optimizer moments *\([0-9]*\) bytes.*/\1/p' "$out")" = $((some * moments / all))
run train $tiny run_name=frozen steps=3 'trainable_parameters_mask=[lm_head]'
wants 0

# ---- text: the end of the data, evaluation, a target -----------------------------------------------------------------------------------
awk 'BEGIN { for (i = 0; i < 400; i++) print "line " i " of a text that repeats itself" }' >"$tmp/text.txt"
prose="$tiny dataset_type=text tokenizer_type=byte dataset_path=$tmp/text.txt vocab_size=259 override_model_config=true"
run train $prose run_name=ends steps=100000 per_device_batch_size=64 enable_checkpointing=false
wants 0 "the data ended after step" "num_epoch"
run train $prose run_name=eval steps=8 eval_interval=4 eval_fraction=0.1 enable_checkpointing=false num_epoch=-1
wants 0 "Completed eval after train step 0" "Completed eval after train step 4" "Completed eval after train step 7"
run train $prose run_name=target steps=50 eval_interval=1 eval_fraction=0.1 target_eval_loss=100 enable_checkpointing=false num_epoch=-1
wants 0 "target_eval_loss"
check "a reached target ends the run" test "$(steps)" = 1
run train $prose run_name=noeval steps=2 eval_interval=1
wants 2 "eval_fraction"
run train $prose run_name=once steps=4 reuse_example_batch=1 enable_checkpointing=false
wants 0
first=$(sed -n 's/.*step: 0,.* loss: \([0-9.]*\),.*/\1/p' "$out")
check "one batch is learned" awk -v a="$first" -v b="$(sed -n 's/.*step: 3,.* loss: \([0-9.]*\),.*/\1/p' "$out")" 'BEGIN { exit !(b < a) }'

# ---- checkpoints -------------------------------------------------------------------------------------------------------------------
run train $tiny run_name=keep steps=6 checkpoint_period=1 max_num_checkpoints_to_keep=2
wants 0
check "two are kept" test "$(ls "$tmp/keep/checkpoints" | grep -c '^[0-9]')" = 2
run train $tiny run_name=keep steps=6 checkpoint_period=1
wants 2 "already the last"

run train $tiny run_name=grown steps=4 checkpoint_period=1
before=$(hash_of "$tmp/grown")
for n in 1 5 9 14 20; do
    what="disk full at operation $n"
    HADAL_FAULT_IO=fail:$n:ENOSPC:forever run train $tiny run_name=grown steps=8 checkpoint_period=1 async_checkpointing=false
    wants 1
    check "disk full at operation $n: the checkpoint before is whole" test "$(hash_of "$tmp/grown")" = "$before"
done

for f in "$tmp"/grown/checkpoints/*/model.safetensors; do printf X | dd of="$f" bs=1 seek=2000 conv=notrunc 2>/dev/null; done
run train $tiny run_name=grown steps=8
wants 1 "model.safetensors"
wants_no "completed step: 0"

# a second trainer
"$hadal" train $tiny run_name=one steps=100000 checkpoint_period=100000 >"$tmp/one.out" 2>&1 </dev/null &
pid=$!
tries=0
until grep -q 'completed step: 1,' "$tmp/one.out" || [ $tries -gt 600 ]; do sleep 0.05; tries=$((tries + 1)); done
run train $tiny run_name=one steps=5
wants 1 "$pid"
kill -9 $pid
wait $pid 2>/dev/null || true
run train $tiny run_name=one steps=3 checkpoint_period=1
wants 0

# memory: the snapshot goes first, then the run is refused
need=$(run plan $tiny; sed -n 's/ *in all *\([0-9]*\) bytes.*/\1/p' "$out")
snapshot=$(sed -n 's/ *snapshot of .* \([0-9]*\) bytes.*/\1/p' "$out")
gb() { awk -v n="$1" 'BEGIN { printf "%.9f", n / 1e9 }'; }
run train $tiny run_name=tight steps=2 device_memory_gb="$(gb $((need - snapshot / 2)))"
wants 0 "saved synchronously" "saved checkpoint"
run train $tiny run_name=tight2 steps=2 device_memory_gb="$(gb $((need - snapshot - 1000)))"
wants 2 "device_memory_gb"

# ---- starting from elsewhere ----------------------------------------------------------------------------------------------------------
run train $tiny run_name=source steps=4 checkpoint_period=1 gradient_slices=2
whole=$(hash_of "$tmp/source/checkpoints/3")
run train $tiny run_name=full steps=4 checkpoint_period=1 load_full_state_path="$tmp/source/checkpoints/1" gradient_slices=2
wants 0
check "a full state continues like its own run" test "$(hash_of "$tmp/full/checkpoints/3")" = "$whole"
run train $tiny run_name=ranks steps=4 checkpoint_period=1 load_full_state_path="$tmp/source/checkpoints/1" gradient_slices=2 \
    ici_data_parallelism=2 per_device_batch_size=1
wants 0
check "on two ranks too" test "$(hash_of "$tmp/ranks/checkpoints/3")" = "$whole"
run train $tiny run_name=parameters steps=1 load_parameters_path="$tmp/source/checkpoints/3"
wants 0 "completed step: 0"
run train $tiny run_name=other steps=4 load_full_state_path="$tmp/source/checkpoints/1" max_target_length=16
wants 2 "max_target_length=32"
run train $tiny run_name=missing steps=1 load_parameters_path="$tmp/nothing"
wants 2 "nothing"
finish
