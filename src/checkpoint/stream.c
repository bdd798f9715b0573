/* Weights on demand.  See stream.h. */
#include "checkpoint/stream.h"

#include "base/alloc.h"
#include "checkpoint/folder.h"
#include "checkpoint/load.h"
#include "checkpoint/model_tensors.h"
#include "checkpoint/scan.h"
#include "checkpoint/source.h"

struct hd_ckpt_stream {
    hd_folder folder;
    hd_source source;
    unsigned char *piece;      /* HD_LOAD_PIECE f32 values */
    hd_model_tensors tensors;  /* of the attached model */
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
    hd_model_tensors_free(&s->tensors);
    hd_free(s);
}

/* ---- reading ------------------------------------------------------------------------------------------------------- */

static hd_status read_weight(void *context, int64_t param, int64_t expert, hd_exec *ex, hd_tensor *to, hd_err *err)
{
    hd_ckpt_stream *s = context;
    return hd_model_tensor_upload(&s->source, &s->tensors.rows[s->tensors.first[param] + (expert > 0 ? expert : 0)], ex, s->piece, to, err);
}

/* ---- attaching ----------------------------------------------------------------------------------------------------- */

/* BF16 where all tensors of a parameter are. */
static void narrow(const hd_ckpt_stream *s, hd_model *model)
{
    for (int64_t p = 0; p < model->n_param; p++) {
        hd_tensor *value = &model->params[p].weight.value;
        const hd_source_tensor *rows = &s->tensors.rows[s->tensors.first[p]];
        bool bf16 = !model->params[p].spec->keep_f32;
        for (int64_t i = 0; i < hd_param_matrices(&model->params[p]); i++) { bf16 = bf16 && rows[i].dtype == HD_DTYPE_BF16; }
        if (bf16) { value->dtype = HD_DTYPE_BF16; }
    }
}

hd_status hd_ckpt_stream_attach(hd_ckpt_stream *s, hd_model *model, hd_exec *ex, hd_arena *arena, hd_err *err)
{
    hd_status st = hd_model_tensors_find(&s->folder, model, &s->tensors, err);
    if (st != HD_OK) { return st; }
    narrow(s, model);
    s->hook = (hd_weight_stream){.read = read_weight, .context = s, .ex = ex, .arena = arena};
    hd_model_set_stream(model, &s->hook);
    return HD_OK;
}
