#!/bin/sh
# shellcheck disable=SC2086
# Where lines go: results to stdout, everything else to stderr; JSON when asked; metrics file; a lost reader.
. tests/cli/lib.sh

run train $tiny run_name=a steps=3 metrics_file="$tmp/a.jsonl" eval_interval=2 eval_steps=1
wants 0
check "one line per step on stdout" test "$(grep -c '^completed step: [0-9]*, seconds: ' "$out")" = 3
check "evaluations on stdout" grep -q '^Completed eval after train step 0, loss=' "$out"
check "nothing else on stdout" test "$(grep -vc '^[Cc]ompleted' "$out")" = 0
check "facts on stderr" grep -q 'number parameters' "$err"
check "three steps and their evaluations in the metrics file" test "$(grep -c '"learning/loss"' "$tmp/a.jsonl")" = 3
check "run name in the metrics file" grep -q '"run_name": "a"' "$tmp/a.jsonl"
check "no escape sequences" test "$(grep -c "$(printf '\033')" "$out" "$err" | grep -vc ':0$')" = 0

# The same losses, every bit of them, whatever the number of threads.
HADAL_LOSS_HEX=1 run train $tiny run_name=b steps=3 enable_checkpointing=false num_threads=1
wants 0 "loss_hex: 0x"
grep -o 'loss_hex: .*' "$out" >"$tmp/one"
HADAL_LOSS_HEX=1 run train $tiny run_name=c steps=3 enable_checkpointing=false num_threads=2
grep -o 'loss_hex: .*' "$out" >"$tmp/two"
check "losses do not depend on threads" cmp -s "$tmp/one" "$tmp/two"
run train $tiny run_name=d steps=1 enable_checkpointing=false
wants_no "loss_hex"

run train $tiny run_name=e steps=2 enable_checkpointing=false log_format=json
wants 0 '{"event": "step", "learning/loss": ' '{"level": "info", "message": "'
check "every line is an object" test "$(cat "$out" "$err" | grep -vc '^{.*}$')" = 0
run train $tiny run_name=e steps=2 log_format=json stepz=1
wants 2

# Nobody reads: training goes on to its end and its checkpoint.
code=0
"$hadal" train $tiny run_name=f steps=6 2>"$err" | head -1 >"$out"
what="train | head -1"
check "training outlives its reader" test -d "$tmp/f/checkpoints/5"

# Already done: no step is repeated and none is skipped.
run train $tiny run_name=f steps=6;  wants 2 "steps"
run train $tiny run_name=f steps=8;  wants 0 "resumed from" "completed step: 6,"
wants_no "completed step: 5,"
run state-hash "$tmp/f";             wants 0
check "one line of 64 hexadecimal digits" grep -Eqx '[0-9a-f]{64}' "$out"
finish
