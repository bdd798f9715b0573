/* Windows of files written by a thread of their own, so that reading and converting go on while the disk works.
 *
 * One producer.  Buffers are taken, filled, and put with their place in a file; a finished file is synced, closed and renamed to its
 * final name by the same thread, in order.  The first failure stops the queue: every later call returns it. */
#ifndef HD_CHECKPOINT_WRITE_QUEUE_H
#define HD_CHECKPOINT_WRITE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/io.h"
#include "hadal/status.h"

enum { HD_QUEUE_BUFFERS = 4 };

typedef struct hd_write_queue hd_write_queue;

hd_status hd_write_queue_open(size_t buffer_bytes, hd_write_queue **out, hd_err *err) HD_CHECK_RESULT;

/* Waits for all that was put, stops the thread, frees; the first failure, if it was not returned yet.  Accepts NULL. */
hd_status hd_write_queue_close(hd_write_queue *queue, hd_err *err) HD_CHECK_RESULT;

size_t hd_write_queue_buffer_bytes(const hd_write_queue *queue);

/* A free buffer; waits for one. */
hd_status hd_write_queue_take(hd_write_queue *queue, unsigned char **buffer, hd_err *err) HD_CHECK_RESULT;

/* n bytes of a taken buffer to [offset, offset + n) of file. */
hd_status hd_write_queue_put(hd_write_queue *queue, hd_file *file, unsigned char *buffer, size_t n, int64_t offset,
                             hd_err *err) HD_CHECK_RESULT;

/* Gives back a taken buffer unused. */
void hd_write_queue_drop(hd_write_queue *queue, unsigned char *buffer);

/* After the last window of file: synced, closed (also after a failure), renamed from path to final_path. */
hd_status hd_write_queue_finish(hd_write_queue *queue, hd_file *file, const char *path, const char *final_path, hd_err *err) HD_CHECK_RESULT;

/* Closes file, which stays under its path, once no window of it is waiting.  Accepts NULL. */
void hd_write_queue_abandon(hd_write_queue *queue, hd_file *file);

/* Bytes on their way to the disk so far. */
int64_t hd_write_queue_written(hd_write_queue *queue);

#endif
