/* Parses the fault switches and plays them through the hook of the I/O table and the allocator's switch.  See fault.h.
 * It keeps its own descriptors for the trace and the count: they must not count themselves. */
#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/env.h"
#include "base/io.h"

enum { MAX_RULES = 16, MAX_TEXT = 4096 };

typedef enum rule_kind { RULE_FAIL, RULE_SHORT, RULE_TEAR, RULE_KILL, RULE_DELAY } rule_kind;

typedef struct io_rule {
    rule_kind kind;
    hd_io_class class;
    uint64_t at;
    int error;
    bool for_ever;
    double delay_s;
    atomic_bool spent; /* of SHORT and TEAR, which wait for the next read or write */
} io_rule;

/* A hook table: written by arming, before other threads run. */
static struct {
    io_rule rule[MAX_RULES];
    size_t n_rules;
    int trace_fd, count_fd; /* 0: none */
    atomic_uint_fast64_t count[HD_IO_CLASS_OTHER];
    hd_fault_rank rank[MAX_RULES];
    size_t n_ranks;
} armed;

static const struct {
    const char *name;
    int number;
} errnos[] = {
    {"EIO", EIO},       {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EINTR", EINTR},           {"EACCES", EACCES},
    {"EROFS", EROFS},   {"ENOENT", ENOENT}, {"EEXIST", EEXIST}, {"EMFILE", EMFILE},         {"EBUSY", EBUSY},
    {"EAGAIN", EAGAIN}, {"ENOMEM", ENOMEM}, {"EPERM", EPERM},   {"ENOTEMPTY", ENOTEMPTY},   {"EFBIG", EFBIG},
    {"EXDEV", EXDEV},   {"EINVAL", EINVAL}, {"ESTALE", ESTALE}, {"EOPNOTSUPP", EOPNOTSUPP},
};

/* ---- playing ---------------------------------------------------------------------------------------------------- */

static void put_line(int fd, const char *text, int n, off_t at)
{
    ssize_t done = at < 0 ? write(fd, text, (size_t)n) : pwrite(fd, text, (size_t)n, at);
    (void)done; /* a trace that cannot be written is only an incomplete trace */
}

static void write_trace(const hd_io_event *e, uint64_t number)
{
    char line[MAX_TEXT];
    int n = snprintf(line, sizeof line, "%" PRIu64 "\t%s\t%" PRId64 "\t%zu\t%s\t%s\n", number, hd_io_op_name(e->op),
                     e->offset, e->size, e->path, e->path2 != NULL ? e->path2 : "");
    if (n > 0 && (size_t)n < sizeof line) { put_line(armed.trace_fd, line, n, -1); }
}

static void write_count(void)
{
    char line[64];
    int n = snprintf(line, sizeof line, "%20" PRIuFAST64 " %20" PRIuFAST64 "\n",
                     atomic_load(&armed.count[HD_IO_CLASS_MUTATE]), atomic_load(&armed.count[HD_IO_CLASS_READ]));
    put_line(armed.count_fd, line, n, 0);
}

static bool can_be_short(hd_io_op op)
{
    return op == HD_IO_OP_READ || op == HD_IO_OP_PREAD || op == HD_IO_OP_WRITE || op == HD_IO_OP_PWRITE;
}

static void play_short(io_rule *rule, hd_io_event *event, uint64_t number)
{
    if (number < rule->at || !can_be_short(event->op) || atomic_exchange(&rule->spent, true)) { return; }
    if (event->size > 1) { event->size /= 2; }
    event->kill_after = rule->kind == RULE_TEAR;
}

static void play(io_rule *rule, hd_io_event *event, uint64_t number)
{
    switch (rule->kind) {
    case RULE_FAIL:
        if (number == rule->at || (rule->for_ever && number > rule->at)) { event->fail_errno = rule->error; }
        break;
    case RULE_SHORT:
    case RULE_TEAR: play_short(rule, event, number); break;
    case RULE_KILL:
        if (number == rule->at) { (void)kill(getpid(), SIGKILL); }
        break;
    case RULE_DELAY:
        if (number == rule->at) { hd_clock_sleep_s(rule->delay_s); }
        break;
    }
}

static void on_event(void *context, hd_io_event *event)
{
    (void)context;
    hd_io_class class = hd_io_op_class(event->op);
    uint64_t number = class == HD_IO_CLASS_OTHER ? 0 : atomic_fetch_add(&armed.count[class], 1) + 1;
    if (armed.trace_fd > 0) { write_trace(event, number); }
    if (armed.count_fd > 0) { write_count(); }
    for (size_t i = 0; number > 0 && i < armed.n_rules; i++) {
        if (armed.rule[i].class == class) { play(&armed.rule[i], event, number); }
    }
}

/* ---- parsing ---------------------------------------------------------------------------------------------------- */

/* One item cut into its fields; the fields point into `text`. */
typedef struct item {
    char text[MAX_TEXT];
    char *field[4];
    size_t n;
} item;

static hd_status bad(const char *variable, const char *text, const char *want, hd_err *err)
{
    return HD_FAIL(err, HD_E_CONFIG, "%s: \"%s\": want %s", variable, text, want);
}

/* Copies the item at *text (up to ',' or the end), cuts it at the first three ':' and moves *text behind it. */
static bool next_item(const char **text, item *out)
{
    size_t n = strcspn(*text, ",");
    if (n >= sizeof out->text) { return false; }
    memcpy(out->text, *text, n);
    out->text[n] = '\0';
    *text += n + ((*text)[n] == ',');
    out->n = 0;
    for (char *p = out->text; p != NULL && out->n < 4;) {
        out->field[out->n++] = p;
        p = out->n < 4 ? strchr(p, ':') : NULL;
        if (p != NULL) { *p++ = '\0'; }
    }
    return true;
}

static bool parse_u64(const char *text, uint64_t *out)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') { return false; }
    errno = 0;
    *out = strtoull(text, &end, 10);
    return *end == '\0' && errno == 0;
}

