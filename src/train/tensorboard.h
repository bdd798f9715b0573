/* TensorBoard event files: TFRecord frames around Event messages (event.proto).
 *
 * The encoders append to a buffer and touch no file, so that a test can compare bytes; the writer puts them into
 * <dir>/events.out.tfevents.<unix seconds>.<host name>. */
#ifndef HD_TRAIN_TENSORBOARD_H
#define HD_TRAIN_TENSORBOARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "hadal/status.h"

typedef struct hd_scalar {
    const char *tag; /* "learning/loss": '/' groups charts */
    double value;    /* stored as f32 */
} hd_scalar;

/* One TFRecord: length, its masked CRC-32C, the data, their masked CRC-32C. */
void hd_tfrecord_append(hd_buf *out, const void *data, size_t n);

/* One framed Event each.  Failures stay in the buffer (hd_buf_check). */
void hd_event_append_version(hd_buf *out, double wall_time);
void hd_event_append_scalars(hd_buf *out, double wall_time, int64_t step, const hd_scalar *scalars, size_t n);
void hd_event_append_text(hd_buf *out, double wall_time, int64_t step, const char *tag, const char *text);

typedef struct hd_tensorboard hd_tensorboard;

/* Creates the folder and a file of its own for this process. */
hd_status hd_tensorboard_open(const char *dir, hd_tensorboard **out, hd_err *err) HD_CHECK_RESULT;
hd_status hd_tensorboard_scalars(hd_tensorboard *tb, int64_t step, const hd_scalar *scalars, size_t n, hd_err *err) HD_CHECK_RESULT;
hd_status hd_tensorboard_text(hd_tensorboard *tb, int64_t step, const char *tag, const char *text, hd_err *err) HD_CHECK_RESULT;

/* Hands what is buffered to the system.  Records are buffered up to a megabyte otherwise. */
hd_status hd_tensorboard_flush(hd_tensorboard *tb, hd_err *err) HD_CHECK_RESULT;
hd_status hd_tensorboard_close(hd_tensorboard *tb, hd_err *err) HD_CHECK_RESULT; /* flushes and frees; accepts NULL */

#endif
