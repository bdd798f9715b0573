#!/bin/sh
# shellcheck disable=SC2086
# convert, inspect, diff and verify as a user sees them: a run to a folder, to FP8 and back, messages and exit codes, signals and kills.
. tests/cli/lib.sh

run train $tiny run_name=book steps=2 checkpoint_period=1
wants 0
book=$tmp/book

run convert;                          wants 2 "convert takes the folder to read and the folder to write"
run convert a b c;                    wants 2 "got 3 words"
run convert "$tmp/none" "$tmp/x";     wants 2 "$tmp/none"
run convert "$book" "$tmp/x" save_dtype=int4; wants 2 "save_dtype" "int4"
run convert "$book" "$tmp/x" max_shard_size_gb=0; wants 2 "max_shard_size_gb"
run convert "$book" "$book";          wants 2 "is there already"
run inspect;                          wants 2 "inspect takes a folder"
run inspect "$tmp/none";              wants 2 "$tmp/none"
run inspect "$book" '(';              wants 2 "not an extended regular expression"
run diff "$book";                     wants 2 "diff takes two folders"
run verify;                           wants 2 "verify takes a folder"

run convert "$book" "$tmp/plain";     wants 0 "$tmp/plain: " " tensors, " " GB/s"
check "no optimizer and no manifest" test ! -e "$tmp/plain/optimizer" -a ! -e "$tmp/plain/manifest.json"
run convert "$book" "$tmp/shards" max_shard_size_gb=0.0001; wants 0 " files; "
check "an index" test -f "$tmp/shards/model.safetensors.index.json"
run diff "$tmp/plain" "$tmp/shards";  wants 0 "0 different, 0 only in one"
run convert "$tmp/plain" "$tmp/bf16" save_dtype=bfloat16; wants 0
run diff "$tmp/plain" "$tmp/bf16";    wants 3 "values differ" "(F32, BF16)" "differ"

run convert "$tmp/bf16" "$tmp/fp8" save_dtype=float8_e4m3fn scale_fmt=ue8m0; wants 0
check "quantization_config" grep -q '"scale_fmt": "ue8m0"' "$tmp/fp8/config.json"
run convert "$tmp/fp8" "$tmp/wide" save_dtype=bfloat16; wants 0
check "no quantization_config" sh -c "! grep -q quantization_config '$tmp/wide/config.json'"
run convert "$tmp/wide" "$tmp/again" save_dtype=float8_e4m3fn scale_fmt=ue8m0; wants 0
run diff "$tmp/fp8" "$tmp/again";     wants 0 "0 different"
run diff "$tmp/fp8" "$tmp/wide";      wants 0 "0 different"
run train $tiny run_name=from_fp8 steps=1 load_parameters_path="$tmp/fp8"; wants 0
run train $tiny run_name=from_bf16 steps=1 load_parameters_path="$tmp/wide"; wants 0
check "FP8 and its BF16 train alike" test "$("$hadal" state-hash "$tmp/from_fp8")" = "$("$hadal" state-hash "$tmp/from_bf16")"

run convert "$tmp/bf16" "$tmp/int8" quantization=int8; wants 0 "$tmp/int8: "
check "quantization_config of a packed folder" grep -q '"quant_method": "hadal"' "$tmp/int8/config.json"
run inspect "$tmp/int8";              wants 0 "every tensor of the model is there"
run convert "$tmp/bf16" "$tmp/x" quantization=int4 save_dtype=bfloat16; wants 2 "quantization says what is written"
run convert "$tmp/bf16" "$tmp/x" quantization=fp8; wants 2 "int8, int4, int8w and int4w"

run inspect "$tmp/fp8";               wants 0 "with block scales" "every tensor of the model is there" "F8_E4M3"
run inspect "$tmp/shards" 'norm';     wants 0 "model.norm.weight" " tensors match" "model-0000"
run inspect "$book";                  wants 0 "checkpoint of step"

