/* hadal COMMAND [FILE.yml] key=value ...
 *
 * Reads the words of the command line, runs one command, and turns its result into messages and an exit code:
 * 0 good, 1 failed while running, 2 asked for something wrong, 3 a verification failed, 128 + n stopped by signal n. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "hadal/config.h"
#include "hadal/init.h"

enum { EXIT_OUTPUT_LOST = 1 };

static hd_status unknown_command(const char *name, hd_err *err)
{
    const hd_cli_command *nearest = hd_cli_nearest_command(name);
    if (strchr(name, '=') != NULL || strstr(name, ".yml") != NULL) {
        return HD_FAIL(err, HD_E_CONFIG, "the first word is the command, got '%s': hadal train %s ...", name, name);
    }
    if (nearest != NULL) {
        return HD_FAIL(err, HD_E_CONFIG, "unknown command '%s'; did you mean '%s'?", name, nearest->name);
    }
    return HD_FAIL(err, HD_E_CONFIG, "unknown command '%s'; `hadal help` lists the commands", name);
}

/* Is a word the name of a key, with or without a value behind it? */
static bool names_key(const char *word)
{
    hd_config_key_info info;
    size_t n = strcspn(word, "=");
    for (size_t i = 0; hd_config_key_at(i, &info); i++) {
        if (strncmp(info.name, word, n) == 0 && info.name[n] == '\0') { return true; }
    }
    return false;
}

/* Takes the options out of the words after the command, in place; *help when one of them asks for help.  A key may be written with
 * dashes, as MaxText's checker does: the configuration reads --key=value as key=value. */
static hd_status take_options(hd_cli_call *call, bool *help, hd_err *err)
{
    int n = 0;
    *help = false;
    for (int i = 0; i < call->argc; i++) {
        char *word = call->argv[i];
        if (word[0] != '-') {
            call->argv[n++] = word;
        } else if (strcmp(word, "-h") == 0 || strcmp(word, "--help") == 0) {
            *help = true;
        } else if (call->command->takes_keys && strcmp(word, "--print-config") == 0) {
            call->print_config = true;
        } else if (call->command->takes_keys && strcmp(word, "--print-config=set") == 0) {
            call->print_config = call->only_set = true;
        } else if (call->command->takes_keys && strncmp(word, "--", 2) == 0 && (strchr(word, '=') != NULL || names_key(word + 2))) {
            call->argv[n++] = word;
        } else {
            return HD_FAIL(err, HD_E_CONFIG, "unknown option '%s'; the options are --help and --print-config, keys are key=value", word);
        }
    }
    call->argc = n;
    return HD_OK;
}

static hd_status run(int argc, char **argv, hd_err *err)
{
    const char *name = argv[0];
    bool help;
    if (strcmp(name, "-h") == 0 || strcmp(name, "--help") == 0) { name = "help"; }
    if (strcmp(name, "-V") == 0 || strcmp(name, "--version") == 0) { name = "version"; }
    hd_cli_call call = {.command = hd_cli_find_command(name), .argc = argc - 1, .argv = argv + 1};
    if (call.command == NULL) { return unknown_command(name, err); }
    hd_status st = call.command->run == NULL ? HD_OK : take_options(&call, &help, err);
    if (st != HD_OK) { return st; }
    if (call.command->run == NULL) {
        return HD_FAIL(err, HD_E_UNSUPPORTED, "the command '%s' (%s) is not supported by this version", name, call.command->summary);
    }
    if (help) { return hd_cli_print_command_help(call.command, err); }
    return call.command->run(&call, err);
}

int main(int argc, char **argv)
{
    hd_err err = {0};
    hd_cli_terminal_open();
    signal(SIGPIPE, SIG_IGN); /* a vanished reader of the log must not end a training run */
    if (argc < 2) {
        hd_cli_print_overview();
        return hd_cli_terminal_close() ? 2 : EXIT_OUTPUT_LOST;
    }
    hd_status st = hd_init(&err);
    if (st == HD_OK) { st = run(argc - 1, argv + 1, &err); }
    if (st != HD_OK) { hd_cli_terminal_failure(&err); }
    bool all_written = hd_cli_terminal_close();
    if (st != HD_OK) { return hd_err_exit_code(&err); }
    return all_written ? 0 : EXIT_OUTPUT_LOST;
}
