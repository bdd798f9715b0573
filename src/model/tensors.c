/* The tensor table and the few questions one can ask it.  See tensors.h.
 * Source of names: HuggingFace deepseek_v2 / deepseek_v3 folders; MaxText's parameter tree. */
#include "model/tensors.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "model/layer.h"

static bool has_q_lora(const hd_dims *d) { return d->q_lora_rank > 0; }
static bool has_no_q_lora(const hd_dims *d) { return d->q_lora_rank == 0; }
static bool has_router_bias(const hd_dims *d) { return d->router_bias; }
static bool has_shared(const hd_dims *d) { return d->n_shared_expert > 0; }
static bool uses_mtp_norm(const hd_dims *d) { return d->mtp_own_norm; }

#define AXES(...) .axes = {__VA_ARGS__}, .n_axis = (int)(sizeof((hd_axis[]){__VA_ARGS__}) / sizeof(hd_axis))
#define SLOT(field) .slot = offsetof(hd_layer, field)
#define GLOBAL(u) .layers = HD_LAYERS_GLOBAL, .unit = HD_UNIT_##u
#define IN(kind, u) .layers = HD_LAYERS_##kind, .unit = HD_UNIT_##u
#define ONES .init = HD_INIT_ONES, .decay = true, .trained = true
#define NORMAL .init = HD_INIT_NORMAL_FAN_IN, .decay = true, .trained = true
#define TRUNCATED .init = HD_INIT_TRUNCATED_FAN_IN, .decay = true, .trained = true
#define L "model.layers.{i}."
#define MOE_BLOCK "{layer}/DeepSeekMoeBlock_0/"

