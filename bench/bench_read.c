/* The rate at which memory can be read: the bound of decoding.
 *
 *   bench_read [threads=N] [mib=512] [seconds=1]
 *
 * Prints the best and the mean of passes over `mib` MiB; bench/peers/decode_peer.sh runs it before and after each thing it times. */
#include <stdio.h>
#include <stdlib.h>

#include "read_rate.h"

int main(int argc, char **argv)
{
    long threads = hd_default_threads(), mib = 512;
    double seconds = 1;
    for (int i = 1; i < argc; i++) {
        if (sscanf(argv[i], "threads=%ld", &threads) == 1 || sscanf(argv[i], "mib=%ld", &mib) == 1 ||
            sscanf(argv[i], "seconds=%lf", &seconds) == 1) {
            continue;
        }
        fprintf(stderr, "bench_read: %s is not one of threads=N mib=N seconds=N\n", argv[i]);
        return 2;
    }
    if (threads < 1 || threads > 256 || mib < 1 || mib > 1 << 20) {
        fprintf(stderr, "bench_read: threads=%ld mib=%ld, wanted 1 to 256 and 1 to 1048576\n", threads, mib);
        return 2;
    }
    read_rate rate = read_rate_measure((int)threads, (int64_t)mib << 20, seconds, CLOCK_MONOTONIC);
    printf("read %.2f GB/s best, %.2f GB/s mean, %d streams in each of %ld threads, %ld MiB\n", rate.best * 1e-9,
           rate.mean * 1e-9, rate.n_stream, threads, mib);
    return 0;
}
