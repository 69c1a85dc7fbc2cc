// K2: the same bytes, geometry and integers as sign_gemv.metal, by selecting float codes: about
// three slots a bit, but none in the integer pipe. Which of the two serves a device is measured
// there; the text cannot tell.
#include "device/gemv_kernels.h"

GEMV_KERNELS(select_gemv, SelectChunk, SignWords, 1)
GEMV_RANK_KERNEL(select_gemv_rank, SelectChunk, SignWords, 1)
