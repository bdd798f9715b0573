#!/bin/sh
# hadal tokenize: both directions, the ways to cut the input, its mistakes; training and decoding with a tokenizer.json.
. tests/cli/lib.sh

v3=tokenizer_path=tests/tokenizer/fixtures/v3.json
llama=tokenizer_path=tests/tokenizer/fixtures/llama3.json

run tokenize $v3 'text=The quick brown fox'
wants 0
ids=$(cat "$out")
run tokenize $v3 show=text "text=$ids";             wants 0
check "ids decode to the text" test "$(cat "$out")" = "The quick brown fox"
run tokenize $v3 show=count 'text=The quick';       wants 0 "2 ids, 9 bytes"
run tokenize $v3 show=pieces 'text=a "你"';         wants 0 '"a"' '"\""'
printf 'a\\x\377' >"$tmp/bytes"
run tokenize $v3 show=pieces "$tmp/bytes";          wants 0 '"\\"' '\xEF'
run tokenize $llama text=x;                         wants 0
with=$(wc -w <"$out")
run tokenize $llama text=x add_special_tokens=false; wants 0
check "the template's BOS" test "$with" = $(($(wc -w <"$out") + 1))

# files, lines, JSON lines, the standard input
printf 'The quick\nbrown\n\nfox' >"$tmp/text"
printf '"The quick"\n{"text": "brown", "n": 1}\n"\\u4f60"\n' >"$tmp/lines.jsonl"
run tokenize $v3 "$tmp/text" documents=lines show=count
wants 0 "2 ids, 9 bytes" "0 ids, 0 bytes"
check "four lines" test "$(wc -l <"$out")" = 4
run tokenize $v3 "$tmp/lines.jsonl" documents=jsonl show=count
wants 0 "2 ids, 9 bytes"
check "three documents" test "$(wc -l <"$out")" = 3
run tokenize $v3 "$tmp/lines.jsonl" documents=jsonl
cp "$out" "$tmp/ids"
run tokenize $v3 "$tmp/ids" documents=jsonl show=text; wants 0 '"The quick"' '"brown"' '"你"'
run tokenize $v3 "$tmp/text"
cp "$out" "$tmp/whole"
check "the standard input" sh -c "'$hadal' tokenize $v3 <'$tmp/text' | cmp -s - '$tmp/whole'"
check "one thread or three" sh -c "HADAL_NUM_THREADS=3 '$hadal' tokenize $v3 README.md >'$tmp/3' && HADAL_NUM_THREADS=1 '$hadal' tokenize $v3 README.md | cmp -s - '$tmp/3'"
check "a file through ids and back" sh -c "'$hadal' tokenize $v3 README.md | '$hadal' tokenize $v3 show=text | cmp -s - README.md"
run tokenize tokenizer_type=byte text=ab;           wants 0 "256 97 98"

# mistakes
run tokenize text=a;                                wants 2 "tokenizer_path"
run tokenize tokenizer_path=/nowhere text=a;        wants 2 "tokenizer_path=/nowhere: no such file or folder"
run tokenize tokenizer_path=tests text=a;           wants 2 "no tokenizer.json"
run tokenize tokenizer_path=README.md text=a;       wants 1 "README.md: line 1"
run tokenize $v3 "$tmp/missing";                    wants 1 "missing"
run tokenize $v3 a b;                               wants 2 "one file"
run tokenize $v3 show=text text=12,x;               wants 2 "want a number"
run tokenize $v3 show=text text=99999;              wants 1 "id 99999 (number 1) has no token"
run tokenize $v3 show=text text=99999999999;        wants 2 "above 2147483647"
run tokenize $v3 documents=jsonl text=oops;         wants 1 "line 1"
run tokenize tokenizer_type=sentencepiece text=a;   wants 2 "tokenizer_type"
run tokenize --help;                                wants 0 "usage: hadal tokenize" "16.0.0" "documents"

# training and decoding
big="model_name=tiny-v3 vocab_size=1024 override_model_config=true max_target_length=32 per_device_batch_size=2 log_config=false
     enable_tensorboard=false base_output_directory=$tmp dataset_path=README.md"
# shellcheck disable=SC2086
{
    run train $big $v3 steps=4 learning_rate_schedule_steps=4 run_name=straight;   wants 0 "tokenized" "completed step: 3"
    run train $big $v3 steps=2 learning_rate_schedule_steps=4 run_name=parts;    wants 0
    run train $big $v3 steps=4 learning_rate_schedule_steps=4 run_name=parts;    wants 0 "completed step: 3"
    run state-hash "$tmp/straight"
    cp "$out" "$tmp/hash"
    run state-hash "$tmp/parts"
    check "a resumed run has the same bits" cmp -s "$out" "$tmp/hash"
    run train $big $v3 vocab_size=300 steps=1 run_name=small;                    wants 2 "vocab_size is 300" "v3.json needs at least"
    run train $big tokenizer_path=tests/tokenizer/fixtures/o200k.json steps=1 run_name=x; wants 2 "has no BOS token"
    run decode model_name=tiny-v3 $v3 load_parameters_path="$tmp/straight" prompt=The max_target_length=16 max_prefill_predict_length=8
    wants 0 "Input \`The\`"
}
finish
