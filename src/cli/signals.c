/* Signals of a long command: the first asks the library to save and leave, a second SIGINT does not wait for that.  In a chat SIGINT ends
 * an answer. */
#include <unistd.h>

#include "cli/cli.h"

static volatile sig_atomic_t stop_signal, interrupt;

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

static void set_handler(int signal_number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    (void)sigaction(signal_number, &action, NULL);
}

/* A signal that the parent had ignored (nohup, a background job of a shell) stays ignored. */
static void catch_one(int signal_number)
{
    struct sigaction old;
    if (sigaction(signal_number, NULL, &old) == 0 && old.sa_handler != SIG_IGN) { set_handler(signal_number, on_stop); }
}

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupt = 1;
}

void hd_cli_catch_signals(void)
{
    catch_one(SIGTERM);
    catch_one(SIGINT);
    catch_one(SIGHUP);
}

void hd_cli_catch_chat_signals(void)
{
    catch_one(SIGTERM);
    set_handler(SIGINT, on_interrupt); /* somebody sits at the terminal, whatever the parent thought of it */
    catch_one(SIGHUP);
}

const volatile sig_atomic_t *hd_cli_stop_signal(void)
{
    return &stop_signal;
}

volatile sig_atomic_t *hd_cli_interrupt(void)
{
    return &interrupt;
}