static const hd_tensor_spec table[] = {
    {"model.embed_tokens.weight", "token_embedder/embedding", GLOBAL(EMBEDDING), AXES(HD_AXIS_VOCAB, HD_AXIS_EMBED),
     .init = HD_INIT_EMBEDDING, .decay = true, .trained = true, SLOT(embedding)},

    {L "self_attn.q_proj.weight", "{layer}/self_attention/query/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_Q_HEADS, HD_AXIS_EMBED), NORMAL, .present = has_no_q_lora, SLOT(q_proj)},
    {L "self_attn.q_a_proj.weight", "{layer}/self_attention/wq_a/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_Q_LORA, HD_AXIS_EMBED), NORMAL, .present = has_q_lora, SLOT(q_a_proj)},
    {L "self_attn.q_a_layernorm.weight", "{layer}/self_attention/q_norm/scale", IN(ALL, ATTENTION),
     AXES(HD_AXIS_Q_LORA), ONES, .present = has_q_lora, SLOT(q_a_norm)},
    {L "self_attn.q_b_proj.weight", "{layer}/self_attention/wq_b/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_Q_HEADS, HD_AXIS_Q_LORA), NORMAL, .present = has_q_lora, SLOT(q_b_proj)},
    {L "self_attn.kv_a_proj_with_mqa.weight", "{layer}/self_attention/wkv_a/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_KV_LORA_ROPE, HD_AXIS_EMBED), NORMAL, SLOT(kv_a_proj)},
    {L "self_attn.kv_a_layernorm.weight", "{layer}/self_attention/kv_norm/scale", IN(ALL, ATTENTION),
     AXES(HD_AXIS_KV_LORA), ONES, SLOT(kv_a_norm)},
    {L "self_attn.kv_b_proj.weight", "{layer}/self_attention/wkv_b/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_KV_HEADS, HD_AXIS_KV_LORA), NORMAL, SLOT(kv_b_proj)},
    {L "self_attn.o_proj.weight", "{layer}/self_attention/out/kernel", IN(ALL, ATTENTION),
     AXES(HD_AXIS_EMBED, HD_AXIS_V_HEADS), NORMAL, SLOT(o_proj)},

    {L "mlp.gate_proj.weight", "{layer}/mlp/wi_0/kernel", IN(DENSE, DENSE), AXES(HD_AXIS_MLP, HD_AXIS_EMBED), TRUNCATED,
     SLOT(gate_proj)},
    {L "mlp.up_proj.weight", "{layer}/mlp/wi_1/kernel", IN(DENSE, DENSE), AXES(HD_AXIS_MLP, HD_AXIS_EMBED), TRUNCATED,
     SLOT(up_proj)},
    {L "mlp.down_proj.weight", "{layer}/mlp/wo/kernel", IN(DENSE, DENSE), AXES(HD_AXIS_EMBED, HD_AXIS_MLP), TRUNCATED,
     SLOT(down_proj)},

    {L "mlp.gate.weight", MOE_BLOCK "MoeBlock_0/gate/kernel", IN(MOE, EXPERTS), AXES(HD_AXIS_EXPERTS, HD_AXIS_EMBED),
     TRUNCATED, SLOT(router)},
    {L "mlp.gate.e_score_correction_bias", MOE_BLOCK "MoeBlock_0/gate/bias", IN(MOE, EXPERTS), AXES(HD_AXIS_EXPERTS),
     .init = HD_INIT_ZEROS, .keep_f32 = true, .present = has_router_bias, SLOT(router_bias)},
    {L "mlp.experts.{e}.gate_proj.weight", MOE_BLOCK "MoeBlock_0/wi_0", IN(MOE, EXPERTS),
     AXES(HD_AXIS_EXPERTS, HD_AXIS_MOE_MLP, HD_AXIS_EMBED), TRUNCATED, SLOT(expert_gate)},
    {L "mlp.experts.{e}.up_proj.weight", MOE_BLOCK "MoeBlock_0/wi_1", IN(MOE, EXPERTS),
     AXES(HD_AXIS_EXPERTS, HD_AXIS_MOE_MLP, HD_AXIS_EMBED), TRUNCATED, SLOT(expert_up)},
    {L "mlp.experts.{e}.down_proj.weight", MOE_BLOCK "MoeBlock_0/wo", IN(MOE, EXPERTS),
     AXES(HD_AXIS_EXPERTS, HD_AXIS_EMBED, HD_AXIS_MOE_MLP), TRUNCATED, SLOT(expert_down)},
    {L "mlp.shared_experts.gate_proj.weight", MOE_BLOCK "shared_experts/wi_0/kernel", IN(MOE, EXPERTS),
     AXES(HD_AXIS_SHARED_MLP, HD_AXIS_EMBED), TRUNCATED, .present = has_shared, SLOT(shared_gate)},
    {L "mlp.shared_experts.up_proj.weight", MOE_BLOCK "shared_experts/wi_1/kernel", IN(MOE, EXPERTS),
     AXES(HD_AXIS_SHARED_MLP, HD_AXIS_EMBED), TRUNCATED, .present = has_shared, SLOT(shared_up)},
    {L "mlp.shared_experts.down_proj.weight", MOE_BLOCK "shared_experts/wo/kernel", IN(MOE, EXPERTS),
     AXES(HD_AXIS_EMBED, HD_AXIS_SHARED_MLP), TRUNCATED, .present = has_shared, SLOT(shared_down)},

    {L "input_layernorm.weight", "{layer}/pre_self_attention_layer_norm/scale", IN(ALL, ATTENTION), AXES(HD_AXIS_EMBED),
     ONES, SLOT(input_norm)},
    /* Two rows, because the norm is used with the weights after it. */
    {L "post_attention_layernorm.weight", "{layer}/post_self_attention_layer_norm/scale", IN(DENSE, DENSE),
     AXES(HD_AXIS_EMBED), ONES, SLOT(post_norm)},
    {L "post_attention_layernorm.weight", "{layer}/post_self_attention_layer_norm/scale", IN(MOE, EXPERTS),
     AXES(HD_AXIS_EMBED), ONES, SLOT(post_norm)},

    {L "enorm.weight", "mtp_block/mtp_layer_{m}/mtp_{m}_embedding_norm/scale", IN(MTP, MTP), AXES(HD_AXIS_EMBED), ONES,
     SLOT(mtp_embed_norm)},
    {L "hnorm.weight", "mtp_block/mtp_layer_{m}/mtp_{m}_hidden_state_norm/scale", IN(MTP, MTP), AXES(HD_AXIS_EMBED), ONES,
     SLOT(mtp_hidden_norm)},
    {L "eh_proj.weight", "mtp_block/mtp_layer_{m}/mtp_{m}_projection/kernel", IN(MTP, MTP),
     AXES(HD_AXIS_EMBED, HD_AXIS_EMBED_PAIR), TRUNCATED, SLOT(mtp_proj)},
    {L "shared_head.norm.weight", NULL, IN(MTP, MTP), AXES(HD_AXIS_EMBED), ONES, .used = uses_mtp_norm,
     SLOT(mtp_head_norm)},

    {"model.norm.weight", "decoder/decoder_norm/scale", GLOBAL(HEAD), AXES(HD_AXIS_EMBED), ONES, SLOT(final_norm)},
    {"lm_head.weight", "decoder/logits_dense/kernel", GLOBAL(HEAD), AXES(HD_AXIS_VOCAB, HD_AXIS_EMBED), TRUNCATED, SLOT(head)},
};

const hd_tensor_spec *hd_tensor_table(int *n)
{
    *n = (int)(sizeof table / sizeof table[0]);
    return table;
}

int64_t hd_axis_length(const hd_dims *d, hd_axis axis)
{
    switch (axis) {
    case HD_AXIS_NONE: return 1;
    case HD_AXIS_VOCAB: return d->vocab_size;
    case HD_AXIS_EMBED: return d->hidden_size;
    case HD_AXIS_EMBED_PAIR: return 2 * d->hidden_size;
    case HD_AXIS_Q_HEADS: return d->n_head * (d->qk_nope_head_dim + d->qk_rope_head_dim);
    case HD_AXIS_Q_LORA: return d->q_lora_rank;
    case HD_AXIS_KV_LORA: return d->kv_lora_rank;
    case HD_AXIS_KV_LORA_ROPE: return d->kv_lora_rank + d->qk_rope_head_dim;
    case HD_AXIS_KV_HEADS: return d->n_head * (d->qk_nope_head_dim + d->v_head_dim);
    case HD_AXIS_V_HEADS: return d->n_head * d->v_head_dim;
    case HD_AXIS_MLP: return d->intermediate_size;
    case HD_AXIS_EXPERTS: return d->n_expert;
    case HD_AXIS_MOE_MLP: return d->moe_intermediate_size;
    case HD_AXIS_SHARED_MLP: return d->n_shared_expert * d->moe_intermediate_size;
    }
    return 0;
}

int64_t hd_tensor_spec_count(const hd_dims *dims, const hd_tensor_spec *spec)
{
    int64_t count = 1;
    for (int a = 0; a < spec->n_axis; a++) { count *= hd_axis_length(dims, spec->axes[a]); }
    return count;
}

bool hd_layer_is_moe(const hd_dims *dims, int64_t layer)
{
    return dims->n_expert > 0 && layer >= dims->n_dense_layer;
}

bool hd_tensor_in_layer(const hd_dims *dims, const hd_tensor_spec *spec, int64_t layer)
{
    if (spec->present != NULL && !spec->present(dims)) { return false; }
    if (layer < 0 || spec->layers == HD_LAYERS_GLOBAL) { return layer < 0 && spec->layers == HD_LAYERS_GLOBAL; }
    switch (spec->layers) {
    case HD_LAYERS_ALL: return true;
    case HD_LAYERS_DENSE: return !hd_layer_is_moe(dims, layer);
    case HD_LAYERS_MOE: return hd_layer_is_moe(dims, layer);
    case HD_LAYERS_MTP: return layer >= dims->n_layer;
    case HD_LAYERS_GLOBAL: break;
    }
    return false;
}

/* Copies pattern, replacing each occurrence of key by value. */
static void expand(const char *pattern, const char *key, const char *value, char out[HD_NAME_MAX])
{
    size_t used = 0, key_len = strlen(key), value_len = strlen(value);
    for (const char *p = pattern; *p != '\0';) {
        bool hit = strncmp(p, key, key_len) == 0;
        size_t len = hit ? value_len : 1;
        assert(used + len < HD_NAME_MAX);
        memcpy(out + used, hit ? value : p, len);
        used += len;
        p += hit ? key_len : 1;
    }
    out[used] = '\0';
}

static void expand_number(const char *pattern, const char *key, int64_t number, char out[HD_NAME_MAX])
{
    char text[24];
    (void)snprintf(text, sizeof text, "%lld", (long long)number);
    expand(pattern, key, text, out);
}

void hd_tensor_hf_name(const hd_tensor_spec *spec, int64_t layer, int64_t expert, char name[HD_NAME_MAX])
{
    char with_layer[HD_NAME_MAX];
    expand_number(spec->hf_name, "{i}", layer, with_layer);
    if (expert < 0) {
        memcpy(name, with_layer, strlen(with_layer) + 1);
    } else {
        expand_number(with_layer, "{e}", expert, name);
    }
}

void hd_layer_path(const hd_dims *dims, int64_t layer, bool scanned, char path[HD_NAME_MAX])
{
    bool moe = hd_layer_is_moe(dims, layer);
    const char *kind = moe ? "moe" : "dense";
    if (layer >= dims->n_layer) {
        long long m = (long long)(layer - dims->n_layer + 1);
        (void)snprintf(path, HD_NAME_MAX, "mtp_block/mtp_layer_%lld/mtp_%lld_transformer_layer", m, m);
    } else if (scanned) {
        (void)snprintf(path, HD_NAME_MAX, "decoder/%s_layers", kind);
    } else {
        (void)snprintf(path, HD_NAME_MAX, "decoder/%s_layers_%lld", kind, (long long)(layer - (moe ? dims->n_dense_layer : 0)));
    }
}

void hd_tensor_orbax_path(const hd_dims *dims, const hd_tensor_spec *spec, int64_t layer, bool scanned,
                          char path[HD_NAME_MAX])
{
    char prefix[HD_NAME_MAX] = "", with_layer[HD_NAME_MAX];
    path[0] = '\0';
    if (spec->orbax_path == NULL) { return; }
    if (layer >= 0) { hd_layer_path(dims, layer, scanned, prefix); }
    expand(spec->orbax_path, "{layer}", prefix, with_layer);
    expand_number(with_layer, "{m}", layer - dims->n_layer + 1, path);
}
