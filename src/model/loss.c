/* Final norm, output matrix, cross-entropy with z-loss, and their gradient, in row chunks and vocabulary chunks: the logits of a
 * leaf never exist as a whole.  Shapes: legend in layer.h; n rows of a chunk, Vc columns of a vocabulary chunk.
 *
 * With one vocabulary chunk the logits are made once and become their own gradient; with more, a first pass makes the
 * log-sum-exp and a second makes the logits again, chunk by chunk. */
#include "model/layer.h"
#include "model/weights.h"

enum { LOGITS_BYTES = 32 << 20, MIN_ROWS = 64 };

static int64_t min_i64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t vocab_chunk(const hd_pass *p)
{
    int64_t wanted = p->options->vocab_chunk, v = p->dims->vocab_size;
    return wanted > 0 ? min_i64(wanted, v) : v;
}

static int64_t row_chunk(const hd_pass *p)
{
    int64_t fits = LOGITS_BYTES / (int64_t)sizeof(float) / vocab_chunk(p);
    int64_t rows = fits > MIN_ROWS ? fits : MIN_ROWS;
    return min_i64(p->options->row_chunk > 0 ? p->options->row_chunk : rows, p->n_row);
}

/* A row chunk: views of the rows, and what is made for them. */
typedef struct chunk {
    hd_tensor h, targets, weights;        /* (n, D) act, (n) i32, (n) f32 */
    hd_tensor norm, rstd;                 /* (n, D) act, (n) f32 */
    hd_tensor logits;                     /* (n, Vc) f32 */
    hd_tensor max, sum, target;           /* (n) f32: running */
    hd_tensor part_max, part_sum, part_target; /* (n) f32: of one vocabulary chunk */
    hd_tensor lse;                        /* (n) f32 */
} chunk;

static hd_status open_chunk(hd_pass *p, const hd_loss *loss, const hd_tensor *h, int64_t begin, int64_t n, chunk *c)
{
    hd_status st;
    hd_tensor *vectors[] = {&c->rstd, &c->max, &c->sum, &c->target, &c->part_max, &c->part_sum, &c->part_target, &c->lse};
    c->h = hd_tensor_slice(h, 0, begin, n);
    c->targets = hd_tensor_slice(&loss->targets, 0, begin, n);
    c->weights = hd_tensor_slice(&loss->weights, 0, begin, n);
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) { HD_TRY(hd_pass_vector(p, HD_DTYPE_F32, n, vectors[i])); }
    HD_TRY(hd_pass_new(p, p->options->dtype, n, p->dims->hidden_size, &c->norm));
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, n, vocab_chunk(p), &c->logits));
    HD_TRY(hd_rmsnorm_fwd(p->ex, &c->h, loss->norm, p->dims->rms_norm_eps, &c->norm, &c->rstd, p->err));
out:
    return st;
}

/* The columns v_begin .. of the chunk's logits, at the front of its buffer: (n, length). */
static hd_status make_logits(hd_pass *p, const hd_loss *loss, const chunk *c, int64_t v_begin, int64_t length, hd_tensor *logits)
{
    hd_weight head = hd_weight_rows(loss->head, v_begin, length);
    *logits = hd_tensor_slice(&c->logits, 1, 0, length);
    return hd_linear_fwd(p->ex, &c->norm, &head, HD_SET, logits, p->err);
}

/* lse and the sums; with one vocabulary chunk c->logits holds the logits afterwards. */
static hd_status statistics(hd_pass *p, const hd_loss *loss, chunk *c)
{
    hd_status st;
    int64_t v = p->dims->vocab_size, step = vocab_chunk(p);
    hd_tensor xent = hd_pass_sum(p, loss->sum_xent), z = hd_pass_sum(p, loss->sum_z), logits;
    for (int64_t begin = 0; begin < v; begin += step) {
        bool first = begin == 0;
        HD_TRY(make_logits(p, loss, c, begin, min_i64(step, v - begin), &logits));
        HD_TRY(hd_xent_partial(p->ex, &logits, &c->targets, begin, first ? &c->max : &c->part_max,
                               first ? &c->sum : &c->part_sum, first ? &c->target : &c->part_target, p->err));
        if (first) { continue; }
        HD_TRY(hd_xent_merge(p->ex, &c->part_max, &c->part_sum, &c->part_target, &c->max, &c->sum, &c->target, p->err));
    }
    HD_TRY(hd_xent_finish(p->ex, &c->max, &c->sum, &c->target, &c->weights, loss->z_loss, &c->lse, &xent, &z, p->err));
out:
    return st;
}

/* dlogits in place of the logits of one vocabulary chunk, the head's gradient, dnorm (n, D) f32 (+)=. */
static hd_status backward_columns(hd_pass *p, const hd_loss *loss, const chunk *c, int64_t begin, hd_tensor *logits,
                                  hd_tensor *dnorm)
{
    hd_status st;
    hd_weight head = hd_weight_rows(loss->head, begin, logits->shape[1]);
    HD_TRY(hd_xent_bwd(p->ex, logits, &c->targets, begin, &c->lse, &c->weights, loss->z_loss, loss->scale, logits, p->err));
    HD_TRY(hd_linear_grad(p->ex, logits, &c->norm, &head, p->err));
    HD_TRY(hd_linear_bwd_input(p->ex, logits, &head, begin == 0 ? HD_SET : HD_ADD, dnorm, p->err));
out:
    return st;
}

static hd_status backward_chunk(hd_pass *p, const hd_loss *loss, chunk *c, hd_tensor *dh)
{
    hd_status st;
    int64_t n = c->h.shape[0], v = p->dims->vocab_size, step = vocab_chunk(p);
    hd_tensor dnorm, dnorm_act, logits = c->logits; /* (n, D) f32, (n, D) act */
    HD_TRY(hd_pass_new(p, HD_DTYPE_F32, n, p->dims->hidden_size, &dnorm));
    for (int64_t begin = 0; begin < v; begin += step) {
        if (step < v) { HD_TRY(make_logits(p, loss, c, begin, min_i64(step, v - begin), &logits)); }
        HD_TRY(backward_columns(p, loss, c, begin, &logits, &dnorm));
    }
    hd_grads_written(loss->head);
    dnorm_act = dnorm;
    if (p->options->dtype != HD_DTYPE_F32) {
        HD_TRY(hd_pass_new(p, p->options->dtype, n, p->dims->hidden_size, &dnorm_act));
        HD_TRY(hd_copy(p->ex, &dnorm, &dnorm_act, p->err));
    }
    HD_TRY(hd_rmsnorm_bwd(p->ex, &dnorm_act, &c->h, &c->rstd, loss->norm, HD_SET, dh, p->err));
out:
    return st;
}

hd_status hd_loss_run(hd_pass *p, const hd_loss *loss, const hd_tensor *h, hd_tensor *dh)
{
    hd_status st = HD_OK;
    int64_t rows = row_chunk(p);
    size_t mark = hd_arena_mark(p->step);
    for (int64_t begin = 0; begin < p->n_row; begin += rows) {
        int64_t n = min_i64(rows, p->n_row - begin);
        chunk c;
        HD_TRY(open_chunk(p, loss, h, begin, n, &c));
        HD_TRY(statistics(p, loss, &c));
        if (dh != NULL) {
            hd_tensor dh_rows = hd_tensor_slice(dh, 0, begin, n);
            HD_TRY(backward_chunk(p, loss, &c, &dh_rows));
        }
        hd_arena_release(p->step, mark);
    }
out:
    hd_arena_release(p->step, mark);
    return st;
}
