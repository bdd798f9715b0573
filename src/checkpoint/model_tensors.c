/* From parameters to a folder's tensors.  See model_tensors.h. */
#include "checkpoint/model_tensors.h"

#include "base/alloc.h"
#include "checkpoint/hf_map.h"
#include "checkpoint/load.h"

void hd_model_tensors_free(hd_model_tensors *t)
{
    hd_free(t->rows);
    hd_free(t->first);
    *t = (hd_model_tensors){0};
}

int64_t hd_param_matrices(const hd_param *param) { return hd_tensor_per_expert(param->spec) ? param->weight.value.shape[0] : 1; }

static hd_status find(const hd_folder *folder, const hd_model *model, const hd_hf_ref *ref, hd_source_tensor *t, hd_err *err)
{
    hd_status st = HD_OK;
    char name[HD_HF_NAME_MAX];
    hd_hf_ref master = *ref;
    master.role = HD_HF_MASTER;
    t->place = -1;
    if (model->params[ref->param].weight.value.dtype == HD_DTYPE_F32) {
        HD_TRY(hd_hf_name(model, &master, name, err));
        HD_TRY(hd_source_find(folder, name, t, err));
    }
    if (t->place >= 0) { goto out; }
    HD_TRY(hd_hf_name(model, ref, name, err));
    st = hd_source_find(folder, name, t, err);
out:
    return st;
}

hd_status hd_model_tensors_find(const hd_folder *folder, const hd_model *model, hd_model_tensors *out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    hd_hf_ref *refs = NULL;
    int64_t n;
    hd_model_tensors_free(out);
    HD_TRY(hd_hf_list(model, HD_HF_MODEL, &refs, &n, err));
    HD_TRY(hd_alloc((size_t)n, sizeof *out->rows, "tensors of a model", &memory, err));
    out->rows = memory;
    HD_TRY(hd_alloc((size_t)model->n_param, sizeof *out->first, "tensors of a model", &memory, err));
    out->first = memory;
    for (int64_t i = 0; i < n; i++) {
        if (refs[i].role != HD_HF_WEIGHT) { continue; }
        if (refs[i].expert <= 0) { out->first[refs[i].param] = i; }
        HD_TRY(find(folder, model, &refs[i], &out->rows[i], err));
    }
out:
    hd_free(refs);
    return st;
}

hd_status hd_model_tensor_upload(hd_source *source, const hd_source_tensor *t, hd_exec *ex, void *piece, hd_tensor *to, hd_err *err)
{
    int64_t count = hd_tensor_count(to);
    hd_tensor flat = hd_tensor_reshape(to, 1, &count);
    hd_rect rect = {0};
    while (!ex->dry && hd_rect_next(t, HD_LOAD_PIECE, &rect)) {
        hd_tensor part = hd_tensor_slice(&flat, 0, rect.row * t->columns + rect.column, rect.n_row * rect.n_column);
        hd_status st = hd_source_read(source, t, rect, to->dtype, piece, err);
        if (st == HD_OK) { st = hd_exec_upload(ex, piece, &part, err); }
        if (st != HD_OK) { return st; }
    }
    return HD_OK;
}
