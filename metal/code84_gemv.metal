// Sign matrices stored as [8,4,4] code words: four stored words give eight by XOR in registers, and
// the rest is K1. Twin: formats/code84.
#include "device/gemv_kernels.h"

GEMV_KERNELS(code84_gemv, PopcountChunk, Code84Words, 1)
GEMV_KERNELS(code84_columns, PopcountChunk, Code84Words, kColumnTokens)
