/* Turns of a conversation.  See chat.h. */
#include "infer/chat.h"

#include <inttypes.h>
#include <string.h>

#include "base/json.h"
#include "base/utf8.h"
#include "hadal/log.h"

typedef struct chat {
    const hd_config *config;
    const hd_tokenizer *tokenizer;
    hd_prompter *prompter;
    hd_generator *generator;
    int64_t most;
    const hd_run_hooks *hooks;
    hd_buf messages;  /* with a template: JSON objects with a comma between them */
    hd_ids running;   /* without one: the text so far */
    size_t n_shown;   /* bytes of the answer in work on the terminal */
    bool interrupted; /* the last line was: once more leaves */
} chat;

static void put(const chat *c, const char *text) { c->hooks->write(c->hooks->context, text, strlen(text)); }

static bool has_interrupt(const chat *c) { return c->hooks->interrupt != NULL && *c->hooks->interrupt != 0; }

static bool has_signal(const chat *c) { return c->hooks->stop_signal != NULL && *c->hooks->stop_signal != 0; }

/* ---- the history ----------------------------------------------------------------------------------------------------------- */

static void add_message(chat *c, const char *role, const char *text, size_t n)
{
    hd_json_writer w;
    if (c->messages.n > 0) { hd_buf_append_char(&c->messages, ','); }
    hd_json_writer_init(&w, &c->messages, 0);
    hd_json_write_object(&w);
    hd_json_write_key(&w, "role");
    hd_json_write_string(&w, role);
    hd_json_write_key(&w, "content");
    hd_json_write_string_n(&w, text, n);
    hd_json_write_end(&w);
}

static hd_status render_history(chat *c, hd_ids *ids, hd_err *err)
{
    hd_buf json = {0};
    hd_buf_printf(&json, "[%s]", hd_buf_text(&c->messages));
    hd_status st = hd_buf_check(&json, err);
    if (st == HD_OK) { st = hd_prompter_conversation(c->prompter, json.data, json.n, "the conversation", ids, err); }
    hd_buf_free(&json);
    return st;
}

/* The running text with one more line: ids of what is there are kept, so that nothing is read twice. */
static hd_status extend_text(chat *c, const char *line, size_t n, hd_ids *ids, hd_err *err)
{
    hd_status st;
    hd_buf text = {0};
    if (c->running.n == 0) { return hd_prompter_text(c->prompter, line, n, ids, err); }
    hd_buf_append_char(&text, '\n');
    hd_buf_append(&text, line, n);
    HD_TRY(hd_buf_check(&text, err));
    HD_TRY(hd_ids_append(ids, c->running.id, c->running.n, err));
    HD_TRY(hd_tokenizer_encode(c->tokenizer, text.data, text.n, HD_ENCODE_PLAIN, ids, err));
out:
    hd_buf_free(&text);
    return st;
}

static void cut_messages(chat *c, size_t n)
{
    c->messages.n = n;
    if (c->messages.data != NULL) { c->messages.data[n] = '\0'; }
}

static void forget(chat *c)
{
    cut_messages(c, 0);
    c->running.n = 0;
}

/* ---- one turn ---------------------------------------------------------------------------------------------------------------- */

static void on_grown(void *context, const hd_answer *a)
{
    chat *c = context;
    c->hooks->write(c->hooks->context, a->text.data + c->n_shown, a->n_settled - c->n_shown);
    c->n_shown = a->n_settled;
}

static bool is_stopped(void *context)
{
    const chat *c = context;
    return has_interrupt(c) || has_signal(c);
}

static void report(const chat *c, const hd_answer *a, const hd_generate_totals *before)
{
    const hd_generate_totals *t = hd_generator_totals(c->generator);
    int64_t n_read = t->n_read - before->n_read, n_step = t->n_stepped - before->n_stepped;
    hd_log(HD_LOG_INFO, "[%" PRId64 " tokens read in %.3f s, %" PRId64 " were in the cache; answer: %" PRId64 " tokens (%s), %.1f tokens/s; context %zu of %" PRId64 "]",
           n_read, t->read_s - before->read_s, t->n_kept - before->n_kept, hd_answer_length(a), hd_finish_name(a->finish),
           (double)n_step / (t->step_s - before->step_s + 1e-9), a->ids.n, c->most);
    if (a->finish == HD_FINISH_LENGTH) {
        put(c, "The context is full (max_target_length): /reset begins a new conversation.\n");
    }
}

/* The answer becomes a part of the history; one that was interrupted before it began takes its question with it. */
static hd_status remember(chat *c, hd_answer *a, size_t before, hd_err *err)
{
    if (hd_answer_length(a) == 0 && (a->finish == HD_FINISH_INTERRUPTED || a->finish == HD_FINISH_OPEN)) {
        cut_messages(c, before);
        return HD_OK;
    }
    if (c->prompter->template == NULL) {
        hd_ids old = c->running;
        c->running = a->ids;
        a->ids = old;
        return HD_OK;
    }
    add_message(c, "assistant", hd_buf_text(&a->text), a->text.n);
    return hd_buf_check(&c->messages, err);
}

