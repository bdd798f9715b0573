/* Runs a fuzz target over files: the corpus of the target in the normal test run, or a crash found by libFuzzer.
 *
 *   fuzz_json                the files of tests/fuzz/corpus/json, in the directory the program is started from
 *   fuzz_json FILE...        those files
 *
 * The name of the corpus is the program's name after "fuzz_".  Prints one line in the form of cmocka's summary. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f == NULL) { return -1; }
    struct stat info;
    size_t size = fstat(fileno(f), &info) == 0 && S_ISREG(info.st_mode) ? (size_t)info.st_size : 0;
    uint8_t *data = malloc(size > 0 ? size : 1); /* exactly the size, so that ASan sees one byte too far */
    size_t got = data != NULL ? fread(data, 1, size, f) : 0;
    fclose(f);
    if (data != NULL) { (void)LLVMFuzzerTestOneInput(data, got); }
    free(data);
    return got == size ? 0 : -1;
}

static int replay_folder(const char *folder)
{
    struct dirent **names = NULL;
    int failed = 0, n = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[4096 + 256];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && replay_file(path) != 0) {
            printf("[  FAILED  ] %s cannot be read\n", path);
            failed++;
        }
        free(names[i]);
    }
    free(names);
    return failed;
}

int main(int argc, char **argv)
{
    char folder[4096];
    const char *name = strrchr(argv[0], '/');
    name = strstr(name != NULL ? name : argv[0], "fuzz_");
    int failed = 0;
    printf("[==========] Running 1 test(s).\n[ RUN      ] corpus\n");
    fflush(stdout); /* a crash must leave the line that names what was running */
    (void)LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    if (argc > 1) {
        for (int i = 1; i < argc; i++) { failed += replay_file(argv[i]) != 0; }
    } else {
        snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", name != NULL ? name + strlen("fuzz_") : "");
        failed = replay_folder(folder);
    }
    printf("%s[==========] 1 test(s) run.\n[  PASSED  ] %d test(s).\n", failed == 0 ? "[       OK ] corpus\n" : "",
           failed == 0);
    return failed != 0;
}
