import { describe, expect, test } from "vitest";

import { fromFileSystem, fromNative, ModelError } from "../../lib/errors.js";
import { nativeError } from "../support/fake-addon.js";

describe("ModelError", () => {
  test("keeps code, details and cause", () => {
    const cause = new Error("why");
    const error = new ModelError("CORRUPT_FILE", "broken", { details: { file: "a" }, cause });
    expect(error).toMatchObject({ name: "ModelError", code: "CORRUPT_FILE", message: "broken" });
    expect(error.details).toEqual({ file: "a" });
    expect(error.cause).toBe(cause);
  });

  test("isInstance knows errors of another copy of the package, and nothing else", () => {
    class Other extends Error {}
    Object.defineProperty(Other.prototype, Symbol.for("subbit.ModelError"), { value: true });
    expect(ModelError.isInstance(new Other())).toBe(true);
    expect(ModelError.isInstance(new ModelError("INTERNAL", "x"))).toBe(true);
    for (const other of [new Error("x"), null, undefined, "INTERNAL", { code: "INTERNAL" }]) {
      expect(ModelError.isInstance(other)).toBe(false);
    }
  });
});

describe("fromNative", () => {
  test("takes code and details over and keeps the cause", () => {
    const native = nativeError("CORRUPT_FILE", "a: too short", { expected: "8", actual: "3" });
    const error = fromNative(native);
    expect(error).toMatchObject({ code: "CORRUPT_FILE", message: "a: too short" });
    expect(error.details).toEqual({ expected: "8", actual: "3" });
    expect(error.cause).toBe(native);
  });

  test("turns whatever has no code of ours into INTERNAL", () => {
    expect(fromNative(nativeError("ERR_INVALID_ARG")).code).toBe("INTERNAL");
    expect(fromNative(new TypeError("missing field")).message).toContain("missing field");
    expect(fromNative("text").code).toBe("INTERNAL");
    expect(fromNative(undefined).code).toBe("INTERNAL");
  });

  test("leaves a ModelError as it is", () => {
    const error = new ModelError("DISPOSED", "x");
    expect(fromNative(error)).toBe(error);
    expect(fromFileSystem(error, "f", "read")).toBe(error);
  });
});

test("a failed file says which, and what the system said", () => {
  const error = fromFileSystem(new Error("ENOENT: no such file"), "/a/b", "read the text");
  expect(error.code).toBe("FILE_ERROR");
  expect(error.message).toBe("Cannot read the text /a/b: ENOENT: no such file");
  expect(error.details.file).toBe("/a/b");
});
