/**
 * synthesize(): a model of a true shape with random codes, to measure speed and memory before there
 * is a model to compress: neither depends on what the codes say. The directory appears whole or not
 * at all. It has no tokenizer, because nothing that it says means anything.
 */
import { existsSync } from "node:fs";

import { invalidOption } from "./check.js";
import { runJob } from "./job.js";
import { nativeAddon } from "./native.js";
import { resolveSynthesize, type SynthesizeOptions } from "./options.js";
import { shapes } from "./shapes.js";
import { readJson } from "./source.js";
import { discard, publish, stage } from "./staging.js";

export interface SynthesizeReport {
  /** The directory that was written. */
  out: string;
  /** Weights in all, tied ones counted once. */
  parameters: number;
  bitsPerWeight: { body: number; file: number };
  bytes: number;
  wallMs: number;
}

/** Writes a random model into `options.out`. @throws ModelError; or the signal's reason */
export async function synthesize(options: SynthesizeOptions): Promise<SynthesizeReport> {
  const { shape, out, bitsPerWeight, seed, signal, onProgress } = resolveSynthesize(options);
  signal?.throwIfAborted();
  const started = performance.now();
  const config = JSON.stringify(await configOf(shape));
  const staging = await stage(out);
  try {
    const request = { config, out: staging.partial, bitsPerWeight, seed: BigInt(seed) };
    const result = await runJob((report) => nativeAddon().synthesize(request, report), {
      signal,
      onProgress,
    });
    await publish(staging);
    const { bitsPerWeightBody, bitsPerWeightFile, parameters, bytes } = result;
    return {
      out: staging.out,
      parameters,
      bitsPerWeight: { body: bitsPerWeightBody, file: bitsPerWeightFile },
      bytes,
      wallMs: performance.now() - started,
    };
  } catch (error) {
    await discard(staging);
    throw error;
  }
}

async function configOf(shape: string): Promise<Readonly<Record<string, unknown>>> {
  if (Object.hasOwn(shapes, shape)) return shapes[shape] ?? {};
  if (existsSync(shape)) return await readJson(shape, "read the config");
  const names = Object.keys(shapes).join(", ");
  throw invalidOption("shape", `the path of a config.json, or one of ${names}`, shape);
}
