/** Where this package lies and which version it is. */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The package's directory: one level above both `lib/` and `dist/`. */
export const packageRoot = join(dirname(fileURLToPath(import.meta.url)), "..");

/** The version that package.json gives. */
export function packageVersion(): string {
  const json = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8"));
  return String(json.version);
}

/**
 * The directory of a small model that comes with the package: stories15M, a writer of children's
 * stories, compressed by subbit. `MODEL.md` in it says how it was made and what it can do.
 */
export const exampleModel: string = join(packageRoot, "share/stories15M");
