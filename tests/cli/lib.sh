# For tests of the program: sourced by tests/cli/test_*.sh at the top of the tree.
#
#   run WORD...          runs hadal with the words; its output is in $out and $err, its exit code in $code
#   wants CODE TEXT...   the last run ended with CODE and printed each TEXT on stdout or stderr
#   $tmp                 a folder of this test, removed at the end
# A failed check prints what was seen and goes on; `finish` ends the test with 1 when any failed.
set -eu
hadal=${HADAL:-build/release/hadal}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/hadal-cli.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
out=$tmp/out err=$tmp/err code=0 failures=0 what=
OMP_WAIT_POLICY=passive
export OMP_WAIT_POLICY
unset HADAL_LOSS_HEX HF_TOKEN JOBSET_NAME || true

run() {
    what="hadal $*"
    code=0
    "$hadal" "$@" >"$out" 2>"$err" </dev/null || code=$?
}

complain() {
    failures=$((failures + 1))
    printf 'FAILED: %s\n  %s\n' "$what" "$1"
    sed 's/^/  out: /' "$out" | head -20
    sed 's/^/  err: /' "$err" | head -20
}

wants() {
    wanted=$1
    shift
    [ "$code" = "$wanted" ] || complain "exit code $code, want $wanted"
    for text; do
        grep -qF -e "$text" "$out" "$err" || complain "no '$text' in the output"
    done
}

wants_no() {
    for text; do
        ! grep -qF -e "$text" "$out" "$err" || complain "'$text' is in the output"
    done
}

check() { # check DESCRIPTION COMMAND...
    description=$1
    shift
    "$@" || { what=$description; complain "$*"; }
}

# A small model on synthetic data, for tests that train.
tiny="model_name=tiny-v3 dataset_type=synthetic max_target_length=32 per_device_batch_size=2 learning_rate=0.003 dtype=float32
      log_config=false enable_tensorboard=false base_output_directory=$tmp"

finish() {
    [ "$failures" = 0 ] || { echo "$failures checks failed"; exit 1; }
    exit 0
}
