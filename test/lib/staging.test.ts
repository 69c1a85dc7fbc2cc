import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";

import { describe, expect, test } from "vitest";

import { addText, discard, publish, stage } from "../../lib/staging.js";
import { temporaryDirectory } from "../support/tiny-model.js";

const source = temporaryDirectory();

async function written(out: string, text: string, overwrite = false) {
  const staging = await stage(out, { overwrite, source });
  await addText(staging, "model", text);
  return staging;
}

describe("a staged directory", () => {
  test("has its name only when it is published, and nothing else stays", async () => {
    const out = join(temporaryDirectory(), "made", "out");
    const staging = await written(out, "new");
    expect(existsSync(out)).toBe(false);
    await publish(staging);
    expect(readFileSync(join(out, "model"), "utf8")).toBe("new");
    expect(readdirSync(dirname(out))).toEqual(["out"]);
  });

  test("takes the place of an empty one", async () => {
    const out = temporaryDirectory();
    await publish(await written(out, "new"));
    expect(readdirSync(out)).toEqual(["model"]);
  });

  test("takes the place of a full one only if that is wanted, and then as a whole", async () => {
    const out = join(temporaryDirectory(), "out");
    mkdirSync(out);
    writeFileSync(join(out, "kept"), "old");
    await expect(written(out, "new")).rejects.toMatchObject({ code: "INVALID_OPTION" });
    const staging = await written(out, "new", true);
    expect(readdirSync(out)).toEqual(["kept"]);
    await publish(staging);
    expect(readdirSync(out)).toEqual(["model"]);
    expect(readdirSync(dirname(out))).toEqual(["out"]);
  });

  test("begins empty, whatever an earlier run left", async () => {
    const out = join(temporaryDirectory(), "out");
    mkdirSync(`${out}.partial`);
    writeFileSync(join(`${out}.partial`, "stale"), "");
    await publish(await written(out, "new"));
    expect(readdirSync(out)).toEqual(["model"]);
  });

  test("is gone when it is discarded", async () => {
    const out = join(temporaryDirectory(), "out");
    await discard(await written(out, "new"));
    expect(readdirSync(dirname(out))).toEqual([]);
  });

  test("never replaces the model it is made from, by whatever name", async () => {
    const link = join(temporaryDirectory(), "link");
    symlinkSync(source, link);
    for (const out of [source, link, join(source, "..", source.split("/").at(-1) ?? "")]) {
      const staging = stage(out, { overwrite: true, source });
      await expect(staging, out).rejects.toMatchObject({ code: "INVALID_OPTION" });
    }
  });

  test("is no file's successor", async () => {
    const file = join(temporaryDirectory(), "file");
    writeFileSync(file, "");
    const staging = stage(file, { overwrite: true, source });
    await expect(staging).rejects.toMatchObject({ code: "FILE_ERROR" });
  });
});
