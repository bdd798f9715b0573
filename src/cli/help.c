/* What the program says about itself. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "hadal/config.h"
#include "hadal/init.h"

static void say(const char *line)
{
    hd_cli_print_line(NULL, line);
}

/* Each line of a text, indented. */
static void say_lines(const char *indent, const char *text)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");
        char line[256];
        (void)snprintf(line, sizeof line, "%s%.*s", indent, (int)n, text);
        say(line);
        text += n + (text[n] == '\n');
    }
}

static void say_commands(bool supported)
{
    for (const hd_cli_command *c = hd_cli_commands; c->name != NULL; c++) {
        char line[128];
        if ((c->run != NULL) != supported) { continue; }
        (void)snprintf(line, sizeof line, "  %-11s %s", c->name, c->summary);
        say(line);
    }
}

void hd_cli_print_overview(void)
{
    say("hadal trains DeepSeek V2 and V3 models on a CPU.");
    say("");
    say("usage: hadal COMMAND [FILE.yml] key=value ...");
    say("");
    say_commands(true);
    say("");
    say("Keys and their meanings are MaxText's; `hadal help KEY` explains one, `hadal help train` lists them.");
    say("");
    say("Known, and not supported by this version:");
    say_commands(false);
}

hd_status hd_cli_print_command_help(const hd_cli_command *command, hd_err *err)
{
    char line[160];
    (void)snprintf(line, sizeof line, "hadal %s: %s", command->name, command->summary);
    say(line);
    if (command->run == NULL) {
        say("");
        say("Not supported by this version.");
        return HD_OK;
    }
    say("");
    (void)snprintf(line, sizeof line, "usage: hadal %s %s", command->name, command->arguments);
    say(line);
    if (command->text != NULL) {
        say("");
        say_lines("", command->text);
    }
    if (command->examples != NULL) {
        say("");
        say("Examples");
        say_lines("  ", command->examples);
    }
    if (!command->takes_keys) { return HD_OK; }
    say("");
    say("Options");
    say("  -h, --help            this text");
    say("  --print-config        print every key with its value and where the value came from, and leave");
    say("  --print-config=set    the same, without the keys that keep their default");
    say("");
    say("Values come from the defaults, FILE.yml and the files it builds on (base_config), models/<model_name>.yml, the");
    say("environment (M_<KEY>) and the command line; docs/configuration.md has the rules.");
    say("");
    return hd_config_help(command->name, hd_cli_print_line, NULL, err);
}

static void print_environment(void)
{
    hd_environment_info info;
    say("Environment variables that hadal reads");
    for (size_t i = 0; hd_environment_at(i, &info); i++) {
        char line[640];
        say("");
        (void)snprintf(line, sizeof line, "  %s%s", info.name, info.value != NULL ? "   (set now)" : "");
        say(line);
        (void)snprintf(line, sizeof line, "      %s", info.meaning);
        say(line);
        (void)snprintf(line, sizeof line, "      unset: %s", info.fallback);
        say(line);
    }
}

hd_status hd_cli_help(const char *topic, hd_err *err)
{
    if (topic == NULL) {
        hd_cli_print_overview();
        return HD_OK;
    }
    if (strcmp(topic, "environment") == 0) {
        print_environment();
        return HD_OK;
    }
    if (strcmp(topic, "base.yml") == 0) { return hd_config_write_base_yml(hd_cli_print_line, NULL, err); }
    const hd_cli_command *command = hd_cli_find_command(topic);
    if (command != NULL) { return hd_cli_print_command_help(command, err); }
    return hd_config_key_help(topic, hd_cli_print_line, NULL, err);
}

const char *hd_cli_hint(const hd_err *err)
{
    switch (err->code) {
    case HD_E_CONFIG:
        if (strncmp(err->msg, "configuration error", 19) != 0) { return NULL; }
        return "hint: `hadal help KEY` explains a key, `hadal help train` lists them; docs/errors.md has the common cases";
    case HD_E_UNSUPPORTED:
        return "hint: README.md lists what this version does and does not do";
    case HD_E_NOMEM:
        return "hint: `hadal plan` with the same arguments tells what a run needs; per_device_batch_size, max_target_length and "
               "remat_policy=full make it smaller";
    case HD_E_CORRUPT:
        return "hint: the file is damaged or not what its name says; earlier checkpoints of the run may be sound (docs/errors.md)";
    case HD_E_NONFINITE:
        return "hint: a lower learning_rate or gradient_clipping_threshold, or skip_step_on_spikes=true; the same command goes on "
               "from the last checkpoint";
    case HD_E_BUSY:
        return "hint: choose another run_name, or stop the other process";
    case HD_E_SIGNAL:
        return strstr(err->msg, " after step ") != NULL ? "hint: the same command goes on from here" : NULL; /* training */
    default:
        return NULL;
    }
}
