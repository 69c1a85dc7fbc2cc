// K1: sign matrices by AND and POPCOUNT over the bit planes of the codes, about one issue slot a
// stored bit. One simdgroup computes eight rows (or four pairs of eight, where rows are short), a
// threadgroup whole chunks of 32 rows, so that its epilogue can quantize. sign_columns_* does the
// same for four tokens from one load of the words. Twin: signs/sign_dot.cc.
#include "device/gemv_kernels.h"

GEMV_KERNELS(sign_gemv, PopcountChunk, SignWords, 1)
GEMV_RANK_KERNEL(sign_gemv_rank, PopcountChunk, SignWords, 1)
GEMV_KERNELS(sign_columns, PopcountChunk, SignWords, kColumnTokens)
GEMV_RANK_KERNEL(sign_columns_rank, PopcountChunk, SignWords, kColumnTokens)
