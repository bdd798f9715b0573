/* See path.h. */
#include "base/path.h"

#include <string.h>

#include "base/alloc.h"

enum { MAX_NAME = 255 };

hd_status hd_path_join_n(const char *dir, const char *name, size_t name_len, char **out, hd_err *err)
{
    void *memory;
    size_t dir_len = name_len > 0 && name[0] == '/' ? 0 : strlen(dir);
    size_t slash = dir_len > 0 && dir[dir_len - 1] != '/' ? 1 : 0;
    hd_status st = hd_alloc(dir_len + slash + name_len + 1, 1, "path", &memory, err);
    *out = memory;
    if (st != HD_OK) { return st; }
    memcpy(*out, dir, dir_len);
    if (slash != 0) { (*out)[dir_len] = '/'; }
    memcpy(*out + dir_len + slash, name, name_len);
    return HD_OK;
}

hd_status hd_path_join(const char *dir, const char *name, char **out, hd_err *err)
{
    return hd_path_join_n(dir, name, strlen(name), out, err);
}

hd_status hd_path_dir(const char *path, char **out, hd_err *err)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL) { return hd_strdup(".", out, err); }
    size_t n = slash == path ? 1 : (size_t)(slash - path);
    return hd_path_join_n("", path, n, out, err);
}

const char *hd_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

bool hd_path_is_plain_name(const char *text, size_t n)
{
    if (n == 0 || n > MAX_NAME || memchr(text, '/', n) != NULL || memchr(text, '\0', n) != NULL) { return false; }
    return !(n == 1 && text[0] == '.') && !(n == 2 && text[0] == '.' && text[1] == '.');
}

bool hd_text_ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n >= k && memcmp(text + n - k, end, k) == 0;
}
