// Placing weights.
#include "backend/gpu/gpu_weight.h"

#include <string>

#include "base/error.h"
#include "formats/signs/layout.h"

namespace subbit {
namespace {

GpuWeight::Term place_term(const StoredWeight::Term& stored, GpuMemoryMap& map) {
  const TermView& view = stored.view;
  GpuWeight::Term term;
  term.tag = stored.tag;
  term.shape = view.shape;
  term.first_column = view.first_column;
  term.gain = view.gain;
  std::span<const std::byte> words = view.words;
  if (stored.tag == StoredWeight::TermTag::kFactored) {
    const size_t split = sign_bytes(view.shape.rank, view.shape.columns);
    term.second = map.constant(words.subspan(split));
    words = words.first(split);
  }
  term.words = map.constant(words);
  if (!view.s_mid.empty()) term.s_mid = map.constant(view.s_mid);
  if (!view.table.empty()) term.table = map.constant(view.table);
  return term;
}

}  // namespace

GpuWeight place_weight(const Weight& weight, GpuMemoryMap& map) {
  const StoredWeight stored = weight.stored();
  if (stored.kind == StoredWeight::Kind::kOpaque) {
    throw Error(ErrorCode::kUnsupportedFormat,
                "there is no GPU kernel for the weight format " + std::string(weight.format()));
  }
  GpuWeight placed;
  placed.kind = stored.kind;
  placed.shape = weight.shape();
  placed.group = stored.group;
  placed.scales_at = stored.scales_at;
  placed.code_reach = stored.code_reach;
  if (!stored.bytes.empty()) placed.bytes = map.constant(stored.bytes);
  if (!stored.s_post.empty()) placed.s_post = map.constant(stored.s_post);
  if (!stored.s_pre.empty()) placed.s_pre = map.constant(stored.s_pre);
  if (!weight.bias().empty()) placed.bias = map.constant(weight.bias());
  for (const StoredWeight::Term& term : stored.terms) {
    placed.terms.push_back(place_term(term, map));
  }
  return placed;
}

}  // namespace subbit
