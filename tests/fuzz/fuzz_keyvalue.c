/* A command line of arbitrary arguments, one per line, after a byte that chooses the command: it is refused with a message that begins "configuration error: ",
 * or it gives a configuration that prints. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "hadal/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_ARGS = 32 };

static void drop(void *context, const char *line)
{
    (void)context;
    assert(line[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const commands[] = {"train", "sft", "plan", "decode", NULL};
    const char *argv[MAX_ARGS];
    hd_config *config = NULL;
    hd_err err = {0};
    int argc = 0;
    if (size == 0) { return 0; }
    char *text = malloc(size);
    if (text == NULL) { return 0; }
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    for (char *p = text; p != NULL && argc < MAX_ARGS; argc++) {
        argv[argc] = p;
        p = strchr(p, '\n');
        if (p != NULL) { *p++ = '\0'; }
    }
    const char *configs_dir = data[0] < 128 ? "configs" : "/nonexistent"; /* without base.yml it is ten times as fast */
    hd_status st = hd_config_load(commands[data[0] % 5], argc, argv, configs_dir, &config, &err);
    assert((st == HD_OK) == (config != NULL));
    if (st == HD_E_CONFIG || st == HD_E_UNSUPPORTED) { assert(strncmp(err.msg, "configuration error: ", 21) == 0); }
    if (st == HD_OK) { assert(hd_config_print(config, HD_CONFIG_ORIGINS, drop, NULL, &err) == HD_OK); }
    hd_config_free(config);
    free(text);
    return 0;
}
