// Every weight format and term kind, by name. The one place a new one is added.
#include "formats/registry.h"

#include <utility>

#include "formats/code84/code84.h"
#include "formats/dense/dense.h"
#include "formats/factored/factored.h"
#include "formats/groups/groups.h"
#include "formats/int2/int2.h"
#include "formats/int3/int3.h"
#include "formats/int4/int4.h"
#include "formats/int8/int8.h"
#include "formats/packed/packed.h"
#include "formats/sign/sign.h"
#include "formats/table/table.h"

namespace subbit {

std::span<const Format* const> all_formats() {
  static const Format* const formats[] = {&dense_format(),  &int4_format(), &int8_format(),
                                          &packed_format(), &int2_format(), &int3_format()};
  return formats;
}

const GroupCoding* find_group_coding(int bits) {
  for (const GroupCoding* coding :
       {&int2_coding(), &int3_coding(), &int4_coding(), &int8_coding()}) {
    if (coding->bits == bits) return coding;
  }
  return nullptr;
}

const Format* find_format(std::string_view name) {
  for (const Format* format : all_formats()) {
    if (format->name() == name) return format;
  }
  return nullptr;
}

std::unique_ptr<Weight> unpack_to_dense(const Weight& weight) {
  Buffer<float> values(weight.shape().count());
  weight.unpack_rows(0, Matrix(values.data(), weight.shape().rows, weight.shape().cols));
  return make_dense_weight(std::move(values), weight.shape());
}

std::span<const TermKind* const> all_term_kinds() {
  static const TermKind* const kinds[] = {&sign_term(), &code84_term(), &factored_term(),
                                          &table_term()};
  return kinds;
}

const TermKind* find_term_kind(uint8_t tag) {
  for (const TermKind* kind : all_term_kinds()) {
    if (kind->tag() == tag) return kind;
  }
  return nullptr;
}

const TermKind* find_term_kind(std::string_view name) {
  for (const TermKind* kind : all_term_kinds()) {
    if (kind->name() == name) return kind;
  }
  return nullptr;
}

}  // namespace subbit
