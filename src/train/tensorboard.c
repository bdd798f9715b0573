/* See tensorboard.h.  Formats: spec section E of the checkpoint formats page. */
#include "train/tensorboard.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/crc32c.h"
#include "base/io.h"
#include "base/path.h"
#include "train/event.pb-c.h"

/* Names as protoc-c makes them from event.proto. */
typedef Hadal__Event__Event event_message;
typedef Hadal__Event__Value value_message;

enum { DTYPE_STRING = 7, BUFFER_BYTES = 1 << 20, SCALARS_PER_EVENT = 64 };

/* ---- frames ---------------------------------------------------------------------------------------------------------- */

static void put_le(unsigned char *out, uint64_t value, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) { out[i] = (unsigned char)(value >> (8 * i)); }
}

/* Rotated and offset, so that a checksum of data that holds checksums is no trap. */
static uint32_t masked_crc(const void *data, size_t n)
{
    uint32_t crc = hd_crc32c(0, data, n);
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

/* Room for a record of n bytes, to be filled by the caller, then sealed by end_record. */
static unsigned char *begin_record(hd_buf *out, size_t n)
{
    unsigned char *at = (unsigned char *)hd_buf_reserve(out, 8 + 4 + n + 4);
    return at == NULL ? NULL : at + 12;
}

static void end_record(hd_buf *out, unsigned char *data, size_t n)
{
    unsigned char *head = data - 12;
    put_le(head, n, 8);
    put_le(head + 8, masked_crc(head, 8), 4);
    put_le(data + n, masked_crc(data, n), 4);
    out->n += 8 + 4 + n + 4;
}

void hd_tfrecord_append(hd_buf *out, const void *data, size_t n)
{
    unsigned char *at = begin_record(out, n);
    if (at == NULL) { return; }
    if (n > 0) { memcpy(at, data, n); }
    end_record(out, at, n);
}

/* ---- events ----------------------------------------------------------------------------------------------------------- */

/* protobuf-c's messages want char *, and packing only reads them. */
static char *unconst(const char *text)
{
    union { const char *in; char *out; } u = {.in = text};
    return u.out;
}

static event_message event_at(double wall_time)
{
    event_message event = HADAL__EVENT__EVENT__INIT;
    event.has_wall_time = 1;
    event.wall_time = wall_time;
    return event;
}

static void append_event(hd_buf *out, const event_message *event)
{
    size_t n = hadal__event__event__get_packed_size(event);
    unsigned char *at = begin_record(out, n);
    if (at == NULL) { return; }
    (void)hadal__event__event__pack(event, at);
    end_record(out, at, n);
}

void hd_event_append_version(hd_buf *out, double wall_time)
{
    event_message event = event_at(wall_time);
    event.file_version = unconst("brain.Event:2");
    append_event(out, &event);
}

static void append_values(hd_buf *out, double wall_time, int64_t step, value_message **values, size_t n)
{
    Hadal__Event__Summary summary = HADAL__EVENT__SUMMARY__INIT;
    event_message event = event_at(wall_time);
    summary.value = values;
    summary.n_value = n;
    event.has_step = 1;
    event.step = step;
    event.summary = &summary;
    append_event(out, &event);
}

void hd_event_append_scalars(hd_buf *out, double wall_time, int64_t step, const hd_scalar *scalars, size_t n)
{
    value_message values[SCALARS_PER_EVENT], *pointers[SCALARS_PER_EVENT];
    while (n > 0) {
        size_t now = n < SCALARS_PER_EVENT ? n : SCALARS_PER_EVENT;
        for (size_t i = 0; i < now; i++) {
            values[i] = (value_message)HADAL__EVENT__VALUE__INIT;
            values[i].tag = unconst(scalars[i].tag);
            values[i].has_simple_value = 1;
            values[i].simple_value = (float)scalars[i].value;
            pointers[i] = &values[i];
        }
        append_values(out, wall_time, step, pointers, now);
        scalars += now;
        n -= now;
    }
}

void hd_event_append_text(hd_buf *out, double wall_time, int64_t step, const char *tag, const char *text)
{
    Hadal__Event__PluginData plugin = HADAL__EVENT__PLUGIN_DATA__INIT;
    Hadal__Event__Metadata metadata = HADAL__EVENT__METADATA__INIT;
    Hadal__Event__Dim dim = HADAL__EVENT__DIM__INIT, *dims[] = {&dim};
    Hadal__Event__Shape shape = HADAL__EVENT__SHAPE__INIT;
    Hadal__Event__Tensor tensor = HADAL__EVENT__TENSOR__INIT;
    value_message value = HADAL__EVENT__VALUE__INIT, *values[] = {&value};
    ProtobufCBinaryData content = {.len = strlen(text), .data = (uint8_t *)unconst(text)};
    plugin.plugin_name = unconst("text");
    metadata.plugin_data = &plugin;
    dim.has_size = 1;
    dim.size = 1;
    shape.dim = dims;
    shape.n_dim = 1;
    tensor.has_dtype = 1;
    tensor.dtype = DTYPE_STRING;
    tensor.tensor_shape = &shape;
    tensor.string_val = &content;
    tensor.n_string_val = 1;
    value.tag = unconst(tag);
    value.tensor = &tensor;
    value.metadata = &metadata;
    append_values(out, wall_time, step, values, 1);
}

/* ---- the file ---------------------------------------------------------------------------------------------------------- */

struct hd_tensorboard {
    hd_file *file;
    hd_buf pending;
};

/* Two runs of one second (a resumed one) must not share a file: a number is added until the name is free. */
static hd_status create_file(const char *dir, hd_file **out, hd_err *err)
{
    hd_status st = HD_OK;
    char host[64] = "localhost", name[160];
    char *path = NULL;
    hd_io_info info;
    long long seconds = (long long)hd_clock_wall_s();
    (void)gethostname(host, sizeof host - 1);
    for (int i = 0;; i++) {
        char suffix[16] = "";
        if (i > 0) { (void)snprintf(suffix, sizeof suffix, ".%d", i); }
        (void)snprintf(name, sizeof name, "events.out.tfevents.%010lld.%s%s", seconds, host, suffix);
        HD_TRY(hd_path_join(dir, name, &path, err));
        HD_TRY(hd_io_stat(path, &info, err));
        if (info.kind == HD_IO_MISSING) { break; }
        hd_free(path);
        path = NULL;
    }
    HD_TRY(hd_io_create(path, HD_IO_EXCLUSIVE, out, err));
out:
    hd_free(path);
    return st;
}

hd_status hd_tensorboard_open(const char *dir, hd_tensorboard **out, hd_err *err)
{
    hd_status st = HD_OK;
    hd_tensorboard *tb = NULL;
    HD_TRY(hd_alloc(1, sizeof *tb, "TensorBoard writer", (void **)&tb, err));
    HD_TRY(hd_io_mkdirs(dir, err));
    HD_TRY(create_file(dir, &tb->file, err));
    hd_event_append_version(&tb->pending, hd_clock_wall_s());
    HD_TRY(hd_tensorboard_flush(tb, err));
    *out = tb;
    tb = NULL;
out:
    if (tb != NULL) {
        hd_io_abandon(&tb->file);
        hd_buf_free(&tb->pending);
        hd_free(tb);
    }
    return st;
}

static hd_status flush_when_large(hd_tensorboard *tb, hd_err *err)
{
    hd_status st = hd_buf_check(&tb->pending, err);
    return st == HD_OK && tb->pending.n >= BUFFER_BYTES ? hd_tensorboard_flush(tb, err) : st;
}

hd_status hd_tensorboard_scalars(hd_tensorboard *tb, int64_t step, const hd_scalar *scalars, size_t n, hd_err *err)
{
    hd_event_append_scalars(&tb->pending, hd_clock_wall_s(), step, scalars, n);
    return flush_when_large(tb, err);
}

hd_status hd_tensorboard_text(hd_tensorboard *tb, int64_t step, const char *tag, const char *text, hd_err *err)
{
    hd_event_append_text(&tb->pending, hd_clock_wall_s(), step, tag, text);
    return flush_when_large(tb, err);
}

hd_status hd_tensorboard_flush(hd_tensorboard *tb, hd_err *err)
{
    hd_status st = hd_buf_check(&tb->pending, err);
    if (st == HD_OK && tb->pending.n > 0) { st = hd_io_write(tb->file, tb->pending.data, tb->pending.n, err); }
    hd_buf_clear(&tb->pending);
    return st;
}

hd_status hd_tensorboard_close(hd_tensorboard *tb, hd_err *err)
{
    if (tb == NULL) { return HD_OK; }
    hd_status st = hd_tensorboard_flush(tb, err);
    hd_status closed = hd_io_close(&tb->file, st == HD_OK ? err : NULL);
    hd_buf_free(&tb->pending);
    hd_free(tb);
    return st != HD_OK ? st : closed;
}
