/** Safetensors files for tests that write models themselves. */

export interface TensorBytes {
  name: string;
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** Layout: u64 length of the header | the header, JSON | the tensors in the order given. */
export function safetensorsFile(tensors: TensorBytes[]): Buffer {
  const header: Record<string, object> = {};
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded, ...tensors.map((tensor) => tensor.bytes)]);
}
