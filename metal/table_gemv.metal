// Terms whose weights are vectors of a shared table, named by index bytes: a row's product with the
// codes is an exact integer of up to 38 bits, kept in two words and rounded once at the end. A
// quality option, not a fast path: a table look-up every four columns. Twin: formats/table.
#include "device/epilogue.h"

/// One chunk's codes as bytes, four a word, and what its sums are shifted by.
struct CodeBytes {
  int codes[32];
  uint shift;
};

inline void load_bytes(thread CodeBytes& chunk, device const uint* qvec, uint chunks, uint c,
                       int largest, uint headroom) {
  const ChunkShift s = chunk_shift(qvec[qvec_meta_at(chunks) + c], largest, headroom);
  device const uint* words = qvec + qvec_codes_at() + kQvecChunkWords * c;
  UNROLL
  for (uint i = 0; i < 32; ++i) {
    const int code = code_of(words[i / 4], i % 4);
    const int magnitude = int(magnitude_of(code) >> s.drop);
    chunk.codes[i] = code < 0 ? -magnitude : magnitude;
  }
  chunk.shift = s.shift;
}

inline int dot_bytes(uint entries, thread const int* codes) {
  int sum = code_of(entries, 0) * codes[0];
  sum += code_of(entries, 1) * codes[1];
  sum += code_of(entries, 2) * codes[2];
  return sum + code_of(entries, 3) * codes[3];
}

/// The product of one chunk with one row, times 2^shift: below 127 * 127 * 32 * 2^12 < 2^31.
inline int dot_row(thread const CodeBytes& chunk, thread const GemvArgs& args, uint step,
                   device const uint* row, device const uint* table) {
  const uint width_log2 = ctz(args.table_width);
  int sum = 0;
  UNROLL
  for (uint four = 0; four < 8; ++four) {
    const uint column = 32 * step + 4 * four;
    const uint vector = column >> width_log2;
    if (vector >= args.vectors) continue;
    // Words of a row lie a unit of four apart.
    const uint index = (row[4 * (vector / 4)] >> (8 * (vector % 4))) & 0xFFu;
    const uint first = (index << width_log2) + (column & (args.table_width - 1));
    const uint entries = table[first / 4];
    sum += dot_bytes(entries, chunk.codes + 4 * four);
  }
  return sum * (1 << chunk.shift);
}

/// Like multiply_signs; the integers are rounded by 2^rounding_shift.
inline void multiply_table(device const uint* words, device const uint* table,
                           thread const GemvArgs& args, thread const GemvPlace& place,
                           thread const GemvInput& input, threadgroup int* integers) {
  int low[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  int high[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  const uint row_words = (args.vectors + 3) / 4;
  for (uint step = place.lane; step < args.chunks; step += place.lanes) {
    CodeBytes chunk;
    load_bytes(chunk, input.qvec, input.chunks, args.first_chunk + step, input.largest,
               input.headroom);
    UNROLL
    for (uint i = 0; i < 8; ++i) {
      const uint quad = place.quads[i / 4];
      if (4 * quad >= args.rows) continue;
      const int sum = dot_row(chunk, args, step, words + 4 * quad * row_words + i % 4, table);
      low[i] += sum & 0xFFFF;
      high[i] += sum >> 16;
    }
  }
  const int low_sum = reduce_rows(low, place.lane, args.lanes_log2);
  const int high_sum = reduce_rows(high, place.lane, args.lanes_log2);
  const long exact = long(high_sum) * 65536 + long(low_sum);
  const long half_unit = args.rounding_shift == 0 ? 0 : long(1) << (args.rounding_shift - 1);
  const uint copies = place.lanes / 8;
  if (place.lane % copies == 0) {
    const uint row = place.lane / copies;
    integers[4 * (row / 4 * place.pairs + place.pair) + row % 4] =
        int((exact + half_unit) >> args.rounding_shift);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

#define TABLE_MULTIPLY                                                                            \
  const GemvArgs args = gemv_args;                                                                \
  const EpilogueArgs epilogue = epilogue_args;                                                    \
  const GemvPlace place = gemv_place(args, group.x, kGemvThreads, index);                         \
  const GemvInput input = gemv_input(qvec + group.y * qvec_words(args.input_chunks), args, lane); \
  OutputScale scale = output_scale(input, lane);                                                  \
  scale.exponent += int(args.rounding_shift);                                                     \
  multiply_table(words, table, args, place, input, integers)

KERNEL(table_gemv_sums,
       (constant GemvArgs & gemv_args [[buffer(0)]],
        constant EpilogueArgs& epilogue_args [[buffer(1)]], device const uint* words [[buffer(2)]],
        device const uint* qvec [[buffer(3)]], device int* sums [[buffer(4)]],
        device int* exponents [[buffer(5)]], device const uint* table [[buffer(6)]],
        threadgroup int* integers THREADGROUP(0), THREAD)) {
  TABLE_MULTIPLY;
  finish_sums(integers, args, epilogue, place, scale, group, index, sums, exponents);
}

#define TABLE_ROWS(name, kAdd)                                                                    \
  KERNEL(name, (constant GemvArgs & gemv_args [[buffer(0)]],                                      \
                constant EpilogueArgs & epilogue_args [[buffer(1)]],                              \
                device const uint* words [[buffer(2)]], device const uint* qvec [[buffer(3)]],    \
                device const half* s_post [[buffer(4)]], device const float* bias [[buffer(5)]],  \
                device float* y [[buffer(6)]], device atomic_uint* status [[buffer(7)]],          \
                device const uint* table [[buffer(8)]], threadgroup int* integers THREADGROUP(0), \
                THREAD)) {                                                                        \
    TABLE_MULTIPLY;                                                                               \
    const RowScales scales = row_scales(s_post, bias, epilogue.flags);                            \
    finish_rows<kAdd>(integers, args, epilogue, place, scale, group, index, scales, y, status);   \
  }

TABLE_ROWS(table_gemv_store, false)
TABLE_ROWS(table_gemv_add, true)
