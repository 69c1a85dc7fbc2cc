/** What `subbit doctor` tells people of a GPU, on a report as a Mac would give it. */
import { expect, test } from "vitest";

import { asJson, asText } from "../../lib/cli/doctor.js";
import type { DoctorReport } from "../../lib/index.js";

const report: DoctorReport = {
  version: "0.1.0",
  platform: "darwin-arm64",
  node: "v20.20.0",
  cpu: {
    name: "Apple M1",
    performanceCores: 4,
    signKernel: "neon_dot",
    promptKernel: "accelerate",
    promptKernels: ["neon_dot", "accelerate"],
  },
  gpu: {
    name: "Apple M1",
    system: "macOS 14.5 (23F79)",
    family: 7,
    maxBufferBytes: 4 << 30,
    workingSetBytes: 5 << 30,
    threadgroupBytes: 32768,
    bytesPerSecond: 60e9,
    timedRows: 4096,
    trial: { passed: true, kernels: "popcount columns" },
    kernels: [
      {
        name: "sign_gemv_store",
        verdict: "right",
        maxThreads: 1024,
        speed: { tokens: 1, seconds: 46e-6, bytesPerSecond: 45e9, bandwidthFraction: 0.75 },
      },
      { name: "swiglu", verdict: "right", maxThreads: 1024 },
      { name: "rope", verdict: "unusable", maxThreads: 0, reason: "error: no such type" },
      { name: "argmax", verdict: "wrong", maxThreads: 1024, reason: "it finds another logit" },
    ],
  },
};

test("each timed kernel stands beside the fraction of the measured bandwidth it reaches", () => {
  const text = asText(report);
  expect(text).toContain("reads 60.0 GB/s; weights of 4096 x 4096");
  expect(text).toMatch(/sign_gemv_store +right +1 token +46\.0 us +45\.0 GB\/s +75 %/);
  expect(text).toMatch(/swiglu +right\s/);
});

test("what came of the trial is said, and which kernels it chose", () => {
  expect(asText(report)).toContain("answers as the processor does");
  expect(asText(report)).toContain("popcount columns");
  const { gpu } = report;
  if (!gpu) throw new Error("the report has a GPU");
  const failed = { passed: false, reason: "its answers diverge" };
  expect(asText({ ...report, gpu: { ...gpu, trial: failed } })).toContain("diverge");
});

test("what multiplies prompts is named where there is a choice", () => {
  const choice = "prompts: accelerate, the fastest of neon_dot, accelerate";
  expect(asText(report)).toContain(choice);
  const cpu = { ...report.cpu, promptKernel: "neon_dot", promptKernels: ["neon_dot"] };
  expect(asText({ ...report, cpu })).not.toContain("prompts:");
});

test("each kernel's verdict is there, and why it is not right", () => {
  const text = asText(report);
  expect(text).toContain("2 of 4 kernels compute what the processor computes");
  expect(text).toContain("rope is unusable: error: no such type");
  expect(text).toContain("argmax is wrong: it finds another logit");
});

test("scripts find the same verdicts", () => {
  const kernels = asJson(report).gpu?.kernels ?? [];
  expect(kernels.map(({ name, verdict, reason }) => [name, verdict, reason])).toEqual([
    ["sign_gemv_store", "right", undefined],
    ["swiglu", "right", undefined],
    ["rope", "unusable", "error: no such type"],
    ["argmax", "wrong", "it finds another logit"],
  ]);
});

test("what went wrong with a GPU while it was timed is said", () => {
  expect(asText({ ...report, gpuReason: "the GPU gave up" })).toContain("the GPU gave up");
});
