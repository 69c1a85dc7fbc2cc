// The tables.
#include "backend/gpu/policy.h"

#include <algorithm>
#include <array>

namespace subbit {
namespace {

constexpr size_t kEpilogues = 7;
using Names = std::array<std::string_view, kEpilogues>;

constexpr Names kPopcountNames = {"sign_gemv_sums", "sign_gemv_rank",     "sign_gemv_store",
                                  "sign_gemv_add",  "sign_gemv_add_norm", "sign_gemv_swiglu",
                                  "sign_gemv_qkv"};
constexpr Names kSelectNames = {"select_gemv_sums", "select_gemv_rank",     "select_gemv_store",
                                "select_gemv_add",  "select_gemv_add_norm", "select_gemv_swiglu",
                                "select_gemv_qkv"};
constexpr Names kCode84Names = {"code84_gemv_sums",     "",
                                "code84_gemv_store",    "code84_gemv_add",
                                "code84_gemv_add_norm", "code84_gemv_swiglu",
                                "code84_gemv_qkv"};
constexpr Names kColumnsNames = {
    "sign_columns_sums",     "sign_columns_rank",   "sign_columns_store", "sign_columns_add",
    "sign_columns_add_norm", "sign_columns_swiglu", "sign_columns_qkv"};
constexpr Names kCode84ColumnsNames = {"code84_columns_sums",     "",
                                       "code84_columns_store",    "code84_columns_add",
                                       "code84_columns_add_norm", "code84_columns_swiglu",
                                       "code84_columns_qkv"};
constexpr Names kTableNames = {
    "table_gemv_sums", "", "table_gemv_store", "table_gemv_add", "", "", ""};

/// Stored and added for one token, for a few, for a prompt. Rows in the order of
/// StoredWeight::Kind.
using PlainNames = std::array<std::string_view, 6>;
constexpr PlainNames kPlainNames[] = {
    {},
    {"dense_gemv_f32_store", "dense_gemv_f32_add", "dense_columns_f32_store",
     "dense_columns_f32_add", "dense_gemm_f32_store", "dense_gemm_f32_add"},
    {"dense_gemv_f16_store", "dense_gemv_f16_add", "dense_columns_f16_store",
     "dense_columns_f16_add", "dense_gemm_f16_store", "dense_gemm_f16_add"},
    {"dense_gemv_bf16_store", "dense_gemv_bf16_add", "dense_columns_bf16_store",
     "dense_columns_bf16_add", "dense_gemm_bf16_store", "dense_gemm_bf16_add"},
    {"int2_gemv_store", "int2_gemv_add", "int2_columns_store", "int2_columns_add",
     "int2_gemm_store", "int2_gemm_add"},
    {"int3_gemv_store", "int3_gemv_add", "int3_columns_store", "int3_columns_add",
     "int3_gemm_store", "int3_gemm_add"},
    {"int4_gemv_store", "int4_gemv_add", "int4_columns_store", "int4_columns_add",
     "int4_gemm_store", "int4_gemm_add"},
    {"int8_gemv_store", "int8_gemv_add", "int8_columns_store", "int8_columns_add",
     "int8_gemm_store", "int8_gemm_add"},
    {},
};

/// In the order of StoredWeight::Kind.
constexpr std::string_view kEmbedNames[] = {"",           "embed_f32",  "embed_f16",
                                            "embed_bf16", "embed_int2", "embed_int3",
                                            "embed_int4", "embed_int8", ""};

/// In the order of KvType.
constexpr KvKernels kKvKernels[] = {
    {"kv_append_f32", "attention_decode_f32", "attention_split_f32", "prompt_attention_f32"},
    {"kv_append_f16", "attention_decode_f16", "attention_split_f16", "prompt_attention_f16"},
    {"kv_append_i8", "attention_decode_i8", "attention_split_i8", "prompt_attention_i8"},
};

/// Stored bits that popcount multiplies in a second on the smallest chip of a family: its cores *
/// 128 lanes * clock / 1.25 issue slots a bit (seven cores of the M1 at 1.28 GHz; eight of the M2
/// and of later ones at 1.4). Predicted, never measured; what hangs on it is only how often prefill
/// looks up.
constexpr double kBitsPerSecondM1 = 7 * 128 * 1.28e9 / 1.25;
constexpr double kBitsPerSecondM2 = 8 * 128 * 1.40e9 / 1.25;
constexpr int kFamilyM2 = 8;
/// The first whose matrix units do several times what its other lanes do; before it, 128 lanes at a
/// popcount's slot a sign are more than the 102 multiply-adds a cycle of simdgroup_matrix.
constexpr int kFamilyM5 = 10;
constexpr double kBufferSeconds = 0.25;

constexpr std::string_view kSignNames[] = {"popcount", "select"};     // by SignKernel
constexpr std::string_view kPromptNames[] = {"columns", "matrices"};  // by PromptKernel

}  // namespace

GpuPolicy gpu_policy(int family) {
  GpuPolicy policy;
  const double bits = family >= kFamilyM2 ? kBitsPerSecondM2 : kBitsPerSecondM1;
  policy.buffer_work = kBufferSeconds * bits;
  if (family >= kFamilyM5) policy.prompt_kernel = PromptKernel::kMatrix;
  return policy;
}

std::string policy_name(const GpuPolicy& policy) {
  return std::string(kSignNames[static_cast<size_t>(policy.sign_kernel)]) + " " +
         std::string(kPromptNames[static_cast<size_t>(policy.prompt_kernel)]);
}

uint32_t attention_splits(const GpuPolicy& policy, int64_t tokens, int64_t positions) {
  if (tokens != 1 || positions <= policy.split_positions) return 1;
  const int64_t pieces = (positions + policy.split_positions - 1) / policy.split_positions;
  return static_cast<uint32_t>(std::min<int64_t>(2 * pieces, policy.most_splits));
}

std::string_view gemv_kernel(SignKernel sign, StoredWeight::TermTag matrix, Epilogue epilogue) {
  const auto index = static_cast<size_t>(epilogue);
  switch (matrix) {
    case StoredWeight::TermTag::kSign:
    case StoredWeight::TermTag::kFactored:
      return sign == SignKernel::kPopcount ? kPopcountNames[index] : kSelectNames[index];
    case StoredWeight::TermTag::kCode84:
      return kCode84Names[index];
    case StoredWeight::TermTag::kTable:
      return kTableNames[index];
  }
  return "";
}

std::string_view columns_kernel(StoredWeight::TermTag matrix, Epilogue epilogue) {
  const auto index = static_cast<size_t>(epilogue);
  if (matrix == StoredWeight::TermTag::kTable) return "";
  return matrix == StoredWeight::TermTag::kCode84 ? kCode84ColumnsNames[index]
                                                  : kColumnsNames[index];
}

std::string_view gemm_kernel(StoredWeight::TermTag matrix) {
  if (matrix == StoredWeight::TermTag::kTable) return "table_gemm_sums";
  return matrix == StoredWeight::TermTag::kCode84 ? "code84_gemm_sums" : "sign_gemm_sums";
}

CallSize call_size(const GpuPolicy& policy, int64_t tokens) {
  if (tokens == 1) return CallSize::kOne;
  return tokens < policy.prompt_tokens ? CallSize::kFew : CallSize::kPrompt;
}

std::string_view plain_kernel(StoredWeight::Kind kind, OutputMode mode, CallSize size) {
  const size_t column = 2 * static_cast<size_t>(size) + (mode == OutputMode::kAdd ? 1 : 0);
  return kPlainNames[static_cast<size_t>(kind)][column];
}

std::string_view embed_kernel(StoredWeight::Kind kind) {
  return kEmbedNames[static_cast<size_t>(kind)];
}

KvKernels kv_kernels(KvType type) { return kKvKernels[static_cast<size_t>(type)]; }

}  // namespace subbit
