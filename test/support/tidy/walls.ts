/**
 * The walls between the rooms, as data: who may include whom, and the checks over the edges that
 * the include and import lines draw. House rule and code must change together.
 */
import { posix } from "node:path";

import { blank } from "./blank.js";

/** A source file as the rules see it: its path in the repository, with forward slashes. */
export interface SourceFile {
  path: string;
  text: string;
}

export interface Edge {
  from: string;
  to: string;
  line: number;
}

/** Folders of formats/ that formats share; every other folder there is one format. */
const sharedByFormats = ["signs", "groups"];

interface Wall {
  /** The files it binds: a path prefix below native/, or a pattern over it. */
  room: string | RegExp;
  /** What they may include besides their own room, as prefixes below native/. */
  may: string[];
}

const base = "engine/base/";
const contracts = ["engine/formats/format.h", "engine/formats/term.h", "engine/formats/registry.h"];
const sharedFormats = sharedByFormats.map((folder) => `engine/formats/${folder}/`);

/** The first wall that matches a file binds it. */
export const walls: Wall[] = [
  { room: "binding/", may: ["engine/engine.h"] },
  { room: "engine/engine.h", may: [base] },
  { room: base, may: [] },
  { room: "engine/linalg/", may: [base] },
  { room: "engine/io/", may: [base] },
  {
    room: "engine/formats/registry.cc",
    may: [base, "engine/formats/"],
  },
  {
    // The contracts at the root of the room: a view of a tensor is io's.
    room: /^engine\/formats\/[^/]+$/,
    may: [base, "engine/io/safetensors.h"],
  },
  {
    room: /^engine\/formats\/signs\//,
    may: [base],
  },
  {
    room: /^engine\/formats\/[^/]+\//,
    may: [base, "engine/io/", "engine/linalg/", ...contracts, ...sharedFormats],
  },
  { room: "engine/backend/backend.h", may: [base, "engine/formats/format.h"] },
  {
    room: "engine/backend/cpu/",
    may: [
      base,
      "engine/linalg/",
      "engine/backend/backend.h",
      "engine/formats/format.h",
      "engine/formats/signs/",
    ],
  },
  {
    room: "engine/backend/tape/",
    may: [base, "engine/linalg/", "engine/backend/backend.h", "engine/formats/format.h"],
  },
  {
    room: "engine/backend/gpu/",
    may: [
      base,
      "../metal/",
      "engine/backend/backend.h",
      "engine/formats/format.h",
      "engine/formats/stored_weight.h",
      "engine/formats/signs/",
    ],
  },
  {
    room: "engine/backend/metal/",
    may: [base, "engine/backend/gpu/device.h"],
  },
  {
    room: "engine/models/",
    may: [base, "engine/io/", "engine/backend/backend.h", ...contracts],
  },
  {
    // The plan is a function of a model's config and of what back end and formats say they need.
    room: "engine/memory/",
    may: [
      base,
      "engine/engine.h",
      "engine/models/model.h",
      "engine/backend/backend.h",
      ...contracts,
    ],
  },
  {
    room: "engine/decoding/",
    may: [
      base,
      "engine/linalg/exponential.h",
      "engine/linalg/largest.h",
      "engine/models/model.h",
      "engine/backend/backend.h",
      "engine/memory/",
      ...contracts,
    ],
  },
  {
    // The kernels of a GPU beside the processor's, over weights that it makes itself.
    room: "engine/selftest/",
    may: [
      base,
      "engine/backend/backend.h",
      "engine/backend/cpu/cpu_backend.h",
      "engine/backend/gpu/",
      "engine/formats/packed/",
      ...contracts,
      ...sharedFormats,
    ],
  },
  {
    room: "engine/runtime/",
    may: [
      base,
      "engine/engine.h",
      "engine/io/",
      "engine/memory/",
      "engine/decoding/",
      "engine/models/model.h",
      "engine/models/registry.h",
      "engine/backend/backend.h",
      "engine/backend/cpu/cpu_backend.h",
      "engine/backend/gpu/",
      "engine/backend/metal/metal_device.h",
      "engine/selftest/",
      "engine/formats/signs/sign_dot.h",
      ...contracts,
    ],
  },
  {
    room: "engine/compress/",
    may: [
      base,
      "engine/engine.h",
      "engine/io/",
      "engine/linalg/",
      "engine/memory/",
      "engine/decoding/",
      "engine/models/",
      "engine/backend/backend.h",
      "engine/backend/cpu/cpu_backend.h",
      "engine/backend/tape/",
      // The container of every term kind: what compress/ plans for and writes.
      "engine/formats/packed/",
      ...contracts,
      ...sharedFormats,
    ],
  },
];

