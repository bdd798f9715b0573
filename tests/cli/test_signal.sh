#!/bin/sh
# shellcheck disable=SC2086
# SIGTERM and SIGINT: a checkpoint of the current step, exit 128 + signal, and a resumed run equal in every bit to one that was
# never stopped.
. tests/cli/lib.sh

steps=40
HADAL_LOSS_HEX=1 run train $tiny run_name=whole steps=$steps checkpoint_period=1000
wants 0
sed -n 's/^completed step: \([0-9]*\),.*loss_hex: \(.*\)/\1 \2/p' "$out" >"$tmp/whole.losses"
check "a loss per step" test "$(wc -l <"$tmp/whole.losses")" = $steps

# Starts a run with a few slow steps, waits for step 3, sends a signal, and waits for the run's end.
interrupt() { # interrupt NAME SIGNAL
    name=$1 signal=$2
    what="$name: SIG$signal"
    : >"$out"
    HADAL_FAULT_RANK=$(seq -s , 4 15 | sed 's/\([0-9][0-9]*\)/0:slow:200ms@\1/g') HADAL_LOSS_HEX=1 \
        "$hadal" train $tiny run_name="$name" checkpoint_period=1000 steps=$steps >"$out" 2>"$err" </dev/null &
    pid=$!
    tries=0
    until grep -q 'completed step: 3,' "$out" || [ $tries -gt 1200 ] || ! kill -0 $pid 2>/dev/null; do
        sleep 0.05
        tries=$((tries + 1))
    done
    kill -s "$signal" $pid || true
    code=0
    wait $pid || code=$?
}

# The losses of a run stopped by a signal and continued, against the whole.
compare() { # compare NAME
    sed -n 's/^completed step: \([0-9]*\),.*loss_hex: \(.*\)/\1 \2/p' "$out" >"$tmp/first"
    what="$1: the second part"
    HADAL_LOSS_HEX=1 run train $tiny run_name="$1" checkpoint_period=1000 steps=$steps
    wants 0 "resumed from"
    sed -n 's/^completed step: \([0-9]*\),.*loss_hex: \(.*\)/\1 \2/p' "$out" >>"$tmp/first"
    check "$1: losses equal those of the whole run" cmp "$tmp/first" "$tmp/whole.losses"
    check "$1: state equals that of the whole run" test "$("$hadal" state-hash "$tmp/$1")" = "$("$hadal" state-hash "$tmp/whole")"
}

interrupt term TERM
wants 143 "stopped by signal 15" "which is saved"
compare term
interrupt hup HUP
wants 129 "stopped by signal 1 "
compare hup
finish
