// The one product of a CBLAS that is called: Accelerate's on Macs, any other's in the tests.
// Declared by hand so that a build needs the framework's stub, not its headers. Values as in cblas.
#pragma once

extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k,
                            float alpha, const float* a, int a_stride, const float* b, int b_stride,
                            float beta, float* c, int c_stride);

namespace subbit {

constexpr int kCblasRowMajor = 101;
constexpr int kCblasNoTrans = 111;
constexpr int kCblasTrans = 112;

}  // namespace subbit
