// The CPU's numbers in the GPU's layouts.
#include "support/metal_kernels.h"

#include <bit>
#include <cstdlib>
#include <cstring>

#include "base/thread_pool.h"
#include "support/test.h"

namespace subbit::test {

std::vector<float> random_floats(size_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& value : values) value = rng.normal();
  return values;
}

QuantizedRows cpu_quantize(const std::vector<float>& values, int64_t tokens) {
  ThreadPool pool(1);
  QuantizedRows out;
  const auto columns = static_cast<int64_t>(values.size()) / tokens;
  quantize_rows(ConstMatrix(values.data(), tokens, columns), out, pool);
  return out;
}

std::vector<uint32_t> make_qvecs(const QuantizedRows& rows, std::span<const float> rho) {
  using namespace shader;
  const auto chunks = static_cast<uint32_t>(rows.chunks);
  std::vector<uint32_t> all(static_cast<size_t>(rows.rows) * qvec_words(chunks));
  for (int64_t t = 0; t < rows.rows; ++t) {
    uint32_t* qvec = all.data() + t * qvec_words(chunks);
    qvec[kHeaderRho] = std::bit_cast<uint32_t>(rho.empty() ? 1.0f : rho[static_cast<size_t>(t)]);
    for (uint32_t c = 0; c < chunks; ++c) {
      const int8_t* codes = rows.codes.data() + (t * chunks + c) * 32;
      std::memcpy(qvec + qvec_codes_at() + 8 * c, codes, 32);
      uint32_t* planes = qvec + qvec_planes_at(chunks) + 8 * c;
      uint32_t sum = 0;
      for (uint32_t j = 0; j < 32; ++j) {
        const auto magnitude = static_cast<uint32_t>(std::abs(codes[j]));
        sum += magnitude;
        planes[0] |= (codes[j] > 0 ? 1u : 0u) << j;
        for (uint32_t p = 0; p < 7; ++p) planes[1 + p] |= ((magnitude >> p) & 1u) << j;
      }
      const auto exponent = static_cast<uint32_t>(rows.exponents[t * chunks + c] + 128);
      qvec[qvec_meta_at(chunks) + c] = sum | exponent << 16;
    }
  }
  return all;
}

void run_in_every_order(Dispatch dispatch, const std::vector<size_t>& outputs) {
  std::vector<std::vector<std::byte>> before;
  std::vector<std::vector<std::byte>> first;
  const auto copy = [&](size_t i) {
    const auto* data = static_cast<const std::byte*>(dispatch.buffers[i].data);
    return std::vector<std::byte>(data, data + dispatch.buffers[i].bytes);
  };
  for (const size_t i : outputs) before.push_back(copy(i));
  for (const ThreadOrder order : kThreadOrders) {
    for (size_t k = 0; k < outputs.size(); ++k) {
      std::memcpy(dispatch.buffers[outputs[k]].data, before[k].data(), before[k].size());
    }
    dispatch.order = order;
    metal_on_cpu::run(dispatch);
    std::vector<std::vector<std::byte>> after;
    for (const size_t i : outputs) after.push_back(copy(i));
    if (first.empty()) first = after;
    if (after != first) {
      fail(__FILE__, __LINE__, dispatch.kernel + ": thread orders give different results");
    }
  }
}

void expect_same_words(std::span<const uint32_t> a, std::span<const uint32_t> b,
                       const std::string& where) {
  if (a.size() != b.size()) return fail(__FILE__, __LINE__, where + ": lengths differ");
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    return fail(__FILE__, __LINE__,
                where + ": word " + std::to_string(i) + " is " + std::to_string(a[i]) + ", not " +
                    std::to_string(b[i]));
  }
}

}  // namespace subbit::test
