/**
 * Reads what a prebuilt Linux addon asks of the machine that loads it: processor, libraries,
 * undefined symbols and the newest version of glibc it names, from the dynamic section of a 64-bit
 * little-endian ELF file.
 */

const machines = /** @type {Record<number, string>} */ ({ 62: "x64", 183: "arm64" });
const tag = { needed: 1, strtab: 5, symtab: 6, verneed: 0x6ffffffe, verneednum: 0x6fffffff };
const segment = { load: 1, dynamic: 2 };
const section = { dynsym: 11 };

/**
 * @typedef {{ cpu: string, libraries: string[], undefined: string[], glibc: string }} Elf
 */

/**
 * @param {Buffer} bytes
 * @returns {Elf}
 */
export function readElf(bytes) {
  if (bytes.length < 64 || bytes.readUInt32BE(0) !== 0x7f454c46 || bytes[4] !== 2) {
    throw new Error("not a 64-bit ELF file");
  }
  const word = (/** @type {number} */ at) => Number(bytes.readBigUInt64LE(at));
  const segments = Array.from({ length: bytes.readUInt16LE(56) }, (_, i) => {
    const at = word(32) + bytes.readUInt16LE(54) * i;
    const [offset, address, size] = [word(at + 8), word(at + 16), word(at + 32)];
    return { type: bytes.readUInt32LE(at), offset, address, size };
  });
  const offsetOf = (/** @type {number} */ address) => {
    const home = segments.find(
      ({ type, address: start, size }) =>
        type === segment.load && address >= start && address < start + size,
    );
    return home ? address - home.address + home.offset : 0;
  };
  const dynamic = segments.find(({ type }) => type === segment.dynamic);
  if (!dynamic) throw new Error("not a dynamic ELF file");
  const entries = Array.from({ length: dynamic.size / 16 }, (_, i) => ({
    tag: word(dynamic.offset + 16 * i),
    value: word(dynamic.offset + 16 * i + 8),
  }));
  const first = (/** @type {number} */ wanted) =>
    entries.find((entry) => entry.tag === wanted)?.value ?? 0;
  const strings = offsetOf(first(tag.strtab));
  const text = (/** @type {number} */ at) =>
    bytes.toString("utf8", strings + at, bytes.indexOf(0, strings + at));
  return {
    cpu: machines[bytes.readUInt16LE(18)] ?? "unknown",
    libraries: entries.filter((entry) => entry.tag === tag.needed).map(({ value }) => text(value)),
    undefined: undefinedSymbols(bytes, text),
    glibc: newestGlibc(bytes, offsetOf(first(tag.verneed)), first(tag.verneednum), text),
  };
}

/**
 * @param {Buffer} bytes
 * @param {(at: number) => string} text
 */
function undefinedSymbols(bytes, text) {
  const sections = Number(bytes.readBigUInt64LE(40));
  const found = [];
  for (let i = 0; i < bytes.readUInt16LE(60); ++i) {
    const header = sections + bytes.readUInt16LE(58) * i;
    if (bytes.readUInt32LE(header + 4) !== section.dynsym) continue;
    const start = Number(bytes.readBigUInt64LE(header + 24));
    const size = Number(bytes.readBigUInt64LE(header + 32));
    for (let at = start + 24; at < start + size; at += 24) {
      if (bytes.readUInt16LE(at + 6) === 0) found.push(text(bytes.readUInt32LE(at)));
    }
  }
  return found;
}

/**
 * "2.28": the newest GLIBC_ version any library is asked for; "" for none.
 * @param {Buffer} bytes
 * @param {number} at the first needed library's record
 * @param {number} count
 * @param {(at: number) => string} text
 */
function newestGlibc(bytes, at, count, text) {
  let newest = "";
  for (let library = at; count > 0; --count, library += bytes.readUInt32LE(library + 12)) {
    let need = library + bytes.readUInt32LE(library + 8);
    for (let left = bytes.readUInt16LE(library + 2); left > 0; --left) {
      const version = /^GLIBC_(\d+\.\d+)/.exec(text(bytes.readUInt32LE(need + 8)))?.[1] ?? "";
      if (versionNumber(version) > versionNumber(newest)) newest = version;
      need += bytes.readUInt32LE(need + 12);
    }
  }
  return newest;
}

/**
 * "2.28" as a number that sorts.
 * @param {string} version
 */
export function versionNumber(version) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return 1000 * major + minor;
}
