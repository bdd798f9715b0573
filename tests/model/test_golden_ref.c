/* The reference backend against HuggingFace transformers: the link of the chain of trust that shares no kernel with the others. */
#include "model/golden_check.h"

static void test_leaf(void **state) { (void)state; each_model("all=ref", HD_MOE_GROUPED, NULL, HD_ATTENTION_DOT_PRODUCT); }
static void test_steps(void **state) { (void)state; each_model_steps("all=ref"); }

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_leaf), cmocka_unit_test(test_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
