import { expect, test } from "vitest";

import type { SystemMemory } from "../../lib/memory.js";
import { type PressureLevel, PressureWatch } from "../../lib/pressure.js";

test("a listener hears when pressure rises, not when it falls or stays", () => {
  let level: SystemMemory["pressure"] = "normal";
  const watch = new PressureWatch(() => level);
  const heard: PressureLevel[] = [];
  const end = watch.add(({ level }) => heard.push(level));
  for (const next of ["normal", "warning", "warning", "critical", "warning", "critical"] as const) {
    level = next;
    watch.poll();
  }
  expect(heard).toEqual(["warning", "critical", "critical"]);
  end();
  level = "normal";
  watch.poll();
  level = "critical";
  watch.poll();
  expect(heard).toHaveLength(3);
});
