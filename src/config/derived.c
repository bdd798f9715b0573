/* The mesh and the batch, as MaxText derives them.  See derived.h. */
#include "config/derived.h"

#include <math.h>

#include "base/checked.h"

typedef struct axis_row {
    const char *name;
    hd_config_key ici, dcn;
} axis_row;

static const axis_row axes[HD_MESH_COUNT] = {
    [HD_MESH_DILOCO] = {"diloco", HD_KEY_ici_diloco_parallelism, HD_KEY_dcn_diloco_parallelism},
    [HD_MESH_DATA] = {"data", HD_KEY_ici_data_parallelism, HD_KEY_dcn_data_parallelism},
    [HD_MESH_STAGE] = {"pipeline", HD_KEY_ici_pipeline_parallelism, HD_KEY_dcn_pipeline_parallelism},
    [HD_MESH_FSDP] = {"fsdp", HD_KEY_ici_fsdp_parallelism, HD_KEY_dcn_fsdp_parallelism},
    [HD_MESH_FSDP_TRANSPOSE] = {"fsdp_transpose", HD_KEY_ici_fsdp_transpose_parallelism,
                                HD_KEY_dcn_fsdp_transpose_parallelism},
    [HD_MESH_SEQUENCE] = {"sequence", HD_KEY_ici_sequence_parallelism, HD_KEY_dcn_sequence_parallelism},
    [HD_MESH_CONTEXT] = {"context", HD_KEY_ici_context_parallelism, HD_KEY_dcn_context_parallelism},
    [HD_MESH_CONTEXT_USP_ULYSSES] = {"context_usp_ulysses", HD_KEY_ici_context_usp_ulysses_parallelism,
                                     HD_KEY_dcn_context_usp_ulysses_parallelism},
    [HD_MESH_CONTEXT_AUTOREGRESSIVE] = {"context_autoregressive", HD_KEY_ici_context_autoregressive_parallelism,
                                        HD_KEY_dcn_context_autoregressive_parallelism},
    [HD_MESH_TENSOR] = {"tensor", HD_KEY_ici_tensor_parallelism, HD_KEY_dcn_tensor_parallelism},
    [HD_MESH_TENSOR_SEQUENCE] = {"tensor_sequence", HD_KEY_ici_tensor_sequence_parallelism,
                                 HD_KEY_dcn_tensor_sequence_parallelism},
    [HD_MESH_EXPERT] = {"expert", HD_KEY_ici_expert_parallelism, HD_KEY_dcn_expert_parallelism},
    [HD_MESH_AUTOREGRESSIVE] = {"autoregressive", HD_KEY_ici_autoregressive_parallelism,
                                HD_KEY_dcn_autoregressive_parallelism},
};

const char *hd_mesh_axis_name(hd_mesh_axis axis) { return axes[axis].name; }

hd_config_key hd_axis_key(hd_mesh_axis axis, bool between_slices) { return between_slices ? axes[axis].dcn : axes[axis].ici; }

hd_status hd_mesh_solve(const char *what, int64_t degree[HD_MESH_COUNT], int64_t n_devices, int64_t *product, hd_err *err)
{
    int unknown = -1;
    int64_t known = 1;
    for (int a = 0; a < HD_MESH_COUNT; a++) {
        if (degree[a] == -1 && unknown >= 0) {
            return HD_FAIL(err, HD_E_CONFIG, "%s mesh: the %s and %s degrees are both -1; at most one may be left open", what,
                           axes[unknown].name, axes[a].name);
        }
        if (degree[a] == -1) {
            unknown = a;
        } else if (!hd_i64_mul(known, degree[a], &known) || known > INT32_MAX) {
            return HD_FAIL(err, HD_E_CONFIG, "%s mesh: the product of the degrees is beyond 2^31", what);
        }
    }
    if (unknown >= 0 && n_devices > 0 && n_devices % known != 0) {
        return HD_FAIL(err, HD_E_CONFIG, "%s mesh: %lld devices cannot be divided by %lld, the product of the explicit degrees",
                       what, (long long)n_devices, (long long)known);
    }
    if (unknown >= 0) {
        degree[unknown] = n_devices > 0 ? n_devices / known : 1;
        known *= degree[unknown];
    }
    if (n_devices > 0 && known != n_devices) {
        return HD_FAIL(err, HD_E_CONFIG, "%s mesh: the product of the degrees is %lld, and there are %lld devices", what,
                       (long long)known, (long long)n_devices);
    }
    *product = known;
    return HD_OK;
}

/* int(x) of Python, for a product that must fit; false otherwise. */
static bool whole(double x, int64_t *out)
{
    if (!(x >= 0 && x < 9007199254740992.0)) { return false; }
    *out = (int64_t)x;
    return true;
}

hd_status hd_batch_rows_of(int64_t n_devices, double per_device, int64_t accumulation, double expansion, hd_batch_rows *out,
                           hd_err *err)
{
    double n = (double)n_devices, e = expansion <= 0 ? 1 : expansion;
    int64_t load;
    if (!whole(per_device < 1 ? n * e : n * per_device * e, &load) || !whole(n * per_device, &out->micro) ||
        !hd_i64_mul(load, accumulation, &out->load) || !hd_i64_mul(out->micro, accumulation, &out->train)) {
        return HD_FAIL(err, HD_E_CONFIG, "%g sequences per device on %lld devices, accumulated %lld times, are beyond 2^53",
                       per_device, (long long)n_devices, (long long)accumulation);
    }
    if (out->micro < 1) {
        return HD_FAIL(err, HD_E_CONFIG,
                       "per_device_batch_size=%g on %lld devices makes no whole sequence; want at least %g", per_device,
                       (long long)n_devices, 1.0 / n);
    }
    return HD_OK;
}

/* Reads one mesh's degrees. */
static void read_degrees(const hd_config *config, bool between_slices, int64_t degree[HD_MESH_COUNT])
{
    for (int a = 0; a < HD_MESH_COUNT; a++) { degree[a] = hd_config_int(config, hd_axis_key((hd_mesh_axis)a, between_slices)); }
}

hd_status hd_run_shape_of(const hd_config *config, int64_t n_devices, hd_run_shape *out, hd_err *err)
{
    hd_status st = HD_OK;
    int64_t between[HD_MESH_COUNT], n_slices;
    *out = (hd_run_shape){0};
    read_degrees(config, true, between);
    HD_TRY(hd_mesh_solve("DCN", between, 0, &n_slices, err));
    if (n_slices != 1) {
        st = HD_FAIL(err, HD_E_CONFIG,
                     "DCN mesh: the product of the dcn_*_parallelism degrees is %lld, and all ranks count as one slice; use "
                     "ici_data_parallelism",
                     (long long)n_slices);
        goto out;
    }
    read_degrees(config, false, out->degree);
    HD_TRY(hd_mesh_solve("ICI", out->degree, n_devices, &out->n_devices, err));
    out->accumulation = hd_config_int(config, HD_KEY_gradient_accumulation_steps);
    out->sequence_len = hd_config_int(config, HD_KEY_max_target_length);
    double expansion = hd_config_float(config, HD_KEY_expansion_factor_real_data);
    double train_rows = hd_config_float(config, HD_KEY_per_device_batch_size);
    double eval_rows = hd_config_float(config, HD_KEY_eval_per_device_batch_size);
    HD_TRY(hd_batch_rows_of(out->n_devices, train_rows, out->accumulation, expansion, &out->train, err));
    HD_TRY(hd_batch_rows_of(out->n_devices, eval_rows > 0 ? eval_rows : train_rows, 1, expansion, &out->eval, err));
out:
    return st;
}
