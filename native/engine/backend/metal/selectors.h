// Every message we send to Foundation and Metal, once, with its exact C signature. Nothing checks
// this table at compile time: a wrong type here is a crash on a Mac. Types follow the SDK's
// headers: NSUInteger is unsigned long, BOOL is bool, enumerations are NSUInteger unless noted.
#pragma once

#include <cstdint>

#include "backend/metal/objc.h"

namespace subbit::objc {

using UInteger = unsigned long;
using Integer = long;

/// MTLSize. 24 bytes: passed by reference to a copy, which the compiler knows to do.
struct Size {
  UInteger width = 1;
  UInteger height = 1;
  UInteger depth = 1;
};

template <typename Signature>
using M = Message<Signature>;

struct Selectors {
  // NSObject
  M<Id()> alloc_new{"new"};
  M<bool(Selector)> responds_to{"respondsToSelector:"};
  // NSString, NSError, NSArray, NSProcessInfo
  M<Id(const char*)> string_with_utf8{"stringWithUTF8String:"};
  M<const char*()> utf8_string{"UTF8String"};
  M<Id()> localized_description{"localizedDescription"};
  M<Integer()> code{"code"};
  M<UInteger()> count{"count"};
  M<Id(UInteger)> object_at{"objectAtIndex:"};
  M<Id()> process_info{"processInfo"};
  M<Id()> operating_system_version{"operatingSystemVersionString"};

  // MTLDevice
  M<Id()> name{"name"};
  M<bool(Integer)> supports_family{"supportsFamily:"};  // MTLGPUFamily is NSInteger
  M<UInteger()> max_buffer_length{"maxBufferLength"};
  M<uint64_t()> recommended_working_set{"recommendedMaxWorkingSetSize"};
  M<UInteger()> max_threadgroup_memory{"maxThreadgroupMemoryLength"};
  M<Id()> new_command_queue{"newCommandQueue"};
  M<Id(UInteger, UInteger)> new_buffer{"newBufferWithLength:options:"};
  M<Id(void*, UInteger, UInteger, void*)> new_buffer_no_copy{
      "newBufferWithBytesNoCopy:length:options:deallocator:"};
  M<Id(Id, Id, Id*)> new_library{"newLibraryWithSource:options:error:"};
  M<Id(Id, Id*)> new_pipeline{"newComputePipelineStateWithFunction:error:"};
  M<Id(Id, Id*)> new_residency_set{"newResidencySetWithDescriptor:error:"};  // macOS 15

  // MTLCompileOptions
  M<void(UInteger)> set_language_version{"setLanguageVersion:"};
  M<void(bool)> set_fast_math{"setFastMathEnabled:"};  // until macOS 15
  M<void(Integer)> set_math_mode{"setMathMode:"};      // macOS 15; NSInteger

  // MTLLibrary
  M<Id(Id)> new_function{"newFunctionWithName:"};
  M<Id()> function_names{"functionNames"};  // NSArray of NSString

  // MTLComputePipelineState
  M<UInteger()> max_threads{"maxTotalThreadsPerThreadgroup"};
  M<UInteger()> execution_width{"threadExecutionWidth"};

  // MTLBuffer
  M<void*()> contents{"contents"};

  // MTLCommandQueue, MTLCommandBuffer
  M<Id()> command_buffer{"commandBuffer"};
  M<void(Id)> add_residency_set{"addResidencySet:"};  // macOS 15
  M<Id(UInteger)> compute_encoder{"computeCommandEncoderWithDispatchType:"};
  M<void()> commit{"commit"};
  M<void()> wait_until_completed{"waitUntilCompleted"};
  M<UInteger()> status{"status"};
  M<Id()> error{"error"};

  // MTLComputeCommandEncoder
  M<void(Id)> set_pipeline{"setComputePipelineState:"};
  M<void(Id, UInteger, UInteger)> set_buffer{"setBuffer:offset:atIndex:"};
  M<void(const void*, UInteger, UInteger)> set_bytes{"setBytes:length:atIndex:"};
  M<void(UInteger, UInteger)> set_threadgroup_memory{"setThreadgroupMemoryLength:atIndex:"};
  M<void(Size, Size)> dispatch{"dispatchThreadgroups:threadsPerThreadgroup:"};
  M<void(UInteger)> memory_barrier{"memoryBarrierWithScope:"};
  M<void()> end_encoding{"endEncoding"};

  // MTLResidencySet (macOS 15; its commit is the command buffer's by name and type)
  M<void(Id)> add_allocation{"addAllocation:"};
  M<void(Id)> remove_allocation{"removeAllocation:"};
  M<void()> request_residency{"requestResidency"};
  M<void()> end_residency{"endResidency"};
};

inline const Selectors& selectors() {
  static const Selectors table;
  return table;
}

}  // namespace subbit::objc
