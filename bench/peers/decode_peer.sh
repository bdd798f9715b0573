#!/bin/sh
# hadal's decoding beside ik_llama.cpp's, in alternating runs:
#
#   bench/peers/decode_peer.sh MODE ROUNDS FOLDER GGUF PEER_BIN [KEY=VALUE ...]
#
# MODE      short: 64 tokens after nothing, prompts of 512
#           deep:  64 tokens after 4,096, prompts of 512 after 4,096
# FOLDER    the model as hadal reads it; the KEY=VALUEs are added to hadal's command line (quantization, dtype, ...)
# GGUF      the same shapes as the peer reads them
# PEER_BIN  the folder of llama-sweep-bench
#
#   PEER_OPTIONS="-mla 3 -rtr -thp"  how the peer runs (-no-fmoe, --no-mmap, -muge, -ctk q8_0, ... are others)
#   HADAL_GB=4.898 PEER_GB=4.898     weights read per token, for the share of the bound: tokens/s x GB / read bandwidth
#   THREADS=2                        of both
#   CLOCK=cpu                        with THREADS=1: processor time, for a machine that others use too
#
# The read bandwidth (bench_read) is measured before and after each run; the bound is the mean of the two.  A line ends with the time
# that others took from the processors meanwhile, in cores: above 0.15 the line is not worth keeping, unless CLOCK=cpu.  A peer's prompt of
# 512 after 4,096 is timed directly; hadal's is a prompt of 4,608 less one of 4,096.  hadal's prompts are bytes, one token each; the peer's
# are random tokens.
set -eu
[ $# -ge 5 ] || { sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 2; }
mode=$1 rounds=$2 folder=$3 gguf=$4 peer_bin=$5
shift 5
top=$(cd "$(dirname "$0")/../.." && pwd)
hadal=${HADAL:-$top/build/release/hadal}
bench_read=$top/build/release/bench/bench_read
peer_options=${PEER_OPTIONS--mla 3 -rtr -thp}
hadal_gb=${HADAL_GB:-4.898} peer_gb=${PEER_GB:-4.898}
threads=${THREADS:-$(nproc)}
export OMP_NUM_THREADS="$threads"
case $mode in
short) depth=0 ;;
deep) depth=4096 ;;
*) echo "decode_peer.sh: mode $mode, wanted short or deep" >&2; exit 2 ;;
esac
gguf=$(realpath "$gguf") peer_bin=$(realpath "$peer_bin") # the peer runs elsewhere: it leaves a log where it runs
for need in "$hadal" "$bench_read" "$peer_bin/llama-sweep-bench" "$gguf" "$folder/config.json"; do
    [ -e "$need" ] || { echo "decode_peer.sh: $need is missing" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

preload=
if [ "${CLOCK:-wall}" = cpu ]; then
    [ "$threads" = 1 ] || { echo "decode_peer.sh: CLOCK=cpu is for THREADS=1, found $threads" >&2; exit 2; }
    preload=$work/cpu_clock.so
    ${CC:-cc} -O2 -shared -fPIC "$top/bench/peers/cpu_clock.c" -o "$preload"
fi

run() { LD_PRELOAD=$preload "$@"; }
read_rate() { run "$bench_read" threads="$threads" | awk '{ print $2 }'; }

# Seconds of all processors spent so far by anybody, and by the children of this script.
busy_all() { awk -v hz="$(getconf CLK_TCK)" '/^cpu / { print ($2 + $3 + $4 + $7 + $8 + $9) / hz }' /proc/stat; }
busy_own() { awk -v hz="$(getconf CLK_TCK)" '{ print ($16 + $17) / hz }' "/proc/$$/stat"; }

# measure COMMAND...: runs it between two measurements of the bandwidth; leaves `rate` and `others`.
measure() {
    before=$(read_rate)
    all=$(busy_all) own=$(busy_own) from=$(date +%s.%N)
    run "$@" >"$work/out" 2>"$work/log" || { cat "$work/log" >&2; echo "decode_peer.sh: failed: $*" >&2; exit 1; }
    others=$(echo "$all $own $from $(busy_all) $(busy_own) $(date +%s.%N)" | awk '{ printf "%.2f", ($4 - $1 - $5 + $2) / ($6 - $3) }')
    rate=$(echo "$before $(read_rate)" | awk '{ printf "%.2f", ($1 + $2) / 2 }')
}

# n bytes of text, each a token of the byte tokenizer, which adds one at the beginning: words of random letters.
text() { LC_ALL=C awk -v n="$1" 'BEGIN { srand(7); for (i = 0; i < n; i++) { printf "%c", rand() < 0.15 ? 32 : 97 + int(26 * rand()) } }'; }

# run_hadal PROMPT ANSWER KEY=VALUE...: leaves prompt_s (seconds of the prompt) and rate_out (tokens/s of the answer).
run_hadal() {
    n_prompt=$1 n_answer=$2
    shift 2
    measure "$hadal" decode load_parameters_path="$folder" tokenizer_type=byte prompt="$(text $((n_prompt - 1)))" \
        max_prefill_predict_length="$n_prompt" max_target_length=$((n_prompt + n_answer)) "$@"
    line=$(cat "$work/log" "$work/out" | grep -a 'prompt: .*tokens/s.*; answer: ' | tail -1)
    prompt_s=$(echo "$line" | sed 's/.*tokens in \([0-9.]*\) s.*/\1/')
    rate_out=$(echo "$line" | sed 's/.*answer: [0-9]* tokens[^,]*, \([0-9.]*\) tokens.*/\1/')
    made=$(echo "$line" | sed 's/.*answer: \([0-9]*\) tokens.*/\1/')
    [ "$made" = "$n_answer" ] || echo "decode_peer.sh: the answer ended after $made of $n_answer tokens" >&2
}

# run_peer: leaves peer_prompt and peer_answer, tokens/s at $depth.
run_peer() {
    # shellcheck disable=SC2086  # options are words
    measure env -C "$work" "$peer_bin/llama-sweep-bench" -m "$gguf" -t "$threads" -c $((depth + 512)) -ub 512 -n 64 --sweep-stride 8 $peer_options
    row=$(cat "$work/out" "$work/log" | awk -F'|' -v depth="$depth" '$4 + 0 == depth && $2 + 0 == 512 { print $6 + 0, $8 + 0; exit }')
    peer_prompt=${row% *} peer_answer=${row#* }
    [ -n "$row" ] || { cat "$work/log" >&2; echo "decode_peer.sh: no row of depth $depth from the peer" >&2; exit 1; }
}

# say WHO WHAT TOKENS/S GB: one line; the share only where weights are what is waited for.
say() {
    echo "$1 $2 $3 $4 $rate $others" | awk '{ printf "%-6s %-20s %8.2f tokens/s", $1, $2, $3
        if ($4 > 0) { printf "  %5.1f GB/s = %3.0f %% of", $3 * $4, 100 * $3 * $4 / $5 } else { printf "%25s", "" }
        printf "  read %.1f GB/s  others %.2f\n", $5, $6 }' | tee -a "$work/lines"
}

for round in $(seq "$rounds"); do
    echo "round $round"
    run_hadal 16 1 "$@" # not counted: the peer's memory has driven the files out of the page cache, and the peer copies its own before it is timed
    if [ "$depth" = 0 ]; then
        run_hadal 16 64 "$@"
        say hadal "answer@$depth" "$rate_out" "$hadal_gb"
        run_hadal 512 1 "$@"
        prompt_rate=$(echo "$prompt_s" | awk '{ print 512 / $1 }')
    else
        run_hadal "$depth" 64 "$@"
        say hadal "answer@$depth" "$rate_out" "$hadal_gb"
        shorter=$prompt_s
        run_hadal $((depth + 512)) 1 "$@"
        prompt_rate=$(echo "$prompt_s $shorter" | awk '{ print 512 / ($1 - $2) }')
    fi
    say hadal "prompt512@$depth" "$prompt_rate" 0
    run_peer
    say peer "answer@$depth" "$peer_answer" "$peer_gb"
    say peer "prompt512@$depth" "$peer_prompt" 0
done
awk '{ if (!(($1, $2) in best) || $3 > best[$1, $2]) { best[$1, $2] = $3 } sum[$1, $2] += $3; what[$2] = 1 }
     END { for (w in what) {
         h = best["hadal", w]; p = best["peer", w]; mean_h = sum["hadal", w] / n; mean_p = sum["peer", w] / n
         printf "%s hadal best %.2f mean %.2f, peer best %.2f mean %.2f: %.2f times (best), %.2f times (mean)\n", w, h, mean_h, p, mean_p,
                h / p, mean_h / mean_p } }' n="$rounds" "$work/lines"
