/* Logits, loss, every gradient tensor and ten AdamW steps against HuggingFace transformers, with the kernels of this machine: every
 * strategy, both attentions, activations kept and computed again, loss chunks that divide nothing. */
#include "model/golden_check.h"

static const hd_remat keep_all = {true, true, true, true, true, true, true, true, true, true};

static void test_grouped(void **state) { (void)state; each_model(NULL, HD_MOE_GROUPED, NULL, HD_ATTENTION_FLASH); }
static void test_dot_product(void **state) { (void)state; each_model(NULL, HD_MOE_GROUPED, &keep_all, HD_ATTENTION_DOT_PRODUCT); }
static void test_ragged(void **state) { (void)state; each_model(NULL, HD_MOE_RAGGED, &keep_all, HD_ATTENTION_FLASH); }
static void test_dense(void **state) { (void)state; each_model(NULL, HD_MOE_DENSE, NULL, HD_ATTENTION_FLASH); }
static void test_dense_kept(void **state) { (void)state; each_model(NULL, HD_MOE_DENSE, &keep_all, HD_ATTENTION_FLASH); }
static void test_roomy(void **state) { (void)state; each_model(NULL, HD_MOE_DROPPING, NULL, HD_ATTENTION_FLASH); }
static void test_steps(void **state) { (void)state; each_model_steps(NULL); }

static void test_loss_chunks(void **state)
{
    (void)state;
    for (int m = 0; m < N_MODEL; m++) {
        golden *gold = golden_open(models[m]);
        hd_model_options o = options_of(gold, HD_MOE_GROUPED);
        o.row_chunk = 77;
        o.vocab_chunk = 50;
        check_leaf(gold, &o, models[m]);
        golden_close(gold);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouped), cmocka_unit_test(test_dot_product), cmocka_unit_test(test_ragged),
        cmocka_unit_test(test_dense),   cmocka_unit_test(test_dense_kept),  cmocka_unit_test(test_roomy),
        cmocka_unit_test(test_steps),   cmocka_unit_test(test_loss_chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
