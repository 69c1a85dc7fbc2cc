import { defineConfig } from "vitest/config";

/** The published package, end to end. Apart from `npm test`: it cross-compiles and installs. */
export default defineConfig({
  test: {
    include: ["test/package/*.test.ts"],
    fileParallelism: false,
    testTimeout: 1_800_000,
    hookTimeout: 1_800_000,
  },
});
