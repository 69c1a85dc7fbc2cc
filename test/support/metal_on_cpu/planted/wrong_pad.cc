// sign_gemv.metal with a padding rule of its own: the words after the last whole unit of four
// exponents are never looked at.
#define SUBBIT_KERNEL_PREFIX "wrong_pad_"
#include "support/metal_on_cpu/shader_language.h"

namespace wrong_pad {
#include "metal/qvec.h"
#define pad4(words) ((words) / 4 * 4)
#include "metal/sign_gemv.metal"
}  // namespace wrong_pad
