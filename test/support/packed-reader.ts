/**
 * A second, independent reader of subbit's files: safetensors, packed linears with the tables they
 * share, and groups of few bits, written from the layout's description alone and sharing no line
 * with the engine. Slow on purpose.
 */
import { readFileSync } from "node:fs";

export interface RawTensor {
  name: string;
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
  /** Where the tensor begins in the file. */
  fileOffset: number;
}

export function readSafetensors(path: string): { tensors: RawTensor[]; fileBytes: number } {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerBytes));
  const tensors: RawTensor[] = [];
  for (const [name, entry] of Object.entries<Record<string, unknown>>(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = entry.data_offsets as [number, number];
    const fileOffset = 8 + headerBytes + begin;
    const bytes = new Uint8Array(file.subarray(fileOffset, 8 + headerBytes + end));
    const shape = entry.shape as number[];
    tensors.push({ name, dtype: entry.dtype as string, shape, bytes, fileOffset });
  }
  return { tensors, fileBytes: file.length };
}

export function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

export interface Matrix {
  rows: number;
  cols: number;
  values: Float32Array;
}

/** Signs of one stored matrix: quads of rows, words of 32 columns, bit 1 for +1. */
function signReader(view: DataView, at: number, cols: number): (i: number, j: number) => number {
  const words = Math.ceil(cols / 32);
  return (i, j) => {
    const unit = Math.floor(i / 4) * words + Math.floor(j / 32);
    const word = view.getUint32(at + 16 * unit + 4 * (i % 4), true);
    return (word >>> (j % 32)) & 1 ? 1 : -1;
  };
}

const signBytes = (rows: number, cols: number) => 16 * Math.ceil(rows / 4) * Math.ceil(cols / 32);
const alignUp = (bytes: number, alignment: number) => Math.ceil(bytes / alignment) * alignment;

interface Term {
  kind: number;
  /** Of factored. */
  rank: number;
  /** Of table: columns an index byte stands for, and which table. */
  width: number;
  table: number;
  first: number;
  columns: number;
  gain: number;
  mid: boolean;
}

function readTerms(view: DataView): Term[] {
  const terms: Term[] = [];
  for (let t = 0; t < view.getUint8(4); t++) {
    const at = 16 + 16 * t;
    terms.push({
      kind: view.getUint8(at),
      mid: (view.getUint8(at + 1) & 1) !== 0,
      rank: 32 * view.getUint16(at + 2, true),
      width: view.getUint8(at + 2),
      table: view.getUint8(at + 3),
      first: view.getUint32(at + 4, true),
      columns: view.getUint32(at + 8, true),
      gain: view.getFloat32(at + 12, true),
    });
  }
  return terms;
}

const indexWords = (term: Term) => Math.ceil(Math.ceil(term.columns / term.width) / 4);

function termWordBytes(term: Term, rows: number): number {
  if (term.kind === 1) return signBytes(rows, term.columns);
  if (term.kind === 2) return signBytes(rows, term.columns / 2);
  if (term.kind === 3) return signBytes(term.rank, term.columns) + signBytes(rows, term.rank);
  if (term.kind === 5) return 16 * Math.ceil(rows / 4) * indexWords(term);
  throw new Error(`term kind ${term.kind}`);
}

/** One weight of a term before gain and scales. */
type Element = (i: number, j: number) => number;

/** Eight signs, 32 columns apart, from four stored ones: those of i1..i3 count by the bits of t. */
function readCode84(stored: Element): Element {
  return (i, j) => {
    const t = Math.floor((j % 256) / 32);
    const at = 128 * Math.floor(j / 256) + (j % 32);
    const bit = (k: number) => (stored(i, at + 32 * k) > 0 ? 1 : 0);
    const sum = bit(0) + (t & 1 && bit(1)) + (t & 2 && bit(2)) + (t & 4 && bit(3));
    return sum % 2 ? 1 : -1;
  };
}

/** The entry of the table that the index byte of 4, 8 or 16 columns names. */
function readTable(view: DataView, at: number, term: Term, table: Int8Array): Element {
  return (i, j) => {
    const vector = Math.floor(j / term.width);
    const unit = Math.floor(i / 4) * indexWords(term) + Math.floor(vector / 4);
    const index = view.getUint8(at + 16 * unit + 4 * (i % 4) + (vector % 4));
    return table[index * term.width + (j % term.width)] ?? Number.NaN;
  };
}

function readFactored(view: DataView, at: number, term: Term, mid: number[]): Element {
  const v = signReader(view, at, term.columns);
  const u = signReader(view, at + signBytes(term.rank, term.columns), term.rank);
  return (i, j) => {
    let sum = 0;
    for (let k = 0; k < term.rank; k++) {
      const scaled = Math.fround(u(i, k) * (mid[k] ?? 1));
      sum = Math.fround(sum + Math.fround(scaled * v(k, j)));
    }
    return sum;
  };
}

