/** The process that peers are measured in, our own engine in it: what it answers its parent. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { exampleModel } from "../../lib/index.js";

const script = join(import.meta.dirname, "../../bench/peers/engine.js");

describe("a peer's process", () => {
  let child: ChildProcess;
  const answer = async () => (await once(child, "message"))[0];

  beforeAll(() => {
    const options = { engine: "subbit", model: exampleModel, threads: 1, context: 64, peer: "" };
    child = fork(script, [JSON.stringify(options)], { serialization: "advanced" });
  });
  afterAll(() => child.kill());

  test("says what it is, then runs what it is told, as often as it is told", async () => {
    const ready = await answer();
    expect(ready.about).toMatch(/^subbit \d/);
    expect(ready.loadMs).toBeGreaterThan(0);
    for (const prompt of [
      [1, 410, 322],
      [1, 9, 8, 7, 6, 5],
    ]) {
      const running = answer();
      child.send({ prompt, tokens: 4 });
      const result = await running;
      // Prompt and tokens are timed apart.
      for (const ms of ["prefillMs", "decodeMs", "decodeCpuMs"] as const)
        expect(result[ms]).toBeGreaterThan(0);
      expect(result.peakRssBytes).toBeGreaterThan(10e6);
    }
  });

  test("fails aloud on a prompt that does not fit, and is gone", async () => {
    const exited = once(child, "exit");
    child.send({ prompt: Array.from({ length: 65 }, () => 3), tokens: 1 });
    expect((await exited)[0]).toBe(1);
  });
});
