/* Weights on demand.  See stream.h. */
#include "checkpoint/stream.h"

#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "checkpoint/folder.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/load.h"
#include "checkpoint/scan.h"
#include "checkpoint/source.h"

struct hd_ckpt_stream {
    hd_folder folder;
    hd_source source;
    unsigned char *piece;      /* HD_LOAD_PIECE f32 values */
    hd_source_tensor *tensors; /* of the attached model, in the order of hd_hf_list */
    int64_t *first;            /* of each param: its tensor, of expert 0 when it has experts */
    hd_weight_stream hook;
};

/* ---- opening ------------------------------------------------------------------------------------------------------- */

typedef struct open_args {
    const hd_dims *dims;
    hd_ckpt_stream *stream;
} open_args;

static hd_status open_from(void *arg, const char *path, int64_t step, hd_err *err)
{
    hd_status st;
    open_args *a = arg;
    HD_TRY(hd_folder_open(path, step, &a->stream->folder, err));
    st = hd_load_check(&a->stream->folder, a->dims, err);
out:
    if (st != HD_OK) { hd_folder_close(&a->stream->folder); }
    return st;
}

hd_status hd_ckpt_stream_open(const char *path, const hd_dims *dims, hd_ckpt_stream **out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof **out, "stream of weights", &memory, err));
    hd_ckpt_stream *s = memory;
    open_args args = {dims, s};
    st = hd_scan_path(path, open_from, &args, err);
    if (st == HD_OK) { st = hd_source_open(&s->folder, &s->source, err); }
    if (st == HD_OK) { st = hd_alloc(HD_LOAD_PIECE, sizeof(float), "staging of weights", &memory, err); }
    if (st != HD_OK) {
        hd_ckpt_stream_close(s);
        goto out;
    }
    s->piece = memory;
    *out = s;
out:
    return st;
}

void hd_ckpt_stream_close(hd_ckpt_stream *s)
{
    if (s == NULL) { return; }
    hd_source_close(&s->source);
    hd_folder_close(&s->folder);
    hd_free(s->piece);
    hd_free(s->tensors);
    hd_free(s->first);
    hd_free(s);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static hd_status read_weight(void *context, int64_t param, int64_t expert, hd_exec *ex, hd_tensor *to, hd_err *err)
{
    hd_ckpt_stream *s = context;
    const hd_source_tensor *t = &s->tensors[s->first[param] + (expert > 0 ? expert : 0)];
    int64_t count = hd_tensor_count(to);
    hd_tensor flat = hd_tensor_reshape(to, 1, &count);
    hd_rect rect = {0};
    while (!ex->dry && hd_rect_next(t, HD_LOAD_PIECE, &rect)) {
        hd_tensor part = hd_tensor_slice(&flat, 0, rect.row * t->columns + rect.column, rect.n_row * rect.n_column);
        hd_status st = hd_source_read(&s->source, t, rect, to->dtype, s->piece, err);
        if (st == HD_OK) { st = hd_exec_upload(ex, s->piece, &part, err); }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}

/* ---- attaching ----------------------------------------------------------------------------------------------------- */

/* An f32 weight of a training checkpoint is its master, as in a load. */
static hd_status find(hd_ckpt_stream *s, const hd_model *model, const hd_hf_ref *ref, hd_source_tensor *t, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_HF_NAME_MAX];
    hd_hf_ref master = *ref;
    master.role = HD_HF_MASTER;
    t->place = -1;
    if (model->params[ref->param].weight.value.dtype == HD_DTYPE_F32) {
        HD_TRY(hd_hf_name(model, &master, name, err));
        HD_TRY(hd_source_find(&s->folder, name, t, err));
    }
    if (t->place >= 0) { goto out; }
    HD_TRY(hd_hf_name(model, ref, name, err));
    st = hd_source_find(&s->folder, name, t, err);
out:
    return st;
}

static hd_status map_tensors(hd_ckpt_stream *s, const hd_model *model, const hd_hf_ref *refs, int64_t n, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    hd_free(s->tensors);
    hd_free(s->first);
    s->tensors = NULL;
    s->first = NULL;
    HD_TRY(hd_alloc((size_t)n, sizeof *s->tensors, "tensors of a model", &memory, err));
    s->tensors = memory;
    HD_TRY(hd_alloc((size_t)model->n_param, sizeof *s->first, "tensors of a model", &memory, err));
    s->first = memory;
    for (int64_t i = 0; i < n; i++) {
        if (refs[i].role != HD_HF_WEIGHT) { continue; }
        if (refs[i].expert <= 0) { s->first[refs[i].param] = i; }
        HD_TRY(find(s, model, &refs[i], &s->tensors[i], err));
    }
out:
    return st;
}

/* BF16 where all tensors of a parameter are. */
static void narrow(const hd_ckpt_stream *s, hd_model *model)
{
    for (int64_t p = 0; p < model->n_param; p++) {
        hd_tensor *value = &model->params[p].weight.value;
        int64_t n = hd_tensor_per_expert(model->params[p].spec) ? value->shape[0] : 1;
        bool bf16 = !model->params[p].spec->keep_f32;
        for (int64_t i = 0; i < n; i++) { bf16 = bf16 && s->tensors[s->first[p] + i].dtype == HD_DTYPE_BF16; }
        if (bf16) { value->dtype = HD_DTYPE_BF16; }
    }
}

hd_status hd_ckpt_stream_attach(hd_ckpt_stream *s, hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_hf_ref *refs = NULL;
    int64_t n;
    hd_status st = hd_hf_list(model, HD_HF_MODEL, &refs, &n, err);
    if (st == HD_OK) { st = map_tensors(s, model, refs, n, err); }
    hd_free(refs);
    if (st != HD_OK) { return st; }
    narrow(s, model);
    s->hook = (hd_weight_stream){.read = read_weight, .context = s, .ex = ex, .arena = arena};
    hd_model_set_stream(model, &s->hook);
    return HD_OK;
}
