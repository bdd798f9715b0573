#!/bin/sh
# shellcheck disable=SC2086
# hadal decode: many prompts as each alone, seeds, threads, the standard input, stop texts, limits, and what it is told wrong.
. tests/cli/lib.sh

run train $tiny run_name=run steps=3 tokenizer_type=byte checkpoint_period=10 max_target_length=128
wants 0 "saved checkpoint"
decode="decode load_parameters_path=$tmp/run tokenizer_type=byte dtype=float32 max_prefill_predict_length=60 max_target_length=100"
draw="decode_sampling_strategy=weighted decode_sampling_temperature=0.8"

# six prompts together, by two, on two threads, and each alone with its own seed: the same answers, bit for bit
for i in 0 1 2 3 4 5; do echo "{\"id\": $i, \"prompt\": \"Prompt number $i says \"}"; done >"$tmp/p.jsonl"
run $decode $draw prompt_file="$tmp/p.jsonl" answer_format=jsonl return_log_prob=true decode_sampling_seed=7 num_threads=1
wants 0 "cache: 6 sessions" "prompts: " "answers at a time" '"log_probs": ['
check "an answer for each" test "$(wc -l <"$out")" = 6
cp "$out" "$tmp/all"
for how in "per_device_batch_size=2 num_threads=2" "per_device_batch_size=1" "per_device_batch_size=64 num_threads=2"; do
    run $decode $draw prompt_file="$tmp/p.jsonl" answer_format=jsonl return_log_prob=true decode_sampling_seed=7 $how
    wants 0
    check "$how: the same" cmp "$out" "$tmp/all"
done
for i in 0 1 2 3 4 5; do
    sed -n "$((i + 1))p" "$tmp/p.jsonl" >"$tmp/one.jsonl"
    run $decode $draw prompt_file="$tmp/one.jsonl" answer_format=jsonl return_log_prob=true decode_sampling_seed=$((7 + i))
    wants 0
    sed 's/"index": 0/"index": '$i'/' "$out" >>"$tmp/alone"
done
check "alone: the same" cmp "$tmp/alone" "$tmp/all"
run $decode $draw prompt_file="$tmp/p.jsonl" answer_format=jsonl return_log_prob=true init_weights_seed=7
check "init_weights_seed is the seed when there is no other" cmp "$out" "$tmp/all"
run $decode $draw prompt_file="$tmp/p.jsonl" answer_format=jsonl return_log_prob=true init_weights_seed=7 decode_sampling_seed=8
check "another seed, other answers" sh -c "! cmp -s '$out' '$tmp/all'"

# drafts of an MTP layer change no answer
run train $tiny run_name=mtp steps=3 tokenizer_type=byte checkpoint_period=10 mtp_num_layers=1
wants 0
for how in off on; do
    run decode load_parameters_path="$tmp/mtp" tokenizer_type=byte dtype=float32 max_target_length=100 $draw prompt_file="$tmp/p.jsonl" answer_format=jsonl return_log_prob=true per_device_batch_size=3 mtp_speculation=$how
    wants 0
    cp "$out" "$tmp/$how"
done
wants 0 "drafts"
check "drafts: the same" cmp "$tmp/on" "$tmp/off"

# a signal ends the answers: those that are made are printed
for i in $(seq 2000); do echo '"Prompt"'; done >"$tmp/many.jsonl"
what="SIGTERM" code=0
"$hadal" $decode $draw prompt_file="$tmp/many.jsonl" per_device_batch_size=2 num_threads=1 >"$out" 2>"$err" &
pid=$!
for _ in $(seq 200); do
    [ ! -s "$out" ] || break
    sleep 0.05
done
kill -TERM "$pid"
wait "$pid" || code=$?
wants 143 "of 2000 prompts were taken"
check "it did not answer all" test "$(grep -ac '^Input' "$out")" -lt 2000

