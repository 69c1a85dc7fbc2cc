/**
 * What a prebuilt addon must be, target by target, and every way a file falls short of it. A file
 * with a fault is never left in prebuilds/.
 */
import { appleLibraries, nodeApi } from "./apple-stubs.js";
import { versionNumber } from "./elf.js";

const systemLibrary = "/usr/lib/libSystem.B.dylib";
const oldestMacOs = "13.0";
/** What Node 20 itself needs of Linux: an addon that asks for more would exclude machines. */
const newestGlibc = "2.28";
const linuxLibraries = /^(libc|libm|libdl|libpthread|librt|ld-linux-[\w-]+)\.so\.\d+$/;
/** Electron refuses buffers over memory that it does not own. */
const refused = /napi_create_external_(array)?buffer/;

/**
 * @param {string[]} names
 * @returns {string[]}
 */
function hostFaults(names) {
  const asked = names.filter((name) => /^(napi_|node_api_|uv_|_ZNK?2v8|_ZNK?4node)/.test(name));
  const faults = asked
    .filter((name) => !nodeApi.includes(name))
    .map((name) => `needs ${name} of its host, which Node-API 8 does not have`);
  if (!asked.includes("napi_create_function")) faults.push("asks nothing of Node-API");
  return [...faults, ...asked.filter((name) => refused.test(name)).map((name) => `uses ${name}`)];
}

/**
 * @param {import("./mach-o.js").MachO} file
 * @returns {string[]} one sentence each; empty when the file may ship
 */
export function macFaults(file) {
  const faults = [];
  if (file.cpu !== "arm64") faults.push(`is for ${file.cpu}, not arm64`);
  if (file.minimumOs !== oldestMacOs)
    faults.push(`needs macOS ${file.minimumOs || "of no version"}`);
  if (file.signature !== "adhoc") faults.push(`is signed: ${file.signature}, not ad hoc`);
  for (const library of file.libraries) {
    if (library === systemLibrary || library in appleLibraries) continue;
    faults.push(`needs the library ${library}`);
  }
  for (const library of Object.keys(appleLibraries)) {
    if (!file.libraries.includes(library)) faults.push(`does not load ${library}`);
  }
  for (const { name, library } of file.undefined) {
    const known = appleLibraries[library];
    if (known && !known.symbols.includes(name)) faults.push(`needs ${name} of ${library}`);
    if (library === "" && !/^(napi_|node_api_)/.test(name)) {
      faults.push(`needs ${name} of whatever loads it`);
    }
  }
  return [...faults, ...hostFaults(file.undefined.map(({ name }) => name))];
}

/**
 * @param {import("./elf.js").Elf} file
 * @param {string} cpu as Node names it
 * @returns {string[]}
 */
export function linuxFaults(file, cpu) {
  const faults = [];
  if (file.cpu !== cpu) faults.push(`is for ${file.cpu}, not ${cpu}`);
  for (const library of file.libraries) {
    if (!linuxLibraries.test(library)) faults.push(`needs the library ${library}`);
  }
  if (versionNumber(file.glibc) > versionNumber(newestGlibc)) {
    faults.push(`needs glibc ${file.glibc}, newer than ${newestGlibc}`);
  }
  return [...faults, ...hostFaults(file.undefined)];
}
