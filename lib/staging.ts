/**
 * Puts a finished directory in its place in one step. The writer works in `<out>.partial`; only
 * when all is there does it take the name `out`, so that `out` is never half a model.
 */
import { randomUUID } from "node:crypto";
import { copyFile, mkdir, readdir, realpath, rename, rm, rmdir, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";

import { invalidOption } from "./check.js";
import { fromFileSystem, ModelError } from "./errors.js";

export interface Staging {
  /** Where the finished directory will be, absolute. */
  out: string;
  /** Where it is written. */
  partial: string;
}

/**
 * Checks that `out` may be written and clears what an earlier run left in `<out>.partial`.
 * @throws ModelError INVALID_OPTION if `out` holds something and `overwrite` is false, or if it is
 * `source`, which is still being read when it would be replaced.
 */
export async function stage(
  out: string,
  { overwrite = false, source }: { overwrite?: boolean; source?: string } = {},
): Promise<Staging> {
  const place = resolve(out);
  if (source !== undefined) {
    const [real, realSource] = await Promise.all([place, source].map(realPath));
    if (real === realSource) throw invalidOption("out", "another directory than the model's", out);
  }
  const isFree = await isAbsentOrEmpty(place);
  if (!isFree && !overwrite) {
    throw invalidOption("out", "a directory that does not exist yet, unless overwrite is set", out);
  }
  const partial = `${place}.partial`;
  try {
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
  } catch (error) {
    throw fromFileSystem(error, partial, "create");
  }
  return { out: place, partial };
}

/** Copies `files` into the staged directory, under their own names. */
export async function addFiles({ partial }: Staging, files: readonly string[]): Promise<void> {
  for (const file of files) {
    await copyFile(file, join(partial, basename(file))).catch((error: unknown) => {
      throw fromFileSystem(error, file, "copy");
    });
  }
}

/** Writes one file into the staged directory. */
export async function addText({ partial }: Staging, name: string, text: string): Promise<void> {
  const file = join(partial, name);
  await writeFile(file, text).catch((error: unknown) => {
    throw fromFileSystem(error, file, "write");
  });
}

/** Gives the staged directory its name; a directory that had it before is removed afterwards. */
export async function publish({ out, partial }: Staging): Promise<void> {
  try {
    // An empty directory holds the name as well, and not every system renames over it.
    if (await isAbsentOrEmpty(out)) {
      await rmdir(out).catch(ignoreAbsent);
      await rename(partial, out);
      return;
    }
    const old = `${out}.old-${randomUUID().slice(0, 8)}`;
    await rename(out, old);
    try {
      await rename(partial, out);
    } catch (error) {
      await rename(old, out);
      throw error;
    }
    await rm(old, { recursive: true, force: true });
  } catch (error) {
    throw fromFileSystem(error, out, "put the finished model at");
  }
}

/** Removes what was staged, after a failure. */
export async function discard({ partial }: Staging): Promise<void> {
  await rm(partial, { recursive: true, force: true }).catch(() => {});
}

async function isAbsentOrEmpty(directory: string): Promise<boolean> {
  try {
    return (await readdir(directory)).length === 0;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return true;
    if (code === "ENOTDIR") {
      throw new ModelError("FILE_ERROR", `${directory} is a file, not a directory`, {
        details: { file: directory, expected: "a directory", actual: "a file" },
        cause: error,
      });
    }
    throw fromFileSystem(error, directory, "look into");
  }
}

function ignoreAbsent(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}

async function realPath(path: string): Promise<string> {
  return await realpath(path).catch(() => resolve(path));
}
