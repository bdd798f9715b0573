#!/bin/sh
# shellcheck disable=SC2086
# SIGKILL at random moments of a run that saves after every step: each restart goes on from a complete checkpoint, not before the
# last one that was announced, and repeats the losses of a run that was never stopped, bit for bit.
# 10 kills; 1000 with HADAL_SOAK=1.  HADAL_TEST_SEED changes the moments.
. tests/cli/lib.sh

kills=${HADAL_SOAK:+1000}
kills=${kills:-10}
seed=${HADAL_TEST_SEED:-1}
steps=400
export HADAL_LOSS_HEX=1

losses() { sed -n 's/^completed step: \([0-9]*\),.*loss_hex: \(.*\)/\1 \2/p' "$1"; }
last_saved() { sed -n 's|^saved checkpoint .*/\([0-9][0-9]*\) .*|\1|p' "$1" | tail -1; }

run train $tiny run_name=whole steps=$steps checkpoint_period=1000
wants 0
losses "$out" | sort -k1,1 >"$tmp/whole.losses"

# Seconds before kill number $1 of a run: uniform up to a little more than what a start and some steps take.
moment() { awk -v seed="$seed" -v i="$1" 'BEGIN { srand(seed * 100003 + i); printf "%.3f", 0.02 + 0.6 * rand() }'; }

saved=-1 done_kills=0 round=0
while [ $done_kills -lt "$kills" ]; do
    what="kill $done_kills (seed $seed)"
    if [ $((round % 2)) = 0 ]; then async=true; else async=false; fi
    : >"$out"
    "$hadal" train $tiny run_name=killed steps=$steps checkpoint_period=1 max_num_checkpoints_to_keep=2 async_checkpointing=$async \
        >"$out" 2>"$err" </dev/null &
    pid=$!
    sleep "$(moment $round)"
    if kill -9 $pid 2>/dev/null; then done_kills=$((done_kills + 1)); fi
    code=0
    wait $pid 2>/dev/null || code=$?
    first=$(losses "$out" | head -1 | cut -d' ' -f1)
    if [ -n "$first" ]; then
        [ "$first" -gt "$saved" ] || complain "starts again at step $first; step $saved was announced as saved"
        losses "$out" | sort -k1,1 | join - "$tmp/whole.losses" >"$tmp/both"
        [ "$(wc -l <"$tmp/both")" = "$(losses "$out" | wc -l)" ] || complain "a step that the whole run does not have"
        awk '$2 != $3 { bad = 1 } END { exit bad }' "$tmp/both" || complain "losses differ from the whole run's"
        [ "$saved" != -1 ] || [ "$first" = 0 ] || grep -q 'resumed from' "$err" || complain "a start in the middle that does not say from where"
    fi
    now=$(cat "$out" "$err" | last_saved /dev/stdin)
    [ -z "$now" ] || saved=$now
    # it reached the end, now or just before an earlier kill: begin anew
    if [ "$code" = 0 ] || grep -q 'already the last' "$err"; then
        rm -rf "$tmp/killed"
        saved=-1
    elif [ "$code" != 137 ]; then
        complain "exit code $code, want 137"
    fi
    [ "$failures" = 0 ] || finish
    round=$((round + 1))
done

# What the last kill left resumes and ends like the whole run.
run train $tiny run_name=killed steps=$steps checkpoint_period=100 max_num_checkpoints_to_keep=2
wants 0
check "the state at the end" test "$("$hadal" state-hash "$tmp/killed")" = "$("$hadal" state-hash "$tmp/whole")"
check "no partial checkpoint is left" test -z "$(find "$tmp/killed" -name '*.tmp.*')"
finish
