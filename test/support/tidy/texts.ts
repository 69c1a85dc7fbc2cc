/**
 * The rules that look at one file at a time: sizes, names, and words that have no business in a
 * room. Each returns one line per offender.
 */
import { blank, type Language } from "./blank.js";
import { findFunctions } from "./functions.js";
import type { SourceFile } from "./walls.js";

export function languageOf(path: string): Language | undefined {
  if (/\.(cc|h|mm|metal)$/.test(path)) return "cpp";
  return /\.(ts|js|mjs)$/.test(path) ? "ts" : undefined;
}

export function longFiles(files: SourceFile[], limit = 800): string[] {
  return files.flatMap(({ path, text }) => {
    const lines = text.split("\n").length - 1;
    return lines < limit ? [] : [`${path}: ${lines} lines, must stay under ${limit}`];
  });
}

/** In characters as a reader counts them, not in UTF-16 units. */
export function longLines(files: SourceFile[], limit = 100): string[] {
  return files.flatMap(({ path, text }) =>
    text.split("\n").flatMap((line, index) => {
      const width = [...line].length;
      return width <= limit ? [] : [`${path}:${index + 1}: ${width} columns, at most ${limit}`];
    }),
  );
}

/** Kernels unroll by hand, so they get more room. */
export function functionLimit(path: string): number {
  return /_kernels?(_\w+)?\.cc$/.test(path) ? 120 : 70;
}

export function longFunctions(files: SourceFile[]): string[] {
  return files.flatMap(({ path, text }) => {
    const language = languageOf(path);
    if (!language) return [];
    const limit = functionLimit(path);
    return findFunctions(text, language)
      .filter(({ lines }) => lines >= limit)
      .map(
        ({ name, line, lines }) => `${path}:${line}: ${name} has ${lines} lines, under ${limit}`,
      );
  });
}

export function forbiddenNames(paths: string[]): string[] {
  const forbidden = /(^|[-_.])(utils?|helpers?|common|misc|manager)([-_.]|$)/i;
  return paths.filter((path) => path.split("/").some((part) => forbidden.test(part)));
}

/** The spelling of file names: snake_case for C++, kebab-case for TypeScript and scripts. */
export function misspelledNames(paths: string[]): string[] {
  return paths.filter((path) => {
    const name = path.split("/").at(-1) ?? "";
    const language = languageOf(path);
    if (language === "cpp") return !/^[a-z0-9_]+\.\w+$/.test(name);
    return language === "ts" && !/^[a-z0-9-]+(\.test|\.config|\.d)?\.\w+$/.test(name);
  });
}

/** Lines whose code, comments and strings aside, matches `pattern`. */
export function codeMatches(files: SourceFile[], pattern: RegExp): string[] {
  return files.flatMap(({ path, text }) => {
    const language = languageOf(path);
    if (!language) return [];
    const lines = blank(text, language).split("\n");
    return lines.flatMap((line, index) => {
      const match = pattern.exec(line);
      return match ? [`${path}:${index + 1}: ${match[0].trim()}`] : [];
    });
  });
}

function anyOf(...patterns: RegExp[]): RegExp {
  return new RegExp(patterns.map(({ source }) => source).join("|"));
}

/** What the engine never does: print, end the process, read the environment. */
export const engineForbids = anyOf(
  /\bstd::(cout|cerr|clog|abort|exit|terminate|getenv|print(ln)?)\b/,
  /(?<![\w.>])(f?printf|f?puts|putchar|perror|abort|exit|_exit|getenv|assert)\s*\(/,
);

/** Node's names, which live in native/binding alone. */
export const nodeApi = anyOf(
  /\bNapi::|\bnapi_\w+/,
  /#\s*include\s*<(napi|node_api|js_native_api|uv|v8|node)\.h>/,
);

/** Headers that no file includes, and TypeScript that no entry reaches. */
export function unreached(all: string[], entries: string[], edges: { from: string; to: string }[]) {
  const reached = new Set(entries);
  const queue = [...entries];
  for (let from = queue.pop(); from !== undefined; from = queue.pop()) {
    for (const edge of edges) {
      if (edge.from !== from || reached.has(edge.to)) continue;
      reached.add(edge.to);
      queue.push(edge.to);
    }
  }
  return all.filter((path) => !reached.has(path));
}
