#!/bin/sh
# shellcheck disable=SC2086,SC2094
# A chat on a pseudo-terminal: turns, what the cache keeps, Ctrl-C in an answer and at the prompt, Ctrl-D, and the terminal afterwards.
. tests/cli/lib.sh
command -v script >/dev/null || { echo "script(1) is missing"; exit 77; }
script -qec true /dev/null >/dev/null 2>&1 </dev/null || { echo "no pseudo-terminal can be made here (is /dev/pts mounted?): skipped"; exit 77; }

# so many positions that an answer that does not end by itself takes seconds
run train $tiny run_name=run steps=1 tokenizer_type=byte override_model_config=true max_position_embeddings=100000
wants 0 "saved checkpoint"
printf '%s' "{% for m in messages %}[{{ m.role }}] {{ m.content }}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}" >"$tmp/t.jinja"
decode="decode load_parameters_path=$tmp/run tokenizer_type=byte dtype=float32 num_threads=1"

begin() { # begin WORD...: a chat whose keyboard is descriptor 3 and whose screen is $out
    what="hadal $*"
    : >"$out"
    : >"$err"
    rm -f "$tmp/keys"
    mkfifo "$tmp/keys"
    script -qefc "stty -a >$tmp/before; TERM=xterm $hadal $*; echo \"exit code \$?\"; stty -a >$tmp/after" "$out" <"$tmp/keys" >/dev/null 2>&1 &
    screen=$!
    exec 3>"$tmp/keys"
}
sees() { # sees TEXT [COUNT]: waits until the screen shows it so often
    for _ in $(seq 300); do
        [ "$(grep -aoF -e "$1" "$out" | wc -l)" -lt "${2:-1}" ] || return 0
        sleep 0.1
    done
    complain "no '$1' (${2:-1} times) on the screen"
}
types() { printf "$1" >&3; }
end() {
    sees "exit code $1"
    exec 3>&-
    wait "$screen" || true
    check "the terminal is as it was" cmp "$tmp/before" "$tmp/after"
}

# turns with a template; the second one finds the first in the cache
begin $decode use_chat_template=true chat_template_path=$tmp/t.jinja max_target_length=20000 decode_sampling_strategy=weighted
sees ">>> "
types 'Hello\n'
sees ">>> " 2
sees " 0 were in the cache"
types 'And then\n'
sees ">>> " 3
check "the history is not read again" grep -qaE '\[[0-9]+ tokens read in [0-9.]+ s, [1-9][0-9]+ were in the cache' "$out"
types '/help\n/reset\n'
sees "The conversation begins anew." 1
types '/exit\n'
end 0

# Ctrl-C ends an answer and not the program; at the prompt it drops the line, and twice leaves
begin $decode max_target_length=60000
sees "No chat template"
sees ">>> "
turn=1
for word in a b c d e f g h i j; do # an answer may end by itself before the key is pressed
    types "Speak $word\n"
    sleep 0.3
    types '\003'
    turn=$((turn + 1))
    sees ">>> " $turn
    if grep -qaF "(interrupted)" "$out"; then break; fi
    sees "(Ctrl-C once more" $((turn - 1))
    turn=$((turn + 1))
    types '/reset\n'
    turn=$((turn + 1))
    sees ">>> " $turn
done
sees "(interrupted)"
n=$(grep -ao ">>> " "$out" | wc -l)
types '/reset\n'
sees ">>> " $((n + 1))
types 'half a li\003'
sees "(Ctrl-C once more, or Ctrl-D, leaves)"
sees ">>> " $((n + 2))
types '/help\n'
sees ">>> " $((n + 3))
types '\003'
sees ">>> " $((n + 4))
types '\003'
end 0

# Ctrl-D leaves; so does SIGTERM, with its code
begin $decode max_target_length=200
sees ">>> "
types '\004'
end 0
begin $decode max_target_length=200
sees ">>> "
pid=$(ps -eo pid,args | awk -v run="load_parameters_path=$tmp/run" '$2 ~ /hadal$/ && index($0, run) { print $1; exit }')
kill -TERM "$pid"
end 143

# a prompt that is given is no chat; what a model says does not drive the terminal
begin $decode prompt=x max_target_length=300 decode_sampling_strategy=weighted decode_sampling_temperature=3
end 0
check "no control characters" test "$(sed 1d "$out" | grep -v '^cache: \|exit code' | tr -d '\r' | LC_ALL=C grep -c "$(printf '[\001-\010\013-\037\177]')")" = 0
finish