/** compress/fit/<format>/ and the one format it may name; `coded` fits all formats of codes. */
const fitRoom = /^engine\/compress\/fit\/([^/]+)/;
const codes = ["sign", "code84", "table"];

function mayFit(from: string, format: string): boolean {
  const fit = fitRoom.exec(from)?.[1];
  return fit === format || (fit === "coded" && codes.includes(format));
}

function wallOf(path: string): Wall | undefined {
  return walls.find(({ room }) =>
    typeof room === "string" ? path.startsWith(room) : room.test(path),
  );
}

/**
 * The room a file belongs to; files of one room may include each other. A room is a folder below
 * engine/, except that each format and each back end is one of its own, apart from the contracts
 * at the root of formats/ and backend/.
 */
export function roomOf(path: string): string {
  const parts = path.split("/");
  if (parts[0] !== "engine") return `${parts[0]}/`;
  if (parts.length === 2) return path;
  const split = parts[1] === "formats" || parts[1] === "backend";
  return `${parts.slice(0, split && parts.length > 3 ? 3 : 2).join("/")}/`;
}

/** The quoted includes of a native file; paths come out below native/. */
export function includesOf(file: SourceFile): Edge[] {
  const from = file.path.replace(/^native\//, "");
  const lines = blank(file.text, "cpp", { keepStrings: true }).split("\n");
  return lines.flatMap((text, index) => {
    const name = /^\s*#\s*include\s*"([^"]+)"/.exec(text)?.[1];
    if (!name) return [];
    // engine/ is the only include path; a bare name is a neighbour of the file.
    const beside = name.startsWith(".") || (!name.includes("/") && name !== "engine.h");
    // metal/ is beside native/: what the host shares with the shaders.
    const folder = name.startsWith("metal/") ? ".." : beside ? posix.dirname(from) : "engine";
    const to = posix.join(folder, name);
    return [{ from, to, line: index + 1 }];
  });
}

/** Why an include is refused, or undefined. */
export function refusal(edge: Edge): string | undefined {
  const wall = wallOf(edge.from);
  if (!wall) return "its room has no row in test/support/tidy/walls.ts";
  if (roomOf(edge.to) === roomOf(edge.from)) return undefined;
  const format = formatNamed(edge);
  if (format && mayFit(edge.from, format)) return undefined;
  if (wall.may.some((prefix) => edge.to.startsWith(prefix))) return undefined;
  const may = wall.may.join(", ") || "the standard library";
  return `${roomOf(edge.from)} may include only itself and ${may}`;
}

export function forbiddenIncludes(files: SourceFile[]): string[] {
  return files.flatMap((file) =>
    includesOf(file).flatMap((edge) => {
      const why = refusal(edge);
      return why ? [`native/${edge.from}:${edge.line} includes ${edge.to}: ${why}`] : [];
    }),
  );
}

/** The format an include names, if it names one: a folder of formats/ that is not shared. */
export function formatNamed(edge: Edge): string | undefined {
  const folder = /^engine\/formats\/([^/]+)\//.exec(edge.to)?.[1];
  return folder && !sharedByFormats.includes(folder) ? folder : undefined;
}

/**
 * Who names a concrete format: only its own folder, the registry, and its fit may. (`packed` is
 * the container of every term kind, so all of compress/ and selftest/ may.)
 */
export function formatsNamedElsewhere(files: SourceFile[]): string[] {
  return files.flatMap((file) =>
    includesOf(file).flatMap((edge) => {
      const format = formatNamed(edge);
      if (!format || edge.from === "engine/formats/registry.cc") return [];
      if (edge.from.startsWith(`engine/formats/${format}/`)) return [];
      if (mayFit(edge.from, format)) return [];
      if (format === "packed" && /^engine\/(compress|selftest)\//.test(edge.from)) return [];
      return [`native/${edge.from}:${edge.line} names the format ${format}`];
    }),
  );
}

/** Who names an architecture: `models/<arch>.h` may be included by itself and the registry. */
export function architecturesNamedElsewhere(files: SourceFile[], architectures: string[]) {
  return files.flatMap((file) =>
    includesOf(file).flatMap((edge) => {
      const name = /^engine\/models\/(\w+)\.h$/.exec(edge.to)?.[1];
      if (!name || !architectures.includes(name)) return [];
      const own = edge.from.startsWith(`engine/models/${name}`);
      if (own || edge.from === "engine/models/registry.cc") return [];
      return [`native/${edge.from}:${edge.line} names the architecture ${name}`];
    }),
  );
}

/**
 * Folders in a circle, as "a -> b -> a". `room` maps a file to its node; edges within a node and
 * edges out of the registries, whose office is to name what lies below them, do not count.
 */
export function folderCycles(edges: Edge[], room: (path: string) => string): string[] {
  const graph = new Map<string, Set<string>>();
  for (const { from, to } of edges) {
    if (from.endsWith("/registry.cc") || room(from) === room(to)) continue;
    graph.set(room(from), (graph.get(room(from)) ?? new Set()).add(room(to)));
  }
  const cycles = new Set<string>();
  const visit = (node: string, path: string[]): void => {
    const at = path.indexOf(node);
    if (at >= 0) {
      const circle = path.slice(at);
      // The same circle is met from each of its nodes: start it at the smallest name.
      const first = circle.indexOf([...circle].sort()[0] ?? "");
      const turned = [...circle.slice(first), ...circle.slice(0, first)];
      cycles.add([...turned, turned[0]].join(" -> "));
      return;
    }
    for (const next of graph.get(node) ?? []) visit(next, [...path, node]);
  };
  for (const node of graph.keys()) visit(node, []);
  return [...cycles].sort();
}

/** The node of a native file in the cycle check: its folder, headers at a room's root apart. */
export function nativeFolder(path: string): string {
  return path === "engine/engine.h" ? path : posix.dirname(path);
}

/**
 * The relative imports of a TypeScript file, and the modules it gives to workers, as the `.ts`
 * files in the repository that they stand for.
 */
export function importsOf(file: SourceFile): Edge[] {
  const lines = blank(file.text, "ts", { keepStrings: true }).split("\n");
  return lines.flatMap((text, index) => {
    const pattern = /(?:\bfrom\s*|\bimport\s*\(?\s*|\bnew URL\(\s*)["'](\.[^"']*)["']/g;
    return [...text.matchAll(pattern)].map((match) => {
      const path = posix.join(posix.dirname(file.path), match[1] ?? "");
      const to = path.replace(/^dist\//, "lib/").replace(/\.js$/, ".ts");
      return { from: file.path, to, line: index + 1 };
    });
  });
}

/** lib/ imports only lib/, and nothing of the library knows its command line. */
export function forbiddenImports(files: SourceFile[]): string[] {
  return files.flatMap((file) =>
    importsOf(file).flatMap(({ from, to, line }) => {
      const where = `${from}:${line} imports ${to}`;
      // The one file beside dist/ that every package has: the version stands in it.
      if (to === "package.json") return [];
      if (!to.startsWith("lib/")) return [`${where}: lib/ imports only lib/`];
      if (to.startsWith("lib/cli/") && !from.startsWith("lib/cli/")) {
        return [`${where}: the library does not know its command line`];
      }
      if (to === "lib/native.ts" && from.startsWith("lib/cli/")) {
        return [`${where}: commands use the public API, not the addon`];
      }
      return [];
    }),
  );
}
