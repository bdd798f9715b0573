/* Which instruction set the kernels of this folder run with: the best that cpuid reports, or the one HADAL_FORCE names
 * when the machine has it.  Compiled once, without -march. */
#include <string.h>

#include "base/env.h"
#include "ops/force.h"

typedef struct isa_row {
    const char *name;
    int level; /* a machine of level L runs every row of a level up to L */
    void (*install[10])(hd_ops *ops);
} isa_row;

#define HD_ISA_INSTALLERS(isa)                                                                                    \
    void hd_cpu_linear_install_##isa(hd_ops *ops);                                                                \
    void hd_cpu_attention_install_##isa(hd_ops *ops);                                                             \
    void hd_cpu_norm_install_##isa(hd_ops *ops);                                                                  \
    void hd_cpu_mlp_install_##isa(hd_ops *ops);                                                                   \
    void hd_cpu_latent_install_##isa(hd_ops *ops);                                                               \
    void hd_cpu_moe_install_##isa(hd_ops *ops);                                                                   \
    void hd_cpu_loss_install_##isa(hd_ops *ops);                                                                  \
    void hd_cpu_optimizer_install_##isa(hd_ops *ops);                                                             \
    void hd_cpu_elementwise_install_##isa(hd_ops *ops);                                                           \
    void hd_cpu_peak_install_##isa(hd_ops *ops);

#define HD_ISA_ROW(isa, isa_level)                                                                                \
    {#isa, isa_level,                                                                                             \
     {hd_cpu_linear_install_##isa, hd_cpu_attention_install_##isa, hd_cpu_norm_install_##isa,                     \
      hd_cpu_mlp_install_##isa, hd_cpu_moe_install_##isa, hd_cpu_loss_install_##isa,                              \
      hd_cpu_optimizer_install_##isa, hd_cpu_elementwise_install_##isa, hd_cpu_peak_install_##isa,                    \
      hd_cpu_latent_install_##isa}}

HD_ISA_INSTALLERS(base)
#if defined(__x86_64__)
HD_ISA_INSTALLERS(avx2)
HD_ISA_INSTALLERS(avx512)
#endif

/* Best first. */
static const isa_row isas[] = {
#if defined(__x86_64__)
    HD_ISA_ROW(avx512, 4),
    HD_ISA_ROW(avx2, 3),
#endif
    HD_ISA_ROW(base, 1),
};

/* The x86-64 microarchitecture level of this CPU: all features that -march=x86-64-v3 or -v4 may use. */
static int machine_level(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    /* what AVX2 machines also have (f16c, lzcnt, movbe) is not asked for: clang's builtin does not know the names */
    bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
              __builtin_cpu_supports("bmi2");
    bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("avx512vl");
    return v4 ? 4 : v3 ? 3 : 1;
#else
    return 1;
#endif
}

static const isa_row *choose_isa(int level, const char *wanted)
{
    const int n = (int)(sizeof isas / sizeof isas[0]);
    const isa_row *best = NULL;
    for (int i = n - 1; i >= 0; i--) {
        if (isas[i].level > level) { continue; }
        if (strcmp(isas[i].name, wanted) == 0) { return &isas[i]; }
        best = &isas[i];
    }
    return best;
}

const char *hd_ops_install_cpu(hd_ops *ops)
{
    char wanted[16];
    hd_force_isa(hd_env(HD_ENV_FORCE), wanted);
    const isa_row *isa = choose_isa(machine_level(), wanted);
    for (size_t i = 0; i < sizeof isa->install / sizeof isa->install[0]; i++) { isa->install[i](ops); }
    return isa->name;
}
