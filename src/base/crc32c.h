/* CRC-32C (Castagnoli), the checksum of checkpoint blocks and TensorBoard records.  "123456789" gives E3069283. */
#ifndef HD_BASE_CRC32C_H
#define HD_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of what crc already covers followed by data; start with crc = 0. */
uint32_t hd_crc32c(uint32_t crc, const void *data, size_t n);

/* The same by table on any processor: what the instruction is tested against. */
uint32_t hd_crc32c_table(uint32_t crc, const void *data, size_t n);

#endif
