"""The counter generator of hadal, in NumPy: every value is a function of (seed, purpose, name, index).

    key   = mix(mix(seed + G * (purpose + 1)) ^ fnv1a64(name))
    block = Philox4x32-10, key words (key lo, key hi), counter (index lo, index hi, 0, 0)

All functions take an array of indices and are vectorised.  Purpose 6 is the one reserved for tests.
"""

import numpy as np

PURPOSE_TEST = 6

_MASK64 = (1 << 64) - 1
_MASK32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)
_S11 = np.uint64(11)


def _mix(z):
    """SplitMix64's output function."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def _fnv1a64(name):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & _MASK64
    return h


def key(seed, name, purpose=PURPOSE_TEST):
    """The 64-bit key of one named stream."""
    start = (seed + 0x9E3779B97F4A7C15 * (purpose + 1)) & _MASK64
    return _mix(_mix(start) ^ _fnv1a64(name))


def _words(seed, name, index):
    """Two 64-bit words per index: (r0 << 32 | r1, r2 << 32 | r3) of the Philox block."""
    index = np.asarray(index, dtype=np.uint64)
    k = key(seed, name)
    k0, k1 = k & 0xFFFFFFFF, k >> 32
    c = [index & _MASK32, index >> _S32, np.zeros_like(index), np.zeros_like(index)]
    for _ in range(10):
        p0 = c[0] * np.uint64(0xD2511F53)
        p1 = c[2] * np.uint64(0xCD9E8D57)
        c = [(p1 >> _S32) ^ c[1] ^ np.uint64(k0), p1 & _MASK32,
             (p0 >> _S32) ^ c[3] ^ np.uint64(k1), p0 & _MASK32]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return (c[0] << _S32) | c[1], (c[2] << _S32) | c[3]


def normal(seed, name, count):
    """Standard normal values 0 .. count-1 of a stream: Box-Muller in double, rounded to float32."""
    a, b = (((w >> _S11).astype(np.float64) + 0.5) * 2.0**-53 for w in _words(seed, name, np.arange(count)))
    return (np.sqrt(-2.0 * np.log(a)) * np.cos(2.0 * np.pi * b)).astype(np.float32)


def below(seed, name, n, count):
    """Integers in 0 .. n-1, values 0 .. count-1 of a stream; n < 2^32."""
    a, _ = _words(seed, name, np.arange(count))
    n = np.uint64(n)
    low = ((a & _MASK32) * n) >> _S32
    return (((a >> _S32) * n + low) >> _S32).astype(np.int32)


def weight(seed, name, shape, rules):
    """A named float32 tensor; the first rule (pattern, mean, std) whose pattern occurs in the name decides."""
    mean, std = next((m, s) for pattern, m, s in rules if pattern in name)
    values = normal(seed, name, int(np.prod(shape))).reshape(shape)
    return np.float32(mean) + np.float32(std) * values