# one text and lines of text, from a file and from the standard input
printf 'It was\r\n' >"$tmp/whole.txt"
printf 'It was\n\nThe\n' >"$tmp/lines.txt"
run $decode prompt="It was"
wants 0 "Input \`It was\` -> \`" "prompt: 7 tokens" "first token after" "memory "
cp "$out" "$tmp/was"
run $decode prompt_file="$tmp/whole.txt"
check "a file" cmp "$out" "$tmp/was"
what="standard input" code=0
printf 'It was' | "$hadal" $decode prompt=- >"$out" 2>"$err" || code=$?
wants 0
check "the standard input" cmp "$out" "$tmp/was"
printf 'It was\n\nThe\n' | "$hadal" $decode prompt=- documents=lines >"$tmp/piped" 2>"$err" || code=$?
run $decode prompt_file="$tmp/lines.txt" documents=lines
wants 0 "Input \`It was\` -> \`" "Input \`The\` -> \`" "prompts: 11 tokens"
check "lines from a pipe" cmp "$out" "$tmp/piped"
run $decode prompt_file="$tmp/lines.txt" documents=lines log_format=json
wants 0 '{"index": 1, "prompt": "The", "answer": "' '"finish": "'

# a stop text ends an answer where it begins
run $decode $draw prompt="It was" answer_format=jsonl
part=$(sed 's/.*"answer": "\(.*\)", "finish".*/\1/; s/\\u....//g; s/\\.//g' "$out" | grep -ao '[A-Za-z0-9]' | head -1)
check "a letter in the answer" test -n "$part"
run $decode $draw prompt="It was" stop="[END, '$part']"
wants 0 "(stop)"
check "no '$part' in what is left" sh -c "! sed 's/^Input .It was. -> //' '$out' | grep -qaF -e '$part'"

# conversations
printf '%s' "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[answer]" >"$tmp/t.jinja"
printf '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n"plain"\n' >"$tmp/c.jsonl"
run $decode prompt_file="$tmp/c.jsonl" use_chat_template=true chat_template_path="$tmp/t.jinja" answer_format=jsonl
wants 0 '"prompt": {"messages": [{"role": "user"' '"prompt_tokens": 31' '"prompt_tokens": 20'
run $decode prompt_file="$tmp/c.jsonl"
wants 2 "c.jsonl:1: a conversation wants use_chat_template=true"

# too long
long=$(printf '%070d' 0)
run $decode prompt="$long"
wants 2 "the prompt has 71 tokens; max_prefill_predict_length is 60 and max_target_length, prompt and answer together, is 100"
run $decode prompt="$long" truncate_prompt=end
wants 0 "11 tokens at the end of the prompt were dropped, 60 are left"
run $decode prompt="$long" truncate_prompt=start
wants 0 "11 tokens at the start of the prompt were dropped, 60 are left"
run $decode prompt=x max_target_length=100000
wants 2 "max_position_embeddings"
run $decode prompt=x max_target_length=99999999999
wants 2 "max_target_length"
run $decode prompt=x max_prefill_predict_length=-1
wants 2 "max_prefill_predict_length"
run $decode prompt=x device_memory_gb=0.0001
wants 2 "GB"

# nothing, or nothing that is a prompt
: >"$tmp/empty"
run $decode prompt_file="$tmp/empty";    wants 2 "empty: there is no prompt in it"
run $decode prompt=-;                    wants 2 "standard input: there is no prompt in it"
run $decode prompt_file="$tmp/absent";   wants 1 "$tmp/absent"
run $decode prompt_file="$tmp";          wants 1 "$tmp"
printf 'good\nb\377d\n' >"$tmp/bad"
run $decode prompt_file="$tmp/bad" documents=lines; wants 1 "bad:2: not UTF-8: byte 2 of the line is 0xFF"
printf '"good"\n{"question": "x"}\n' >"$tmp/bad.jsonl"
run $decode prompt_file="$tmp/bad.jsonl";           wants 1 "bad.jsonl:2" 'neither "prompt" nor "messages"'
run $decode prompt_file="$tmp/bad.jsonl" text_column=question; wants 0 "Input \`good\`" "Input \`x\`"
run $decode prompt=x prompt_file="$tmp/bad.jsonl";  wants 2 "prompt is set too"
run $decode prompt=x stop='[""]';                   wants 2 "stop="
run $decode prompt=x decode_sampling_temperature=0; wants 2 "decode_sampling_temperature"
run $decode prompt=x decode_sampling_min_p=2;       wants 2 "decode_sampling_min_p"
run $decode prompt=x decode_sampling_strategy=topk; wants 2 "decode_sampling_top_k"
run decode load_parameters_path="$tmp/run" tokenizer_type=huggingface prompt=x; wants 2 "tokenizer"
run decode load_parameters_path="$tmp/none" tokenizer_type=byte prompt=x;       wants 2 "$tmp/none"
finish
