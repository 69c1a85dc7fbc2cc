/** What is in a model, counted from its files' bytes. Reads headers, no weights. */
import { fromNative } from "./errors.js";
import { nativeAddon } from "./native.js";
import { type ModelSource, pathOf } from "./source.js";

export interface InspectedTensor {
  name: string;
  /** Such as `"packed: factored r=160"`, `"int4"` or `"F16"`. */
  format: string;
  /** Of the weights that it stands for. */
  shape: number[];
  bytes: number;
  bitsPerWeight: number;
  /** Whether it counts towards body bits: a linear layer of a decoder block. */
  body: boolean;
}

export interface Inspection {
  architecture: string;
  /** Weights in all, tied ones counted once. */
  parameters: number;
  /** Of all weight files. */
  bytes: number;
  bitsPerWeight: { body: number; file: number };
  tensors: InspectedTensor[];
}

/** Looks into a model without loading it. @throws ModelError */
export async function inspect(source: string | ModelSource): Promise<Inspection> {
  const path = pathOf(source);
  try {
    const { bitsPerWeightBody, bitsPerWeightFile, ...rest } = await nativeAddon().inspect(path);
    return { ...rest, bitsPerWeight: { body: bitsPerWeightBody, file: bitsPerWeightFile } };
  } catch (error) {
    throw fromNative(error);
  }
}
