// Which tensor, under which name, in which format.
#include "compress/plain.h"

#include <string>

#include "base/check.h"
#include "compress/fit/groups/fit_groups.h"
#include "formats/registry.h"

namespace subbit {
namespace {

const TensorView& source_of(const PlainTensor& plain, const Checkpoint& checkpoint) {
  const TensorView* tensor = checkpoint.find(plain.source);
  CHECK(tensor != nullptr);
  return *tensor;
}

}  // namespace

PlainTensor plan_plain(const Checkpoint& checkpoint, const std::string& name, Shape shape, int bits,
                       const std::string& source) {
  if (bits != kAsStored && !is_group_width(bits)) {
    throw Error(ErrorCode::kInvalidOption, "there is no format of so many bits for " + name,
                {{"option", "bits"}, {"tensor", name}, {"actual", std::to_string(bits)}});
  }
  PlainTensor plain;
  plain.source = source.empty() ? name : source;
  plain.bits = bits;
  plain.shape = shape;
  const TensorView& tensor = source_of(plain, checkpoint);
  if (bits == kAsStored) {
    plain.spec = {name, tensor.dtype, tensor.shape};
  } else {
    const std::string stem = name.substr(0, name.rfind('.'));
    plain.spec = {stem + "." + std::string(group_format(bits)),
                  DType::kU8,
                  {static_cast<int64_t>(group_format_bytes(bits, shape))}};
  }
  return plain;
}

std::string describe_plain(const PlainTensor& plain) {
  return plain.bits == kAsStored ? "as stored" : std::string(group_format(plain.bits));
}

double predicted_plain_error(const PlainTensor& plain) {
  return plain.bits == kAsStored ? 0.0 : predicted_group_error(plain.bits);
}

std::unique_ptr<Weight> view_source(const PlainTensor& plain, const Checkpoint& checkpoint) {
  return find_format("dense")->view(source_of(plain, checkpoint), plain.shape);
}

FinishedTensor make_plain(const PlainTensor& plain, const Checkpoint& checkpoint) {
  FinishedTensor tensor;
  tensor.spec = plain.spec;
  if (plain.bits == kAsStored) {
    const TensorView& source = source_of(plain, checkpoint);
    tensor.bytes.assign(source.bytes.begin(), source.bytes.end());
    return tensor;
  }
  try {
    tensor.bytes = fit_groups(*view_source(plain, checkpoint), plain.bits);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNonFinite) throw;
    throw Error(ErrorCode::kNonFinite, plain.source + ": " + error.what(),
                {{"tensor", plain.source}});
  }
  return tensor;
}

std::unique_ptr<Weight> view_plain(const PlainTensor& plain, std::span<const std::byte> bytes) {
  const Format* format = find_format(plain.bits == kAsStored ? "dense" : group_format(plain.bits));
  CHECK(format != nullptr);
  return format->view({plain.spec.name, plain.spec.dtype, plain.spec.shape, bytes}, plain.shape);
}

}  // namespace subbit
