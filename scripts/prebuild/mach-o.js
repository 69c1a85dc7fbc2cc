/**
 * Reads what a prebuilt macOS addon says of itself: processor, oldest macOS, libraries, undefined
 * symbols and signature of a thin 64-bit Mach-O file. Enough for the checks of checks.js, on any
 * machine, with no developer tools.
 */

const magic64 = 0xfeedfacf;
const cpuNames = /** @type {Record<number, string>} */ ({ 16777228: "arm64", 16777223: "x64" });
const fileTypes = /** @type {Record<number, string>} */ ({ 6: "dylib", 8: "bundle" });
const command = {
  symtab: 0x2,
  loadDylib: 0xc,
  weakDylib: 0x80000018,
  reexportDylib: 0x8000001f,
  signature: 0x1d,
  buildVersion: 0x32,
};
const platformMacOs = 1;

/**
 * `library`: "" when looked up in whatever process loads the file.
 * @typedef {{ name: string, library: string }} UndefinedSymbol
 * @typedef {{ cpu: string, type: string, minimumOs: string, libraries: string[],
 *   undefined: UndefinedSymbol[], signature: "none" | "adhoc" | "other" }} MachO
 */

/**
 * @param {Buffer} bytes
 * @returns {MachO}
 */
export function readMachO(bytes) {
  if (bytes.length < 32 || bytes.readUInt32LE(0) !== magic64) {
    throw new Error("not a thin 64-bit Mach-O file");
  }
  /** @type {MachO} */
  const facts = {
    cpu: cpuNames[bytes.readUInt32LE(4)] ?? "unknown",
    type: fileTypes[bytes.readUInt32LE(12)] ?? "unknown",
    minimumOs: "",
    libraries: [],
    undefined: [],
    signature: "none",
  };
  let symtab = -1;
  for (let at = 32, left = bytes.readUInt32LE(16); left > 0; --left) {
    const kind = bytes.readUInt32LE(at);
    if ([command.loadDylib, command.weakDylib, command.reexportDylib].includes(kind)) {
      facts.libraries.push(text(bytes, at + bytes.readUInt32LE(at + 8)));
    } else if (kind === command.buildVersion) {
      facts.minimumOs = minimumOs(bytes, at);
    } else if (kind === command.signature) {
      facts.signature = signature(bytes, bytes.readUInt32LE(at + 8));
    } else if (kind === command.symtab) {
      symtab = at;
    }
    at += bytes.readUInt32LE(at + 4);
  }
  if (symtab >= 0) facts.undefined = undefinedSymbols(bytes, symtab, facts.libraries);
  return facts;
}

/**
 * @param {Buffer} bytes
 * @param {number} at
 */
function text(bytes, at) {
  return bytes.toString("utf8", at, bytes.indexOf(0, at));
}

/**
 * @param {Buffer} bytes
 * @param {number} at the load command
 */
function minimumOs(bytes, at) {
  if (bytes.readUInt32LE(at + 8) !== platformMacOs) return "not macOS";
  const version = bytes.readUInt32LE(at + 12);
  return `${version >> 16}.${(version >> 8) & 255}`;
}

/**
 * @param {Buffer} bytes
 * @param {number} at the symbol table's load command
 * @param {string[]} libraries in load order: what a symbol's ordinal counts, from 1
 */
function undefinedSymbols(bytes, at, libraries) {
  const symbols = bytes.readUInt32LE(at + 8);
  const count = bytes.readUInt32LE(at + 12);
  const strings = bytes.readUInt32LE(at + 16);
  const found = [];
  for (let i = 0; i < count; ++i) {
    const entry = symbols + 16 * i;
    const type = bytes.readUInt8(entry + 4);
    // Debugging entries aside, external and of no section.
    if ((type & 0xe0) !== 0 || (type & 0x0e) !== 0 || (type & 1) === 0) continue;
    const ordinal = bytes.readUInt16LE(entry + 6) >> 8;
    const name = text(bytes, strings + bytes.readUInt32LE(entry)).replace(/^_/, "");
    found.push({ name, library: libraries[ordinal - 1] ?? "" });
  }
  return found;
}

/**
 * Signatures are big-endian: a super blob that lists blobs, one of them the code directory, whose
 * flag 2 says ad hoc.
 * @param {Buffer} bytes
 * @param {number} at
 */
function signature(bytes, at) {
  if (bytes.readUInt32BE(at) !== 0xfade0cc0) return "none";
  for (let i = 0; i < bytes.readUInt32BE(at + 8); ++i) {
    const blob = at + bytes.readUInt32BE(at + 12 + 8 * i + 4);
    if (bytes.readUInt32BE(blob) !== 0xfade0c02) continue;
    return (bytes.readUInt32BE(blob + 12) & 2) !== 0 ? "adhoc" : "other";
  }
  return "none";
}
