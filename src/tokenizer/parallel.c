/* Many texts on many threads.
 *
 * The texts are cut into jobs of about the same size: several short documents, or a part of a long one.  A document is cut only between a
 * letter and a space that a letter follows (scan.h), and only where no id can depend on that: the pre-tokeniser is one scanner, nothing is
 * normalised, and no added token could stand across or look at its neighbours.  Jobs write lists of their own, joined in order. */
#include <string.h>

#include "base/alloc.h"
#include "base/parallel_for.h"
#include "tokenizer/internal.h"

enum { JOB_BYTES = 1 << 18, CUT_REACH = 1 << 14, MAX_THREADS = 256 };

/* Documents [first, last), or bytes [begin, end) of document `first` where last is first + 1. */
typedef struct job {
    size_t first, last, begin, end;
    hd_ids ids;
} job;

typedef struct thread_state {
    hd_encoder *encoder;
    hd_status st;
    hd_err err;
} thread_state;

typedef struct batch {
    const hd_tokenizer *tokenizer;
    const hd_document_text *documents;
    hd_encode_flags flags;
    job *job;
    size_t n_job, capacity;
    thread_state *thread;
    size_t *ends;
} batch;

size_t hd_tokenizer_safe_cut(const hd_tokenizer *tokenizer, const char *text, size_t n)
{
    if (tokenizer->is_byte) { return n; }
    return tokenizer->may_cut && n > 0 ? hd_scan_safe_cut(text, 0, n - 1) : 0;
}

static hd_status add_job(batch *b, size_t first, size_t last, size_t begin, size_t end, hd_err *err)
{
    if (b->n_job == b->capacity) {
        void *grown = b->job;
        size_t capacity = b->capacity == 0 ? 64 : 2 * b->capacity;
        hd_status st = hd_realloc(&grown, b->capacity, capacity, sizeof *b->job, "parts of texts", err);
        if (st != HD_OK) { return st; }
        b->job = grown;
        b->capacity = capacity;
    }
    b->job[b->n_job++] = (job){.first = first, .last = last, .begin = begin, .end = end};
    return HD_OK;
}

static hd_status add_parts(batch *b, size_t d, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_document_text *document = &b->documents[d];
    size_t begin = 0, cut;
    while (b->tokenizer->may_cut && document->n - begin > 2 * JOB_BYTES) {
        cut = hd_scan_safe_cut(document->text, begin + JOB_BYTES - CUT_REACH, begin + JOB_BYTES);
        for (size_t more = 1; cut == 0 && begin + (more + 2) * JOB_BYTES < document->n; more++) { /* none near: further on */
            cut = hd_scan_safe_cut(document->text, begin + more * JOB_BYTES, begin + (more + 1) * JOB_BYTES);
        }
        if (cut == 0) { break; }
        HD_TRY(add_job(b, d, d + 1, begin, cut, err));
        begin = cut;
    }
    HD_TRY(add_job(b, d, d + 1, begin, document->n, err));
out:
    return st;
}

static hd_status make_jobs(batch *b, size_t n_document, hd_err *err)
{
    hd_status st = HD_OK;
    size_t first = 0, bytes = 0;
    for (size_t d = 0; d < n_document; d++) {
        bool large = b->documents[d].n >= JOB_BYTES;
        if (d > first && (large || bytes >= JOB_BYTES)) {
            HD_TRY(add_job(b, first, d, 0, b->documents[d - 1].n, err));
            first = d, bytes = 0;
        }
        bytes += b->documents[d].n;
        if (large) {
            HD_TRY(add_parts(b, d, err));
            first = d + 1, bytes = 0;
        }
    }
    if (first < n_document) { HD_TRY(add_job(b, first, n_document, 0, b->documents[n_document - 1].n, err)); }
out:
    return st;
}

static hd_status encode_part(batch *b, thread_state *thread, job *j, size_t d, size_t begin, size_t end, hd_err *err)
{
    hd_status st = HD_OK;
    const hd_tokenizer *t = b->tokenizer;
    const hd_document_text *document = &b->documents[d];
    bool around = (b->flags & HD_ENCODE_ADD_SPECIAL) != 0;
    hd_encode_flags flags = b->flags & ~(unsigned)HD_ENCODE_ADD_SPECIAL;
    if (around && begin == 0) { HD_TRY(hd_ids_append(&j->ids, t->prefix.id, t->prefix.n, err)); }
    HD_TRY(hd_encoder_encode(thread->encoder, document->text + begin, end - begin, flags, &j->ids, err));
    if (end < document->n) { goto out; }
    if (around) { HD_TRY(hd_ids_append(&j->ids, t->suffix.id, t->suffix.n, err)); }
    b->ends[d] = j->ids.n;
out:
    return st;
}

static void do_job(void *arg, int64_t i, int thread)
{
    batch *b = arg;
    job *j = &b->job[i];
    thread_state *t = &b->thread[thread];
    if (t->st == HD_OK && t->encoder == NULL) { t->st = hd_encoder_open(b->tokenizer, &t->encoder, &t->err); }
    for (size_t d = j->first; d < j->last && t->st == HD_OK; d++) {
        bool part = j->last == j->first + 1;
        t->st = encode_part(b, t, j, d, part ? j->begin : 0, part ? j->end : b->documents[d].n, &t->err);
    }
}

static hd_status join(batch *b, hd_ids *ids, hd_err *err)
{
    hd_status st = HD_OK;
    for (size_t i = 0; i < b->n_job; i++) {
        job *j = &b->job[i];
        size_t before = ids->n;
        HD_TRY(hd_ids_append(ids, j->ids.id, j->ids.n, err));
        for (size_t d = j->first; d < j->last; d++) {
            if (d + 1 < j->last || j->end == b->documents[d].n) { b->ends[d] += before; }
        }
        hd_ids_free(&j->ids);
    }
out:
    return st;
}

hd_status hd_tokenizer_encode_documents(const hd_tokenizer *tokenizer, const hd_document_text *documents, size_t n_document,
                                        hd_encode_flags flags, int n_threads, hd_ids *ids, size_t *ends, hd_err *err)
{
    hd_status st = HD_OK;
    batch b = {.tokenizer = tokenizer, .documents = documents, .flags = flags, .ends = ends};
    n_threads = n_threads < 1 ? 1 : n_threads > MAX_THREADS ? MAX_THREADS : n_threads;
    HD_TRY(hd_alloc((size_t)n_threads, sizeof *b.thread, "encoders", (void **)&b.thread, err));
    HD_TRY(make_jobs(&b, n_document, err));
    hd_parallel_for(n_threads, (int64_t)b.n_job, do_job, &b);
    for (int i = 0; i < n_threads; i++) {
        if (b.thread[i].st != HD_OK) {
            st = b.thread[i].st;
            if (err != NULL) { *err = b.thread[i].err; }
            goto out;
        }
    }
    HD_TRY(join(&b, ids, err));
out:
    for (size_t i = 0; i < b.n_job; i++) { hd_ids_free(&b.job[i].ids); }
    for (int i = 0; b.thread != NULL && i < n_threads; i++) { hd_encoder_close(b.thread[i].encoder); }
    hd_free(b.thread);
    hd_free(b.job);
    return st;
}
