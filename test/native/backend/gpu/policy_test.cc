// The tables that choose kernels.
#include "backend/gpu/policy.h"

#include "support/metal_on_cpu/metal_on_cpu.h"
#include "support/test.h"

namespace subbit {
namespace {

using Tag = StoredWeight::TermTag;

TEST(every_kernel_the_policy_names_is_a_kernel_of_the_shaders) {
  for (const SignKernel sign : {SignKernel::kPopcount, SignKernel::kSelect}) {
    for (const Tag tag : {Tag::kSign, Tag::kCode84, Tag::kFactored, Tag::kTable}) {
      for (int end = 0; end <= static_cast<int>(Epilogue::kQkv); ++end) {
        const auto name = gemv_kernel(sign, tag, static_cast<Epilogue>(end));
        if (name.empty()) continue;
        EXPECT(!metal_on_cpu::arguments_of(name).empty());
        const auto columns = columns_kernel(tag, static_cast<Epilogue>(end));
        EXPECT_EQ(columns.empty(), tag == Tag::kTable);
        const auto gemm = gemm_kernel(tag);
        EXPECT(!metal_on_cpu::arguments_of(gemm).empty());
        if (!columns.empty()) EXPECT(!metal_on_cpu::arguments_of(columns).empty());
      }
    }
  }
}

TEST(every_kind_of_plain_weight_has_kernels_for_one_token_for_few_and_for_prompts) {
  for (int k = static_cast<int>(StoredWeight::Kind::kF32);
       k < static_cast<int>(StoredWeight::Kind::kPacked); ++k) {
    for (const OutputMode mode : {OutputMode::kOverwrite, OutputMode::kAdd}) {
      for (const CallSize size : {CallSize::kOne, CallSize::kFew, CallSize::kPrompt}) {
        const auto name = plain_kernel(static_cast<StoredWeight::Kind>(k), mode, size);
        EXPECT(!metal_on_cpu::arguments_of(name).empty());
      }
    }
    const auto embed = embed_kernel(static_cast<StoredWeight::Kind>(k));
    EXPECT(!metal_on_cpu::arguments_of(embed).empty());
  }
  EXPECT(embed_kernel(StoredWeight::Kind::kPacked).empty());
}

TEST(every_type_of_cache_has_kernels_to_keep_it_and_to_attend_over_it) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kI8}) {
    const KvKernels names = kv_kernels(type);
    for (const auto name : {names.append, names.attend, names.split, names.blocks}) {
      EXPECT(!metal_on_cpu::arguments_of(name).empty());
    }
  }
}

TEST(more_than_eight_tokens_are_a_prompt_and_matrices_multiply_it_from_the_m5_on) {
  const GpuPolicy m1 = gpu_policy(7);
  EXPECT(call_size(m1, 1) == CallSize::kOne);
  EXPECT(call_size(m1, 2) == CallSize::kFew && call_size(m1, 8) == CallSize::kFew);
  EXPECT(call_size(m1, 9) == CallSize::kPrompt);
  EXPECT(m1.prompt_kernel == PromptKernel::kColumns);
  EXPECT(gpu_policy(9).prompt_kernel == PromptKernel::kColumns);
  EXPECT(gpu_policy(10).prompt_kernel == PromptKernel::kMatrix);
}

TEST(attention_is_split_where_a_cache_is_long_and_for_single_tokens_only) {
  const GpuPolicy policy = gpu_policy(7);
  EXPECT(attention_splits(policy, 1, 1) == 1);
  EXPECT(attention_splits(policy, 1, 1024) == 1);
  EXPECT(attention_splits(policy, 1, 1025) > 1);
  EXPECT(attention_splits(policy, 1, 1 << 20) == policy.most_splits);
  EXPECT(attention_splits(policy, 2, 4096) == 1);
}

TEST(every_family_has_a_bound_on_a_command_buffers_work) {
  for (int family = 0; family < 14; ++family) EXPECT(gpu_policy(family).buffer_work > 1e9);
}

}  // namespace
}  // namespace subbit
