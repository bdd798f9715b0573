/* A bounded queue between a producer and the thread that writes.  See write_queue.h. */
#include "checkpoint/write_queue.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "base/alloc.h"

enum { MAX_ITEMS = 2 * HD_QUEUE_BUFFERS };

/* A window, or (buffer NULL) the end of a file: finished, or (path NULL) given up. */
typedef struct item {
    hd_file *file;
    unsigned char *buffer;
    size_t n;
    int64_t offset;
    char *path, *final_path;
} item;

struct hd_write_queue {
    size_t buffer_bytes;
    pthread_t thread;
    pthread_mutex_t mutex;   /* guards all that follows */
    pthread_cond_t changed;
    unsigned char *free_buffers[HD_QUEUE_BUFFERS];
    int n_free;
    item items[MAX_ITEMS];   /* a ring */
    int first, n;
    bool closing, busy;
    int64_t written;
    hd_status result;
    hd_err error;
};

/* ---- the writer ---------------------------------------------------------------------------------------------------- */

static hd_status finish_file(item *it, hd_err *err)
{
    hd_status st = hd_io_sync(it->file, err);
    if (st == HD_OK) { st = hd_io_close(&it->file, err); }
    if (st == HD_OK) { st = hd_io_rename(it->path, it->final_path, err); }
    return st;
}

static hd_status write_item(item *it, hd_err *err)
{
    if (it->buffer == NULL) { return it->path != NULL ? finish_file(it, err) : HD_OK; }
    hd_status st = hd_io_pwrite(it->file, it->buffer, it->n, it->offset, err);
    if (st == HD_OK) { hd_io_start_writeback(it->file, it->offset, it->n); }
    return st;
}

static void release(hd_write_queue *q, item *it)
{
    if (it->buffer != NULL) {
        q->free_buffers[q->n_free++] = it->buffer;
    } else {
        hd_io_abandon(&it->file);
        hd_free(it->path);
        hd_free(it->final_path);
    }
}

static void *work(void *arg)
{
    hd_write_queue *q = arg;
    pthread_mutex_lock(&q->mutex);
    for (;;) {
        while (q->n == 0 && !q->closing) { pthread_cond_wait(&q->changed, &q->mutex); }
        if (q->n == 0) { break; }
        item it = q->items[q->first];
        q->first = (q->first + 1) % MAX_ITEMS;
        q->n--;
        bool good = q->result == HD_OK; /* after a failure items are only released */
        pthread_mutex_unlock(&q->mutex);
        hd_err err = {0};
        hd_status st = good ? write_item(&it, &err) : HD_OK;
        pthread_mutex_lock(&q->mutex);
        if (st != HD_OK) {
            q->result = st;
            q->error = err;
        } else if (good && it.buffer != NULL) {
            q->written += (int64_t)it.n;
        }
        release(q, &it);
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->mutex);
    return NULL;
}

/* ---- the producer's side -------------------------------------------------------------------------------------------- */

static hd_status failure(const hd_write_queue *q, hd_err *err)
{
    if (q->result != HD_OK && err != NULL) { *err = q->error; }
    return q->result;
}

static void free_queue(hd_write_queue *q)
{
    for (int i = 0; i < q->n_free; i++) { hd_free(q->free_buffers[i]); }
    pthread_mutex_destroy(&q->mutex);
    pthread_cond_destroy(&q->changed);
    hd_free(q);
}

hd_status hd_write_queue_open(size_t buffer_bytes, hd_write_queue **out, hd_err *err)
{
    hd_status st;
    void *memory = NULL;
    *out = NULL;
    HD_TRY(hd_alloc(1, sizeof **out, "write queue", &memory, err));
    hd_write_queue *q = memory;
    q->buffer_bytes = buffer_bytes;
    pthread_mutex_init(&q->mutex, NULL);
    pthread_cond_init(&q->changed, NULL);
    for (int i = 0; i < HD_QUEUE_BUFFERS && st == HD_OK; i++) {
        st = hd_alloc(buffer_bytes, 1, "window of a file", &memory, err);
        if (st == HD_OK) { q->free_buffers[q->n_free++] = memory; }
    }
    if (st == HD_OK && pthread_create(&q->thread, NULL, work, q) != 0) {
        st = HD_FAIL(err, HD_E_NOMEM, "a thread that writes files could not be started");
    }
    if (st != HD_OK) {
        free_queue(q);
        goto out;
    }
    *out = q;
out:
    return st;
}

hd_status hd_write_queue_close(hd_write_queue *q, hd_err *err)
{
    if (q == NULL) { return HD_OK; }
    pthread_mutex_lock(&q->mutex);
    q->closing = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->mutex);
    pthread_join(q->thread, NULL);
    hd_status st = failure(q, err);
    free_queue(q);
    return st;
}

size_t hd_write_queue_buffer_bytes(const hd_write_queue *q) { return q->buffer_bytes; }

hd_status hd_write_queue_take(hd_write_queue *q, unsigned char **buffer, hd_err *err)
{
    pthread_mutex_lock(&q->mutex);
    while (q->n_free == 0 && q->result == HD_OK) { pthread_cond_wait(&q->changed, &q->mutex); }
    hd_status st = failure(q, err);
    *buffer = st == HD_OK ? q->free_buffers[--q->n_free] : NULL;
    pthread_mutex_unlock(&q->mutex);
    return st;
}

void hd_write_queue_drop(hd_write_queue *q, unsigned char *buffer)
{
    if (buffer == NULL) { return; }
    pthread_mutex_lock(&q->mutex);
    q->free_buffers[q->n_free++] = buffer;
    pthread_mutex_unlock(&q->mutex);
}

/* Windows are bounded by the buffers, ends of files by the room that is left for them. */
static hd_status append(hd_write_queue *q, const item *it, hd_err *err)
{
    pthread_mutex_lock(&q->mutex);
    while (q->n == MAX_ITEMS && q->result == HD_OK) { pthread_cond_wait(&q->changed, &q->mutex); }
    hd_status st = failure(q, err);
    if (st == HD_OK) {
        q->items[(q->first + q->n++) % MAX_ITEMS] = *it;
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->mutex);
    return st;
}

hd_status hd_write_queue_put(hd_write_queue *q, hd_file *file, unsigned char *buffer, size_t n, int64_t offset, hd_err *err)
{
    item it = {.file = file, .buffer = buffer, .n = n, .offset = offset};
    hd_status st = append(q, &it, err);
    if (st != HD_OK) { hd_write_queue_drop(q, buffer); }
    return st;
}

void hd_write_queue_abandon(hd_write_queue *q, hd_file *file)
{
    item it = {.file = file};
    if (file != NULL && append(q, &it, NULL) != HD_OK) { hd_io_abandon(&it.file); } /* a failed queue writes no more */
}

hd_status hd_write_queue_finish(hd_write_queue *q, hd_file *file, const char *path, const char *final_path, hd_err *err)
{
    hd_status st;
    item it = {.file = file};
    HD_TRY(hd_strdup(path, &it.path, err));
    HD_TRY(hd_strdup(final_path, &it.final_path, err));
    st = append(q, &it, err);
out:
    if (st != HD_OK) {
        hd_free(it.path);
        hd_free(it.final_path);
        hd_write_queue_abandon(q, file);
    }
    return st;
}

int64_t hd_write_queue_written(hd_write_queue *q)
{
    pthread_mutex_lock(&q->mutex);
    int64_t written = q->written;
    pthread_mutex_unlock(&q->mutex);
    return written;
}
