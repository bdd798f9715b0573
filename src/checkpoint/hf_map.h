/* The HuggingFace tensors of a model: every tensor a checkpoint holds is a view of one hd_param.
 *
 * A parameter whose first axis is experts is one tensor per expert.  MTP modules get the copies that the format stores:
 * model.layers.{i}.embed_tokens.weight and shared_head.head.weight.  Optimizer tensors carry the same names after "master.", "mu." and "nu.". */
#ifndef HD_CHECKPOINT_HF_MAP_H
#define HD_CHECKPOINT_HF_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hadal/status.h"
#include "model/model.h"

enum { HD_HF_NAME_MAX = 256 };

typedef enum hd_hf_role { HD_HF_WEIGHT, HD_HF_COPY, HD_HF_MASTER, HD_HF_MU, HD_HF_NU, HD_HF_ROLES } hd_hf_role;

typedef struct hd_hf_ref {
    int64_t param;  /* index into hd_model.params; of a copy: what it copies */
    int32_t expert; /* -1 when the parameter has no expert axis */
    int32_t layer;  /* of a copy: the MTP module's layer; else -1 */
    hd_hf_role role;
} hd_hf_ref;

/* Which roles hd_hf_list lists. */
typedef enum hd_hf_set { HD_HF_MODEL, HD_HF_OPTIMIZER } hd_hf_set;

/* All tensors of a set, in the order of hd_model.params, experts ascending, copies last.  Free *refs with hd_free.
 * The optimizer set has a master where it does not alias the weight, mu and nu where they exist. */
hd_status hd_hf_list(const hd_model *model, hd_hf_set set, hd_hf_ref **refs, int64_t *n, hd_err *err) HD_CHECK_RESULT;

/* HD_E_INVALID when the name does not fit. */
hd_status hd_hf_name(const hd_model *model, const hd_hf_ref *ref, char name[HD_HF_NAME_MAX], hd_err *err) HD_CHECK_RESULT;

/* The tensor with the shape that HuggingFace gives it, contiguous. */
hd_tensor hd_hf_view(const hd_model *model, const hd_hf_ref *ref);

/* Whether a param keeps an f32 master of its own. */
bool hd_param_has_master(const hd_param *param);

/* The layer number in "model.layers.<i>.<rest>", -1 when the name has another form; *rest may be NULL. */
int64_t hd_hf_layer_of(const char *name, const char **rest);

/* The row of the tensor table that a name belongs to (any layer, any expert), of a stored copy that of what it copies; NULL: none. */
const hd_tensor_spec *hd_hf_spec_of(const char *name);

/* Whether a name is that of a stored copy in an MTP module, whose layers begin at n_layer. */
bool hd_hf_is_copy(int64_t n_layer, const char *name);

/* Whether a tensor of a file that no parameter wants may be ignored: rotary_emb.inv_freq of old files, MTP modules when
 * the model has none. */
bool hd_hf_may_ignore(const hd_dims *dims, const char *name);

#endif
