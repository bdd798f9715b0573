/* SHA-256 (FIPS 180-4), in plain C and with the instructions of x86 (Intel SHA extensions) where the machine has them.  See sha256.h. */
#include "base/sha256.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

enum { BLOCK = 64 };

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static uint32_t load_big(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void store_big(unsigned char *p, uint32_t x)
{
    p[0] = (unsigned char)(x >> 24), p[1] = (unsigned char)(x >> 16);
    p[2] = (unsigned char)(x >> 8), p[3] = (unsigned char)x;
}

static void compress_plain(uint32_t state[8], const unsigned char *block)
{
    uint32_t w[64], s[8];
    for (int t = 0; t < 16; t++) { w[t] = load_big(block + 4 * t); }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    memcpy(s, state, sizeof s);
    for (int t = 0; t < 64; t++) {
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & s[5]) ^ (~e & s[6])) +
                      round_constants[t] + w[t];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof s[0]);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) { state[i] += s[i]; }
}

#if defined(__x86_64__)

static bool has_sha_instructions(void)
{
    unsigned a, b, c, d;
    bool sse41 = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_SSE4_1) != 0 && (c & bit_SSSE3) != 0;
    return sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
}

/* The instructions hold the state as {F E B A} and {H G D C}, lowest lane first, and do two rounds at a time; w is a ring of the last
 * 16 words of the schedule, four to a register. */
__attribute__((target("sha,sse4.1,ssse3"))) static void compress_x86(uint32_t state[8], const unsigned char *p, size_t n_block)
{
    const __m128i swap = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i feba = _mm_set_epi32((int)state[0], (int)state[1], (int)state[4], (int)state[5]);
    __m128i hgdc = _mm_set_epi32((int)state[2], (int)state[3], (int)state[6], (int)state[7]);
    for (; n_block > 0; n_block--, p += BLOCK) {
        __m128i w[4], feba_in = feba, hgdc_in = hgdc;
        for (int i = 0; i < 4; i++) { w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)), swap); }
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i *now = &w[i % 4], last = w[(i + 3) % 4];
            if (i >= 4) { /* words 4 i .. 4 i + 3 from the 16 before them; w[i % 4] holds the oldest four */
                __m128i seven = _mm_alignr_epi8(last, w[(i + 2) % 4], 4);
                *now = _mm_add_epi32(_mm_sha256msg1_epu32(*now, w[(i + 1) % 4]), seven);
                *now = _mm_sha256msg2_epu32(*now, last);
            }
            __m128i k = _mm_loadu_si128((const __m128i *)(const void *)&round_constants[4 * i]), wk = _mm_add_epi32(*now, k);
            hgdc = _mm_sha256rnds2_epu32(hgdc, feba, wk);
            feba = _mm_sha256rnds2_epu32(feba, hgdc, _mm_shuffle_epi32(wk, 0x0E));
        }
        feba = _mm_add_epi32(feba, feba_in);
        hgdc = _mm_add_epi32(hgdc, hgdc_in);
    }
    state[0] = (uint32_t)_mm_extract_epi32(feba, 3), state[1] = (uint32_t)_mm_extract_epi32(feba, 2);
    state[4] = (uint32_t)_mm_extract_epi32(feba, 1), state[5] = (uint32_t)_mm_extract_epi32(feba, 0);
    state[2] = (uint32_t)_mm_extract_epi32(hgdc, 3), state[3] = (uint32_t)_mm_extract_epi32(hgdc, 2);
    state[6] = (uint32_t)_mm_extract_epi32(hgdc, 1), state[7] = (uint32_t)_mm_extract_epi32(hgdc, 0);
}

#else

static bool has_sha_instructions(void) { return false; }
static void compress_x86(uint32_t state[8], const unsigned char *p, size_t n_block) { (void)state, (void)p, (void)n_block; }

#endif

static void compress(hd_sha256 *sha, const unsigned char *p, size_t n_block)
{
    if (sha->x86) {
        compress_x86(sha->state, p, n_block);
    } else {
        for (; n_block > 0; n_block--, p += BLOCK) { compress_plain(sha->state, p); }
    }
}

void hd_sha256_init(hd_sha256 *sha)
{
    *sha = (hd_sha256){
        .x86 = has_sha_instructions(),
        .state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void hd_sha256_update(hd_sha256 *sha, const void *data, size_t n)
{
    const unsigned char *p = data;
    size_t held = (size_t)(sha->n_bytes % BLOCK);
    sha->n_bytes += n;
    if (held > 0) {
        size_t k = n < BLOCK - held ? n : BLOCK - held;
        memcpy(sha->block + held, p, k);
        p += k, n -= k;
        if (held + k < BLOCK) { return; }
        compress(sha, sha->block, 1);
    }
    compress(sha, p, n / BLOCK);
    if (n % BLOCK > 0) { memcpy(sha->block, p + n / BLOCK * BLOCK, n % BLOCK); }
}

void hd_sha256_final(hd_sha256 *sha, unsigned char digest[HD_SHA256_BYTES])
{
    static const unsigned char padding[BLOCK] = {0x80};
    unsigned char length[8];
    uint64_t bits = sha->n_bytes * 8;
    size_t held = (size_t)(sha->n_bytes % BLOCK);
    store_big(length, (uint32_t)(bits >> 32));
    store_big(length + 4, (uint32_t)bits);
    hd_sha256_update(sha, padding, held < 56 ? 56 - held : 120 - held);
    hd_sha256_update(sha, length, sizeof length);
    for (int i = 0; i < 8; i++) { store_big(digest + 4 * i, sha->state[i]); }
}

void hd_sha256_hex(const unsigned char digest[HD_SHA256_BYTES], char text[HD_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < HD_SHA256_BYTES; i++) {
        text[2 * i] = digits[digest[i] >> 4];
        text[2 * i + 1] = digits[digest[i] & 15];
    }
    text[2 * HD_SHA256_BYTES] = '\0';
}