/* "100ms" */
static bool parse_delay(const char *text, double *seconds)
{
    char digits[16];
    uint64_t ms;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n >= sizeof digits || strcmp(text + n, "ms") != 0) { return false; }
    memcpy(digits, text, n);
    digits[n] = '\0';
    if (!parse_u64(digits, &ms)) { return false; }
    *seconds = (double)ms * 1e-3;
    return true;
}

static bool parse_errno(const char *name, int *out)
{
    for (size_t i = 0; i < sizeof errnos / sizeof errnos[0]; i++) {
        if (strcmp(errnos[i].name, name) == 0) {
            *out = errnos[i].number;
            return true;
        }
    }
    return false;
}

/* The N or rN that most rules have as second field. */
static bool parse_at(const char *text, io_rule *rule)
{
    rule->class = text[0] == 'r' ? HD_IO_CLASS_READ : HD_IO_CLASS_MUTATE;
    return parse_u64(text + (text[0] == 'r'), &rule->at) && rule->at > 0;
}

static bool parse_fail(const item *it, io_rule *rule)
{
    if (it->n < 3 || !parse_errno(it->field[2], &rule->error)) { return false; }
    rule->for_ever = it->n == 4;
    if (rule->for_ever && strcmp(it->field[3], "forever") != 0) { return false; }
    return !(rule->for_ever && rule->error == EINTR); /* it would be retried for ever */
}

static bool parse_rule(const item *it, io_rule *rule)
{
    static const struct {
        const char *name;
        rule_kind kind;
    } kinds[] = {
        {"fail", RULE_FAIL}, {"short", RULE_SHORT}, {"tear", RULE_TEAR}, {"kill", RULE_KILL}, {"delay", RULE_DELAY},
    };
    size_t k = 0;
    while (k < sizeof kinds / sizeof kinds[0] && strcmp(kinds[k].name, it->field[0]) != 0) { k++; }
    if (k == sizeof kinds / sizeof kinds[0] || it->n < 2 || !parse_at(it->field[1], rule)) { return false; }
    rule->kind = kinds[k].kind;
    if (rule->kind == RULE_FAIL) { return parse_fail(it, rule); }
    if (rule->kind == RULE_DELAY) { return it->n == 3 && parse_delay(it->field[2], &rule->delay_s); }
    return it->n == 2;
}

/* trace:PATH and count:PATH; a ':' in the path was cut and is put back. */
static hd_status open_report(item *it, int *fd, hd_err *err)
{
    for (size_t i = 2; i < it->n; i++) { it->field[i][-1] = ':'; }
    if (*fd > 0) { (void)close(*fd); }
    int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (fd == &armed.trace_fd ? O_APPEND : O_TRUNC);
    *fd = open(it->field[1], flags, 0666);
    if (*fd >= 0) { return HD_OK; }
    *fd = 0;
    return HD_FAIL(err, HD_E_CONFIG, "HADAL_FAULT_IO: cannot open %s: %s", it->field[1], strerror(errno));
}

