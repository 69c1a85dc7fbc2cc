/**
 * Writes the shaders of metal/ as a C++ file of string literals, which the addon carries and Metal
 * compiles on the user's machine: `node scripts/build-shaders.js <out>`, what node-gyp and the
 * prebuilds run. CMakeLists.txt writes the same file without Node.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

import { filesBelow, root } from "./sources.js";

/** @param {string} out */
export function writeShaderFiles(out) {
  const files = filesBelow("metal", (path) => /\.(metal|h)$/.test(path)).map((path) => {
    const text = readFileSync(join(root, path), "utf8");
    return `{"${path.slice("metal/".length)}", R"MSL(${text})MSL"},\n`;
  });
  const lines = [
    '#include "backend/metal/shader_library.h"\nnamespace subbit {\n',
    "std::span<const ShaderFile> shader_files() {\n  static constexpr ShaderFile kFiles[] = {\n",
    ...files,
    "};\n  return kFiles;\n}\n}\n",
  ];
  mkdirSync(dirname(out), { recursive: true });
  writeFileSync(out, lines.join(""));
}

const [, script, out] = process.argv;
if (script === join(root, "scripts/build-shaders.js") && out) writeShaderFiles(out);
