/**
 * Before the first test: the addon, dist/ and the engine's test binary are built where they are not
 * current. Here and not in a test, so that no compiler runs beside a test that measures delays.
 */
import { buildAddon, buildEngineTests } from "../../scripts/build-native.js";
import { buildTypeScript } from "../../scripts/build-typescript.js";

export default function setup(): void {
  buildAddon();
  buildTypeScript();
  process.env.SUBBIT_ENGINE_TESTS = buildEngineTests();
}