/** The model's tables by number: tensors model.tables.<number>. */
export type Tables = Map<number, Int8Array>;

export function readTables(tensors: RawTensor[]): Tables {
  const tables: Tables = new Map();
  for (const { name, bytes } of tensors) {
    const number = /^model\.tables\.(\d+)$/.exec(name)?.[1];
    if (number) tables.set(Number(number), new Int8Array(bytes.buffer, bytes.byteOffset));
  }
  return tables;
}

/** A packed linear as float32, every operation rounded as the reference rounds it. */
export function readPacked(bytes: Uint8Array, tables: Tables = new Map()): Matrix {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tag = String.fromCharCode(...bytes.subarray(0, 4));
  if (tag !== "SBL1") throw new Error(`tag ${tag}`);
  const flags = view.getUint8(5);
  const rows = view.getUint32(8, true);
  const cols = view.getUint32(12, true);
  const terms = readTerms(view);
  let at = 16 + 16 * terms.length;
  const takeHalves = (count: number) => {
    const values = Array.from({ length: count }, (_, i) =>
      halfToNumber(view.getUint16(at + 2 * i, true)),
    );
    at += 2 * count;
    return values;
  };
  if (flags & 2) at += 4 * rows;
  const post = takeHalves(rows);
  const pre = flags & 1 ? takeHalves(cols) : undefined;
  const mids = terms.map((term) => (term.mid ? takeHalves(term.rank) : []));
  const words = terms.reduce((sum, term) => sum + termWordBytes(term, rows), 0);
  const alignment = words >= 65536 ? 128 : 32;
  at = alignUp(at, alignment);

  const elementOf = (term: Term, mid: number[]): Element => {
    if (term.kind === 1) return signReader(view, at, term.columns);
    if (term.kind === 2) return readCode84(signReader(view, at, term.columns / 2));
    if (term.kind === 3) return readFactored(view, at, term, mid);
    return readTable(view, at, term, tables.get(term.table) ?? new Int8Array());
  };
  const values = new Float32Array(rows * cols);
  terms.forEach((term, t) => {
    const element = elementOf(term, mids[t] ?? []);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < term.columns; j++) {
        const index = i * cols + term.first + j;
        values[index] = (values[index] ?? 0) + Math.fround(element(i, j) * term.gain);
      }
    }
    at += termWordBytes(term, rows);
  });
  if (alignUp(at, alignment) !== bytes.length) throw new Error(`${at} of ${bytes.length} bytes`);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      const index = i * cols + j;
      const scaled = Math.fround((values[index] ?? 0) * (post[i] ?? 0));
      values[index] = pre ? scaled * (pre[j] ?? 0) : scaled;
    }
  }
  return { rows, cols, values };
}

/** How the codes of `group` columns lie in `group * bits / 8` bytes. */
type ReadCode = (bytes: Uint8Array, at: number, group: number, column: number) => number;

const quarter = (bytes: Uint8Array, at: number, group: number, column: number) =>
  ((bytes[at + (column % (group / 4))] ?? 0) >> (2 * Math.floor(column / (group / 4)))) & 3;

const codes: Record<number, ReadCode> = {
  2: (...place) => 2 * quarter(...place) - 3,
  3: (bytes, at, group, column) => {
    const high = (bytes[at + group / 4 + Math.floor(column / 8)] ?? 0) >> (column % 8);
    return 2 * (quarter(bytes, at, group, column) + 4 * (high & 1)) - 7;
  },
  4: (bytes, at, group, column) => {
    const byte = bytes[at + (column % (group / 2))] ?? 0;
    return (column < group / 2 ? byte & 15 : byte >> 4) - 8;
  },
  8: (bytes, at, _, column) => ((bytes[at + column] ?? 0) << 24) >> 24,
};

/** A matrix [rows, cols] of the format int2, int3, int4 or int8 as float32. */
export function readGroups(bytes: Uint8Array, rows: number, cols: number, bits: number): Matrix {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const group = cols % 64 === 0 ? 64 : 32;
  const groups = Math.ceil(cols / group);
  const unit = (group * bits) / 8;
  const scalesAt = rows * groups * unit;
  if (bytes.length !== alignUp(scalesAt + 2 * rows * groups, 128)) throw new Error("length");
  const readCode = codes[bits] ?? (() => Number.NaN);
  const values = new Float32Array(rows * cols);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      const g = i * groups + Math.floor(j / group);
      const scale = halfToNumber(view.getUint16(scalesAt + 2 * g, true));
      values[i * cols + j] = readCode(bytes, g * unit, group, j % group) * scale;
    }
  }
  return { rows, cols, values };
}
