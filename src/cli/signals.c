/* Signals of a long command: the first asks the library to save and leave, a second SIGINT does not wait for that. */
#include <unistd.h>

#include "cli/cli.h"

static volatile sig_atomic_t stop_signal;

static void on_stop(int signal_number)
{
    if (stop_signal != 0 && signal_number == SIGINT) {
        static const char note[] = "\nhadal: interrupted twice: leaving without saving\n";
        ssize_t ignored = write(STDERR_FILENO, note, sizeof note - 1);
        (void)ignored;
        signal(SIGINT, SIG_DFL);
        raise(SIGINT);
        return;
    }
    if (stop_signal == 0) { stop_signal = signal_number; }
}

/* A signal that the parent had ignored (nohup, a background job of a shell) stays ignored. */
static void catch_one(int signal_number)
{
    struct sigaction old, action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN) {
        (void)sigaction(signal_number, &action, NULL);
    }
}

void hd_cli_catch_signals(void)
{
    catch_one(SIGTERM);
    catch_one(SIGINT);
    catch_one(SIGHUP);
}

const volatile sig_atomic_t *hd_cli_stop_signal(void)
{
    return &stop_signal;
}
