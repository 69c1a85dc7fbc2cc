import { defineConfig } from "vitest/config";

/** The rules of the house read files and nothing else: they run before, and without, a build. */
const rules = ["test/tidy.test.ts", "test/tidy-rules.test.ts"];

export default defineConfig({
  test: {
    // Every file may use all cores through the engine, and some measure delays: one at a time.
    fileParallelism: false,
    reporters: ["default", ["json", { outputFile: "build/vitest.json" }]],
    projects: [
      // Seconds of work that take minutes on a machine with other things to do.
      { test: { name: "tidy", include: rules, testTimeout: 120_000 } },
      {
        test: {
          name: "subbit",
          include: ["test/**/*.test.ts"],
          exclude: [...rules, "test/package/**"],
          globalSetup: ["test/support/build.ts"],
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
