/* Status codes and the error record that every fallible call of libhadal uses.
 *
 * A call returns HD_OK (0) or a negative status and, on failure, fills the record once, where the fault was born: the
 * message says what was found and what was wanted, and names the file, tensor or key.  Callers pass the record on
 * untouched.  Nothing in the library exits, aborts or prints. */
#ifndef HADAL_STATUS_H
#define HADAL_STATUS_H

#if defined(__GNUC__)
#define HD_CHECK_RESULT __attribute__((warn_unused_result))
#define HD_PRINTF(format_index, first_arg) __attribute__((format(printf, format_index, first_arg)))
#else
#define HD_CHECK_RESULT
#define HD_PRINTF(format_index, first_arg)
#endif

typedef enum hd_status {
    HD_OK = 0,
    HD_E_INVALID = -1,     /* a caller broke a contract: shape, dtype, range                           exit 1 */
    HD_E_CONFIG = -2,      /* the user's command line, file or environment asks for something wrong    exit 2 */
    HD_E_UNSUPPORTED = -3, /* understood, and hadal does not do it                                     exit 2 */
    HD_E_NOMEM = -4,       /* an allocation failed                                                     exit 1 */
    HD_E_IO = -5,          /* the operating system refused a file operation                            exit 1 */
    HD_E_CORRUPT = -6,     /* the content of a file is not what its format or checksum promises        exit 1 */
    HD_E_NONFINITE = -7,   /* NaN or Inf where policy says stop                                        exit 1 */
    HD_E_BUSY = -8,        /* another process holds the lock                                           exit 1 */
    HD_E_VERIFY = -9,      /* a comparison the user asked for failed                                   exit 3 */
    HD_E_SIGNAL = -10,     /* stopped by a signal after saving; hd_err.signal holds its number   exit 128 + n */
    HD_E_PEER = -11        /* another rank failed or died                                              exit 1 */
} hd_status;

typedef struct hd_err {
    hd_status code;
    int signal;       /* with HD_E_SIGNAL */
    const char *file; /* source position where the fault was born; static storage */
    int line;
    char msg[1024];
} hd_err;

/* Fills the record (err may be NULL) and returns code, so that a fault reads  return HD_FAIL(err, HD_E_IO, "...", ...); */
hd_status hd_err_set(hd_err *err, hd_status code, const char *file, int line, const char *format, ...) HD_PRINTF(5, 6);

/* Puts text in front of an existing message: the caller's view of what was being done.  Returns the record's code. */
hd_status hd_err_prefix(hd_err *err, const char *format, ...) HD_PRINTF(2, 3);

/* The name of a status, e.g. "HD_E_IO".  Static storage. */
const char *hd_status_name(hd_status status);

/* The process exit code that belongs to a record, as the table above lists them. */
int hd_err_exit_code(const hd_err *err);

/* Lets the compiler see that a failure is never HD_OK, so that it does not warn about outputs a failed call left unset. */
static inline hd_status hd_err_code(hd_status code, hd_status recorded)
{
    (void)recorded;
    return code;
}

#define HD_FAIL(err, code, ...) hd_err_code((code), hd_err_set((err), (code), __FILE__, __LINE__, __VA_ARGS__))

/* In a function with a local `hd_status st` and a label `out`: stop at the first failing call. */
#define HD_TRY(call)                 \
    do {                             \
        st = (call);                 \
        if (st != HD_OK) { goto out; } \
    } while (0)

#endif
