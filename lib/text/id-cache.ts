/**
 * Token ids of long texts on disk, so that a calibration or evaluation text is tokenized once per
 * tokenizer. A cache only: whatever is unreadable, damaged or unwritable is as if it were not
 * there.
 *
 * File: "SBID" | u32 number of ids | sha256 of the ids | int32 ids, all little endian.
 */
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

const magic = "SBID";
const digestBytes = 32;
const headBytes = 8 + digestBytes;

// Part of every key: raise it when ids may come out differently, as with a new release of the
// tokenizer library.
export const encoderVersion = "subbit-ids-2 @huggingface/tokenizers-0.2";

/** The key of a text under a tokenizer (its files' contents, one after another). */
export function cacheKey(text: string, tokenizerFiles: readonly Uint8Array[]): string {
  const hash = createHash("sha256").update(encoderVersion);
  for (const file of tokenizerFiles) hash.update(createHash("sha256").update(file).digest());
  return hash.update(text).digest("hex");
}

/** The ids kept under `key`, or undefined. */
export async function readCached(directory: string, key: string): Promise<Int32Array | undefined> {
  const file = await readFile(join(directory, `${key}.ids`)).catch(() => undefined);
  if (!file || file.length < headBytes || file.toString("latin1", 0, 4) !== magic) return undefined;
  const count = file.readUInt32LE(4);
  const body = file.subarray(headBytes);
  if (body.length !== 4 * count) return undefined;
  if (!digest(body).equals(file.subarray(8, headBytes))) return undefined;
  return Int32Array.from({ length: count }, (_, i) => body.readInt32LE(4 * i));
}

/** Keeps `ids` under `key`; silently does not where that is impossible. */
export async function writeCached(directory: string, key: string, ids: Int32Array): Promise<void> {
  const file = Buffer.alloc(headBytes + 4 * ids.length);
  file.write(magic, "latin1");
  file.writeUInt32LE(ids.length, 4);
  ids.forEach((id, i) => {
    file.writeInt32LE(id, headBytes + 4 * i);
  });
  digest(file.subarray(headBytes)).copy(file, 8);
  // Written beside its place and renamed, so that no reader ever sees half of it.
  const temporary = join(directory, `${key}.${randomUUID()}.tmp`);
  try {
    await mkdir(directory, { recursive: true });
    await writeFile(temporary, file);
    await rename(temporary, join(directory, `${key}.ids`));
  } catch {
    await rm(temporary, { force: true }).catch(() => {});
  }
}

function digest(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}
