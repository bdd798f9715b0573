#!/bin/sh
# Trains deepseek-mini, a V3-style model over bytes, on a text for about two minutes, measures it on the last 5 % of the text,
# which it never trained on, beside `xz -9e`, saves a checkpoint and lets it continue a prompt.
#
#   ./dev demo [FILE]        FILE: any plain text, best a megabyte or more; without one, "An Anarchist FAQ" as Debian's package
#                            `anarchism` ships it: 7.7 MB of English prose
#   DEMO_SECONDS=115         training time; the number of steps follows from the speed of this machine.  Unless it is set, a slow or
#                            busy machine takes longer: fewer than 2,200 steps are too few to show anything
#   DEMO_PROMPT='In the '    what the model continues
#   DEMO_DIR=build/demo      where everything is written
set -eu
LC_ALL=C
export LC_ALL
hadal=${HADAL:-build/release/hadal}
seconds=${DEMO_SECONDS:-115}
least=$([ -n "${DEMO_SECONDS:-}" ] && echo 20 || echo 2200)
prompt=${DEMO_PROMPT:-In the }
dir=${DEMO_DIR:-build/demo}
package=/usr/share/doc/anarchism/markdown
began=$(date +%s)

say() { printf '\n== %s\n' "$*"; }
die() { echo "demo: $*" >&2; exit 1; }

[ -x "$hadal" ] || die "$hadal is not built: run ./dev demo, or ./dev build first"
command -v xz >/dev/null || die "xz is missing: ./dev setup demo"
mkdir -p "$dir"

# ---- the text ------------------------------------------------------------------------------------------------------------
if [ $# -gt 0 ]; then
    [ -r "$1" ] || die "cannot read $1"
    cp -- "$1" "$dir/text.txt"
    source=$1
else
    [ -r $package/secA1.md.gz ] || die "the text is missing ($package): ./dev setup demo, or name a file: ./dev demo FILE"
    zcat $package/sec*.md.gz >"$dir/text.txt"
    source="An Anarchist FAQ (Debian package anarchism)"
fi
bytes=$(($(wc -c <"$dir/text.txt")))
[ "$bytes" -ge 20000 ] || die "$source has $bytes bytes; want at least 20000"
say "text: $source, $bytes bytes, the last 5 % held out"

# Everything a run is told beside the model file; the same for every text.
train() {
    "$hadal" train model_name=deepseek-mini tokenizer_type=byte dataset_path="$dir/text.txt" eval_fraction=0.05 num_epoch=1000000 \
        base_output_directory="$dir" log_config=false per_device_batch_size=4 max_target_length=256 dtype=float32 \
        learning_rate=4e-3 warmup_steps_fraction=0.05 learning_rate_final_fraction=0.05 "$@"
}

# ---- how many steps fit the time -------------------------------------------------------------------------------------------
# The lower quartile of some steps, so that a hiccup of the machine does not decide.
n_try=40
train run_name=speed steps=$n_try enable_checkpointing=false enable_tensorboard=false >"$dir/speed.log" 2>&1 ||
    { cat "$dir/speed.log" >&2; exit 1; }
step_seconds=$(sed -n 's/^completed step: .*, seconds: \([0-9.]*\),.*/\1/p' "$dir/speed.log" | sort -n | sed -n "$((n_try / 4))p")
steps=$(awk -v s="$step_seconds" -v all="$seconds" -v least="$least" 'BEGIN { n = int(all / (s > 0.0005 ? s : 0.0005)); print n < least ? least : n }')
expected=$(awk -v s="$step_seconds" -v n="$steps" 'BEGIN { printf "%d", n * s + 0.5 }')
say "training: $steps steps of $step_seconds s, about $expected s in all; Ctrl-C saves and leaves"

# ---- train, evaluate, save ---------------------------------------------------------------------------------------------------
rm -rf "$dir/run"
train run_name=run steps="$steps" eval_interval="$steps" eval_start_step="$steps" checkpoint_period="$steps" \
    save_checkpoint_on_start=false metrics_file="$dir/metrics.jsonl"
trained=$(($(date +%s) - began))

# ---- beside xz ----------------------------------------------------------------------------------------------------------------
record=$(grep '"eval/nats_per_byte"' "$dir/metrics.jsonl" | tail -1)
value() { printf '%s\n' "$record" | sed -n "s|.*\"$1\": \\([-0-9.e+]*\\).*|\\1|p"; }
nats=$(value eval/nats_per_byte)
held_out=$(value eval/bytes | sed 's/\.0*$//')
xz_all=$(($(xz -9e -T1 -c "$dir/text.txt" | wc -c)))
xz_train=$(($(head -c $((bytes - held_out)) "$dir/text.txt" | xz -9e -T1 -c | wc -c)))
xz_bytes=$((xz_all - xz_train))
model_bytes=$(awk -v n="$nats" -v b="$held_out" 'BEGIN { printf "%d", n * b / (8 * log(2)) + 0.5 }')

# ---- a continuation -------------------------------------------------------------------------------------------------------------
say "the model continues '$prompt'"
"$hadal" decode model_name=deepseek-mini tokenizer_type=byte load_parameters_path="$dir/run" prompt="$prompt" dtype=float32 log_config=false \
    max_prefill_predict_length=64 max_target_length=256 decode_sampling_strategy=nucleus decode_sampling_temperature=0.7 \
    decode_sampling_nucleus_p=0.95

# ---- what was achieved --------------------------------------------------------------------------------------------------------
say "after $trained s"
awk -v n="$nats" -v b="$held_out" -v m="$model_bytes" -v x="$xz_bytes" -v all="$xz_all" -v train="$xz_train" 'BEGIN {
    printf "held-out part   %d bytes\n", b
    printf "the model       %.4f nats per byte = %.3f bits per byte = %d bytes\n", n, n / log(2), m
    printf "xz -9e          %d bytes (%d for all of the text less %d for the training part)\n", x, all, train
    if (m < x) { printf "The model needs %.1f %% fewer bytes than xz for text neither has seen.\n", 100 * (1 - m / x) }
    else { printf "The model needs %.1f %% more bytes than xz; more text or time helps.\n", 100 * (m / x - 1) }
}'
cat <<END

Three things to try next
  $hadal decode model_name=deepseek-mini tokenizer_type=byte \\
      load_parameters_path=$dir/run prompt='What is ' max_target_length=200       # ask it something else
  ./dev demo YOUR_TEXT.txt                                                        # your own text
  $hadal plan model_name=deepseek3-671b per_device_batch_size=1 max_target_length=4096   # what the full-size V3 would take
END
