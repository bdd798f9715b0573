/* Documents into rows: every position exactly once per epoch, packing by next fit, seekable, repeatable. */
#include "data/pieces.h"
#include "support/test.h"

#include "base/alloc.h"

enum { N_DOC = 57, MAX_LENGTH = 70 };

static void random_lengths(int64_t length[N_DOC], const char *name)
{
    int32_t draw[N_DOC];
    hd_gen_below_i32(name, MAX_LENGTH, draw, N_DOC);
    for (int d = 0; d < N_DOC; d++) { length[d] = draw[d]; }
}

/* Marks the positions of one epoch's rows; each row fits, no position is seen twice. */
static void walk_epoch(hd_pieces *p, int64_t first_row, int8_t seen[N_DOC][MAX_LENGTH])
{
    memset(seen, 0, sizeof(int8_t[N_DOC][MAX_LENGTH]));
    assert_int_equal(hd_pieces_seek(p, first_row, 0), 0);
    int64_t n_row = p->n_row;
    for (int64_t r = 0; r < n_row; r++) {
        int64_t used = 0;
        assert_int_equal(hd_pieces_seek(p, first_row + r, 0), r);
        assert_true(p->row_begin[r] < p->row_begin[r + 1]);
        for (uint32_t i = p->row_begin[r]; i < p->row_begin[r + 1]; i++) {
            hd_piece piece = p->piece[p->order[i]];
            uint32_t n = p->length[p->order[i]];
            used += n;
            for (uint32_t k = 0; k < n; k++) {
                int64_t position = (int64_t)piece.index * p->row_length + k;
                assert_true(position < MAX_LENGTH);
                assert_int_equal(seen[piece.document][position]++, 0);
            }
        }
        assert_true(used <= p->row_length);
        if (!p->packing) { assert_int_equal(p->row_begin[r + 1] - p->row_begin[r], 1); }
        if (p->max_segments > 0) { assert_true(p->row_begin[r + 1] - p->row_begin[r] <= p->max_segments); }
    }
}

static void every_position_comes_once_per_epoch(void **state)
{
    (void)state;
    static int8_t seen[N_DOC][MAX_LENGTH];
    int64_t length[N_DOC];
    hd_err err = {0};
    random_lengths(length, "lengths");
    const int64_t row_lengths[] = {1, 2, 7, 16, 64, 100};
    for (size_t i = 0; i < sizeof row_lengths / sizeof *row_lengths; i++) {
        for (int variant = 0; variant < 4; variant++) {
            hd_pieces p;
            assert_ok(hd_pieces_open(length, N_DOC, row_lengths[i], variant != 1, variant == 2 ? 2 : -1, variant != 3, 9, &p, &err));
            int64_t first = 0;
            for (int epoch = 0; epoch < 3; epoch++) {
                walk_epoch(&p, first, seen);
                first += p.n_row;
                for (int d = 0; d < N_DOC; d++) {
                    for (int64_t k = 0; k < MAX_LENGTH; k++) { assert_int_equal(seen[d][k], k < length[d] - 1); }
                }
            }
            hd_pieces_close(&p);
        }
    }
}

static void next_fit_is_exact(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_pieces p;
    const int64_t length[] = {4, 3, 6, 1, 12, 2}; /* positions 3 2 5 0 11 1; T = 5 cuts 11 into 5 5 1 */
    const uint32_t want[] = {0, 2, 3, 4, 5, 7};   /* rows: 3+2 | 5 | 5 | 5 | 1+1 */
    assert_ok(hd_pieces_open(length, 6, 5, true, -1, false, 0, &p, &err));
    assert_int_equal(p.n_piece, 7);
    assert_int_equal(p.n_row, 5);
    assert_memory_equal(p.row_begin, want, sizeof want);
    hd_pieces_close(&p);
}

static void an_order_depends_on_seed_and_epoch_alone(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_pieces a, b, c;
    int64_t length[N_DOC];
    random_lengths(length, "lengths");
    assert_ok(hd_pieces_open(length, N_DOC, 16, true, -1, true, 3, &a, &err));
    assert_ok(hd_pieces_open(length, N_DOC, 16, true, -1, true, 3, &b, &err));
    assert_ok(hd_pieces_open(length, N_DOC, 16, true, -1, true, 4, &c, &err));
    size_t bytes = (size_t)a.n_piece * sizeof *a.order;
    assert_memory_not_equal(a.order, c.order, bytes);
    assert_true(hd_pieces_seek(&a, 2 * a.n_row + 9, 0) >= 0);
    for (int64_t g = 0; g < 2 * a.n_row; g++) { assert_true(hd_pieces_seek(&b, g, 0) >= 0); }
    int64_t far = a.epoch_first_row;
    assert_int_equal(hd_pieces_seek(&b, far, 0), 0);
    assert_int_equal(a.epoch, b.epoch);
    assert_memory_equal(a.order, b.order, bytes);
    assert_int_equal(hd_pieces_seek(&a, 0, 0), 0); /* back again */
    assert_int_equal(hd_pieces_seek(&c, 0, 0), 0);
    assert_int_equal(a.epoch, 0);
    hd_pieces_close(&a);
    hd_pieces_close(&b);
    hd_pieces_close(&c);
}

static void data_ends_after_n_epochs(void **state)
{
    (void)state;
    hd_err err = {0};
    hd_pieces p;
    const int64_t length[] = {9, 9};
    assert_ok(hd_pieces_open(length, 2, 8, true, -1, true, 0, &p, &err));
    assert_int_equal(hd_pieces_seek(&p, 3, 2), 1);
    assert_int_equal(hd_pieces_seek(&p, 4, 2), -1);
    assert_int_equal(hd_pieces_seek(&p, 4, -1), 0);
    hd_pieces_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_position_comes_once_per_epoch),
        cmocka_unit_test(next_fit_is_exact),
        cmocka_unit_test(an_order_depends_on_seed_and_epoch_alone),
        cmocka_unit_test(data_ends_after_n_epochs),
    };
    return cmocka_run_group_tests_name("data/pieces", tests, NULL, NULL);
}
