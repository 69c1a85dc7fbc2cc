/** The soak in short: what leaks with every load or token shows within seconds. */
import { execFileSync } from "node:child_process";
import { join } from "node:path";

import { expect, test } from "vitest";

import { packageRoot } from "../../lib/package.js";

test("neither loading and disposing nor a session of one model grows", { timeout: 300_000 }, () => {
  const script = join(packageRoot, "scripts", "soak.js");
  const args = [script, "--cycles", "40", "--tokens", "1000"];
  const said = execFileSync(process.execPath, args, { encoding: "utf8" });
  expect(said.match(/holds/g)).toHaveLength(2);
});