static hd_status ask(chat *c, const char *line, size_t n, hd_err *err)
{
    hd_status st;
    hd_answer answer = {.seed = hd_sampling_seed(c->config)};
    size_t before = c->messages.n;
    hd_generate_totals totals = *hd_generator_totals(c->generator);
    hd_generate_hooks hooks = {.context = c, .grown = on_grown, .stopped = is_stopped};
    c->n_shown = 0;
    if (c->prompter->template != NULL) {
        add_message(c, "user", line, n);
        HD_TRY(hd_buf_check(&c->messages, err));
        HD_TRY(render_history(c, &answer.ids, err));
    } else {
        HD_TRY(extend_text(c, line, n, &answer.ids, err));
    }
    if ((int64_t)answer.ids.n >= c->most) {
        hd_log(HD_LOG_WARN, "with this line the conversation has %zu tokens, and max_target_length is %" PRId64 ": it was left out; /reset begins a new "
               "conversation", answer.ids.n, c->most);
        cut_messages(c, before);
        goto out;
    }
    HD_TRY(hd_generate(c->generator, &answer, 1, &hooks, err));
    put(c, "\n");
    report(c, &answer, &totals);
    st = remember(c, &answer, before, err);
out:
    hd_answer_free(&answer);
    return st;
}

/* ---- lines --------------------------------------------------------------------------------------------------------------------- */

static void help(const chat *c)
{
    put(c, "A line is what you say; one that ends in a backslash goes on in the next.\n"
           "  /reset    forget the conversation\n"
           "  /exit     leave, as Ctrl-D does\n"
           "  /help     this text\n"
           "Ctrl-C ends an answer; twice at the prompt, it leaves.  A space in front of a line takes the meaning from its slash.\n");
}

/* A line that begins with a slash. */
static void obey(chat *c, const char *command, bool *leaves)
{
    *leaves = strcmp(command, "/exit") == 0 || strcmp(command, "/quit") == 0 || strcmp(command, "/bye") == 0;
    if (*leaves) { return; }
    if (strcmp(command, "/reset") == 0) {
        forget(c);
        put(c, "The conversation begins anew.\n");
    } else if (strcmp(command, "/help") == 0 || strcmp(command, "/?") == 0) {
        help(c);
    } else {
        hd_log(HD_LOG_WARN, "%s is no command: /help lists them", command);
    }
}

/* Lines joined where one ends in a backslash. */
static hd_line_end read_turn(chat *c, hd_buf *turn)
{
    hd_line_end end;
    const char *line;
    size_t n;
    hd_buf_clear(turn);
    for (;;) {
        end = c->hooks->read_line(c->hooks->context, turn->n == 0 ? ">>> " : "... ", &line, &n);
        if (end != HD_LINE_WHOLE) { return end; }
        bool goes_on = n > 0 && line[n - 1] == '\\';
        hd_buf_append(turn, line, goes_on ? n - 1 : n);
        if (!goes_on) { return HD_LINE_WHOLE; }
        hd_buf_append_char(turn, '\n');
    }
}

static hd_status take_turn(chat *c, const hd_buf *turn, bool *leaves, hd_err *err)
{
    size_t bad;
    const char *text = hd_buf_text(turn);
    if (text[0] == '\0') { return HD_OK; }
    if (!hd_utf8_validate(text, turn->n, &bad)) {
        hd_log(HD_LOG_WARN, "the line is not UTF-8 (its byte %zu is 0x%02X) and was left out", bad + 1, (unsigned char)text[bad]);
        return HD_OK;
    }
    if (text[0] == '/') {
        obey(c, text, leaves);
        return HD_OK;
    }
    return ask(c, text, turn->n, err);
}

/* An interrupt at the prompt drops the line; two without a line between them leave. */
static bool leaves_on(chat *c, hd_line_end end)
{
    bool twice = c->interrupted && end == HD_LINE_INTERRUPTED;
    c->interrupted = end == HD_LINE_INTERRUPTED;
    if (end == HD_LINE_CLOSED || twice) { return true; }
    if (c->interrupted) { put(c, "(Ctrl-C once more, or Ctrl-D, leaves)\n"); }
    return false;
}

static hd_status run(chat *c, hd_err *err)
{
    hd_buf turn = {0};
    hd_status st = HD_OK;
    for (bool leaves = false; st == HD_OK && !leaves && !has_signal(c);) {
        if (c->hooks->interrupt != NULL) { *c->hooks->interrupt = 0; }
        hd_line_end end = read_turn(c, &turn);
        leaves = leaves_on(c, end);
        if (end == HD_LINE_WHOLE) { st = hd_buf_check(&turn, err); }
        if (st == HD_OK && end == HD_LINE_WHOLE) { st = take_turn(c, &turn, &leaves, err); }
    }
    hd_buf_free(&turn);
    return st;
}

hd_status hd_chat_run(const hd_config *config, const hd_tokenizer *tokenizer, hd_prompter *prompter, hd_generator *generator, int64_t most,
                      const hd_run_hooks *hooks, hd_err *err)
{
    chat c = {.config = config, .tokenizer = tokenizer, .prompter = prompter, .generator = generator, .most = most, .hooks = hooks};
    put(&c, prompter->template != NULL ? "A conversation; /help tells what else there is, Ctrl-D leaves.\n"
                                       : "No chat template: the model goes on with your text; /help tells what else there is, Ctrl-D leaves.\n");
    hd_status st = run(&c, err);
    if (st == HD_OK && has_signal(&c)) {
        st = HD_FAIL(err, HD_E_SIGNAL, "stopped by signal %d", (int)*hooks->stop_signal);
        if (err != NULL) { err->signal = (int)*hooks->stop_signal; }
    }
    hd_buf_free(&c.messages);
    hd_ids_free(&c.running);
    return st;
}
