#!/bin/sh
# shellcheck disable=SC2086
# On a terminal: a progress line that replaces itself, within its width; none when TERM or NO_COLOR or progress= say so.
. tests/cli/lib.sh
command -v script >/dev/null || { echo "script(1) is missing"; exit 77; }
script -qec true /dev/null >/dev/null 2>&1 </dev/null || { echo "no pseudo-terminal can be made here (is /dev/pts mounted?): skipped"; exit 77; }
cr=$(printf '\r')
escape=$(printf '\033')

on_terminal() { # on_terminal ENV... -- WORD...
    vars=
    while [ "$1" != -- ]; do vars="$vars $1"; shift; done
    shift
    what="on a terminal:$vars hadal $*"
    code=0
    script -qec "stty cols 60; env $vars $hadal $*" /dev/null >"$out" 2>"$err" </dev/null || code=$?
}

keys="$(echo $tiny) enable_checkpointing=false"
on_terminal TERM=xterm -- train $keys run_name=a steps=30
wants 0
check "progress lines" grep -q "${cr}${escape}\[Kstep [0-9]*/30" "$out"
check "they fit the width" test "$(tr '\r' '\n' <"$out" | grep "step [0-9]*/30" | sed "s/${escape}\[K//g" | awk '{ if (length($0) > m) m = length($0) } END { print m }')" -le 59
check "the last step has its line" grep -q 'completed step: 29,' "$out"
on_terminal TERM=dumb -- train $keys run_name=b steps=3
wants 0 "completed step: 1,"
check "TERM=dumb: no escape" test "$(grep -c "$escape" "$out")" = 0
on_terminal TERM=xterm -- train $keys run_name=c steps=3 progress=off
check "progress=off: every step has its line" test "$(grep -c 'completed step:' "$out")" = 3
on_terminal TERM=xterm -- train $keys stepz=3
wants 2 "unknown key"
check "errors in colour" grep -q "${escape}\[31;1mhadal: " "$out"
on_terminal TERM=xterm NO_COLOR=1 -- train $keys stepz=3
check "NO_COLOR: none" test "$(grep -c "${escape}\[31" "$out")" = 0
finish