run verify "$tmp/plain" digests_out="$tmp/digests"; wants 0 "$tmp/plain"
digest=$(cut -d' ' -f1 "$out")
check "64 digits" test ${#digest} = 64
run verify "$tmp/shards" "$tmp/digests"; wants 0 "$digest" "tensors are those of"
run verify "$book" "$tmp/digests";    wants 0 "$digest" "tensors are those of"
run verify "$tmp/bf16" "$tmp/digests"; wants 3 "want F32" "tensors differ"
run verify "$tmp/plain" "$tmp/plain/config.json"; wants 1 "not a file of digests"
# One bit of the last tensor.
size=$(wc -c <"$tmp/plain/model.safetensors")
printf '\377' | dd of="$tmp/plain/model.safetensors" bs=1 seek=$((size - 1)) conv=notrunc 2>/dev/null
run verify "$tmp/plain" "$tmp/digests"; wants 3 "blocks differ, the first is block 0" "1 tensors differ"
run diff "$tmp/plain" "$tmp/shards";  wants 3 "1 of " "1 different"

# Damaged and hostile folders: a sentence, no crash.
bad() { # bad NAME: a copy of the shards to damage
    rm -rf "$tmp/bad"
    cp -R "$tmp/shards" "$tmp/bad"
    what="damage: $1"
}
refused() { # refused TEXT...
    for command in "convert $tmp/bad $tmp/y" "inspect $tmp/bad" "verify $tmp/bad" "diff $tmp/bad $tmp/shards"; do
        run $command
        [ "$code" = 1 ] || [ "$code" = 2 ] || complain "exit code $code"
        wants "$code" "$@"
        [ ! -e "$tmp/y" ] || complain "$tmp/y is there"
    done
}
first=$(cd "$tmp/shards" && ls model-00001-of-*.safetensors)
bad truncated;    truncate -s -1 "$tmp/bad/$first";                       refused "$first"
bad header;       printf '\377' | dd of="$tmp/bad/$first" bs=1 seek=7 conv=notrunc 2>/dev/null; refused "$first"
bad missing;      rm "$tmp/bad/$first";                                   refused "$first"
bad "a path in the index"; sed "s|\"$first\"|\"../x\"|" "$tmp/shards/model.safetensors.index.json" >"$tmp/bad/model.safetensors.index.json"; refused "../x"
bad fifo;         rm "$tmp/bad/$first"; mkfifo "$tmp/bad/$first";         refused "$first"

# Killed and stopped: nothing has the name, the same command finishes.
run convert "$tmp/fp8" "$tmp/whole" save_dtype=float32 max_shard_size_gb=0.0001; wants 0
for fault in kill:4 kill:12 kill:25 fail:9:ENOSPC fail:11:EIO; do
    rm -rf "$tmp/cut"
    HADAL_FAULT_IO=$fault run convert "$tmp/fp8" "$tmp/cut" save_dtype=float32 max_shard_size_gb=0.0001
    case $fault in
    kill*) wants 137 ;;
    *ENOSPC) wants 1 "No space left on device" "$tmp/cut.partial" ;;
    *) wants 1 "Input/output error" "$tmp/cut.partial" ;;
    esac
    check "$fault: nothing has the name" test ! -e "$tmp/cut"
    run convert "$tmp/fp8" "$tmp/cut" save_dtype=float32 max_shard_size_gb=0.0001
    wants 0
    check "$fault: the same bytes" diff -r "$tmp/whole" "$tmp/cut"
done

# The eighth operation waits two seconds: time for a signal, and for a second conversion that finds the lock.
rm -rf "$tmp/cut"
HADAL_FAULT_IO=delay:8:2000ms "$hadal" convert "$tmp/fp8" "$tmp/cut" save_dtype=float32 max_shard_size_gb=0.0001 >"$tmp/first.out" 2>&1 &
pid=$!
tries=0
until [ -e "$tmp/cut.partial/conversion.json" ] || [ $tries -gt 200 ]; do
    sleep 0.02
    tries=$((tries + 1))
done
run convert "$tmp/fp8" "$tmp/cut" save_dtype=float32 max_shard_size_gb=0.0001
wants 1 "conversion.lock"
kill -s TERM $pid
code=0
wait $pid || code=$?
cp "$tmp/first.out" "$err"
what="convert, SIGTERM"
wants 143 "the same command goes on"
check "SIGTERM: nothing has the name" test ! -e "$tmp/cut"
run convert "$tmp/fp8" "$tmp/cut" save_dtype=float32 max_shard_size_gb=0.0001
wants 0 "going on with the conversion"
check "SIGTERM: the same bytes" diff -r "$tmp/whole" "$tmp/cut"
finish