static hd_status arm_io(const char *text, hd_err *err)
{
    static const char want[] = "fail:N:ERRNO[:forever] short:N tear:N kill:N delay:N:MSms trace:PATH count:PATH, "
                               "N or rN from 1, joined by ','";
    item it;
    while (*text != '\0') {
        hd_status st = HD_OK;
        const char *start = text;
        if (!next_item(&text, &it) || armed.n_rules == MAX_RULES) { return bad("HADAL_FAULT_IO", start, want, err); }
        if (it.n >= 2 && strcmp(it.field[0], "trace") == 0) {
            st = open_report(&it, &armed.trace_fd, err);
        } else if (it.n >= 2 && strcmp(it.field[0], "count") == 0) {
            st = open_report(&it, &armed.count_fd, err);
        } else if (parse_rule(&it, &armed.rule[armed.n_rules])) {
            armed.n_rules++;
        } else {
            st = bad("HADAL_FAULT_IO", start, want, err);
        }
        if (st != HD_OK) { return st; }
    }
    hd_io_set_hook(on_event, NULL);
    return HD_OK;
}

static hd_status arm_alloc(const char *text, hd_err *err)
{
    item it;
    uint64_t n;
    const char *rest = text;
    bool good = next_item(&rest, &it) && *rest == '\0' && (it.n == 2 || it.n == 3) &&
                strcmp(it.field[0], "fail") == 0 && parse_u64(it.field[1], &n) && n > 0 &&
                (it.n == 2 || strcmp(it.field[2], "forever") == 0);
    if (!good) { return bad("HADAL_FAULT_ALLOC", text, "fail:N or fail:N:forever, N from 1", err); }
    hd_alloc_fail_at((size_t)n, it.n == 3);
    return HD_OK;
}

static bool parse_rank(item *it, hd_fault_rank *out)
{
    uint64_t rank, step;
    char *at = it->n >= 2 ? strchr(it->field[it->n - 1], '@') : NULL;
    if (at == NULL) { return false; }
    *at = '\0';
    if (!parse_u64(it->field[0], &rank) || rank > 1000000 || !parse_u64(at + 1, &step) || step > INT64_MAX) {
        return false;
    }
    *out = (hd_fault_rank){.rank = (int)rank, .step = (int64_t)step};
    if (it->n == 2) {
        out->kind = HD_FAULT_RANK_STOP;
        return strcmp(it->field[1], "stop") == 0;
    }
    if (it->n == 3 && strcmp(it->field[1], "slow") == 0) {
        out->kind = HD_FAULT_RANK_SLOW;
        return parse_delay(it->field[2], &out->delay_s);
    }
    size_t length = it->n == 3 ? strlen(it->field[2]) : 0;
    if (length == 0 || length >= sizeof out->buffer || strcmp(it->field[1], "flip") != 0) { return false; }
    out->kind = HD_FAULT_RANK_FLIP;
    memcpy(out->buffer, it->field[2], length + 1);
    return true;
}

static hd_status arm_rank(const char *text, hd_err *err)
{
    static const char want[] = "RANK:stop@STEP RANK:slow:MSms@STEP RANK:flip:BUFFER@STEP, joined by ','";
    item it;
    while (*text != '\0') {
        const char *start = text;
        if (!next_item(&text, &it) || armed.n_ranks == MAX_RULES || !parse_rank(&it, &armed.rank[armed.n_ranks])) {
            return bad("HADAL_FAULT_RANK", start, want, err);
        }
        armed.n_ranks++;
    }
    return HD_OK;
}

/* ---- interface -------------------------------------------------------------------------------------------------- */

void hd_fault_disarm(void)
{
    hd_io_set_hook(NULL, NULL);
    hd_alloc_fail_at(0, 0);
    if (armed.trace_fd > 0) { (void)close(armed.trace_fd); }
    if (armed.count_fd > 0) { (void)close(armed.count_fd); }
    memset(&armed, 0, sizeof armed);
}

hd_status hd_fault_arm(const char *io, const char *alloc, const char *rank, hd_err *err)
{
    hd_status st = HD_OK;
    hd_fault_disarm();
    if (io != NULL) { st = arm_io(io, err); }
    if (st == HD_OK && rank != NULL) { st = arm_rank(rank, err); }
    if (st == HD_OK && alloc != NULL) { st = arm_alloc(alloc, err); }
    if (st != HD_OK) { hd_fault_disarm(); }
    return st;
}

hd_status hd_fault_init(hd_err *err)
{
    return hd_fault_arm(hd_env(HD_ENV_FAULT_IO), hd_env(HD_ENV_FAULT_ALLOC), hd_env(HD_ENV_FAULT_RANK), err);
}

hd_fault_counts hd_fault_get_counts(void)
{
    return (hd_fault_counts){.mutations = atomic_load(&armed.count[HD_IO_CLASS_MUTATE]),
                             .reads = atomic_load(&armed.count[HD_IO_CLASS_READ])};
}

const hd_fault_rank *hd_fault_rank_get(size_t i)
{
    return i < armed.n_ranks ? &armed.rank[i] : NULL;
}
