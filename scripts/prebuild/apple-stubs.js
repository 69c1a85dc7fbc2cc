/**
 * What a linker must know of Apple's libraries to link against them: the names we use, as text
 * stubs (.tbd) written by ourselves, so that no part of an SDK is needed or copied. A name that is
 * not in this table cannot be linked, which is the point: a typo fails here and not on a Mac.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const { symbols } = createRequire(import.meta.url)("node-api-headers");

/** Everything Node-API version 8 exports; the addon may need no more of its host. */
export const nodeApi = [...symbols.v8.js_native_api_symbols, ...symbols.v8.node_api_symbols];

/** @param {string} name */
const framework = (name) => `/System/Library/Frameworks/${name}.framework/Versions/A/${name}`;

/** Install name -> where its stub lies, and the C names we may use of it. */
export const appleLibraries = {
  [framework("Accelerate")]: {
    path: "System/Library/Frameworks/Accelerate.framework/Accelerate.tbd",
    symbols: ["cblas_sgemm"],
  },
  // Nothing of it is called: a process that has not loaded it is given no default Metal device.
  [framework("CoreGraphics")]: {
    path: "System/Library/Frameworks/CoreGraphics.framework/CoreGraphics.tbd",
    symbols: ["CGMainDisplayID"],
  },
  [framework("Metal")]: {
    path: "System/Library/Frameworks/Metal.framework/Metal.tbd",
    symbols: ["MTLCreateSystemDefaultDevice"],
  },
  "/usr/lib/libobjc.A.dylib": {
    path: "usr/lib/libobjc.tbd",
    symbols: [
      "objc_autoreleasePoolPop",
      "objc_autoreleasePoolPush",
      "objc_getClass",
      "objc_msgSend",
      "sel_registerName",
    ],
  },
};

/** Stands for the process that loads the addon: only in the strict link, never shipped. */
export const hostStub = { install: "/node-api-8", path: "usr/lib/libnode_api.tbd" };

/**
 * A library's stub: its install name and what it exports.
 * @param {string} install
 * @param {string[]} names
 */
export function tbd(install, names) {
  const exported = names.map((name) => `_${name}`).join(", ");
  return `--- !tapi-tbd
tbd-version:     4
targets:         [ arm64-macos ]
install-name:    '${install}'
exports:
  - targets:         [ arm64-macos ]
    symbols:         [ ${exported} ]
...
`;
}

/**
 * Writes every stub below `folder`, which then serves as -F <folder>/System/Library/Frameworks and
 * -L <folder>/usr/lib.
 * @param {string} folder
 */
export function writeAppleStubs(folder) {
  const stubs = [
    ...Object.entries(appleLibraries).map(([install, library]) => ({ install, ...library })),
    { ...hostStub, symbols: nodeApi },
  ];
  for (const { install, path, symbols: names } of stubs) {
    mkdirSync(dirname(join(folder, path)), { recursive: true });
    writeFileSync(join(folder, path), tbd(install, names));
  }
}

/** What zig compiles for: the first macOS with MSL 3.0, and the first chip. */
export const macTarget = ["-target", "aarch64-macos.13.0", "-mcpu=apple_m1"];

/**
 * Links against all of them.
 * @param {string} folder with the stubs
 */
export const appleOptions = (folder) => [
  ...["-F", `${folder}/System/Library/Frameworks`, "-L", `${folder}/usr/lib`],
  ...["-framework", "Accelerate", "-framework", "Metal", "-lobjc"],
  ...["-framework", "CoreGraphics"],
];
