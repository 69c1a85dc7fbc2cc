/**
 * The one error class of the package, and the one place where an error of the native engine becomes
 * one. A failure says what failed, on what, what was expected and what was found; `code` is for
 * programs, `message` for people, `details` for both.
 */

/** What went wrong, for programs. Codes are never renamed; new ones may appear. */
export type ErrorCode =
  | "ABORTED"
  | "DISPOSED"
  | "INSUFFICIENT_MEMORY"
  | "UNSUPPORTED_FORMAT"
  | "UNSUPPORTED_ARCH"
  | "CORRUPT_FILE"
  | "FILE_ERROR"
  | "NO_NATIVE_BINARY"
  | "DEVICE_UNAVAILABLE"
  | "DEVICE_LOST"
  | "CONTEXT_OVERFLOW"
  | "INVALID_OPTION"
  | "NON_FINITE"
  | "INTERNAL";

const codes: ReadonlySet<string> = new Set<ErrorCode>([
  "ABORTED",
  "DISPOSED",
  "INSUFFICIENT_MEMORY",
  "UNSUPPORTED_FORMAT",
  "UNSUPPORTED_ARCH",
  "CORRUPT_FILE",
  "FILE_ERROR",
  "NO_NATIVE_BINARY",
  "DEVICE_UNAVAILABLE",
  "DEVICE_LOST",
  "CONTEXT_OVERFLOW",
  "INVALID_OPTION",
  "NON_FINITE",
  "INTERNAL",
]);

/** Named facts about a failure, such as `{ file, expected, actual }`. */
export type ErrorDetails = Readonly<Record<string, string>>;

// Registered, so that two copies of the package in one process know each other's errors.
const brand = Symbol.for("subbit.ModelError");

/** Every failure of this package, apart from an `AbortSignal`'s own reason, is one of these. */
export class ModelError extends Error {
  override readonly name = "ModelError";
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(
    code: ErrorCode,
    message: string,
    { details = {}, cause }: { details?: ErrorDetails; cause?: unknown } = {},
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
    Object.defineProperty(this, brand, { value: true });
  }

  /** Like `instanceof`, but also true for errors of another copy of this package. */
  static isInstance(value: unknown): value is ModelError {
    return typeof value === "object" && value !== null && Reflect.get(value, brand) === true;
  }
}

/**
 * The ModelError for whatever the addon threw or rejected with. The binding attaches `code` and
 * `details`; anything without a known code is a mistake of ours and becomes INTERNAL.
 */
export function fromNative(error: unknown): ModelError {
  if (ModelError.isInstance(error)) return error;
  if (!(error instanceof Error)) {
    return new ModelError("INTERNAL", `The engine failed: ${String(error)}`, { cause: error });
  }
  // What a machine without memory makes of a call that had no time to become a job.
  if (error.message === "std::bad_alloc") {
    return new ModelError("INSUFFICIENT_MEMORY", "The system has no more memory to give", {
      cause: error,
    });
  }
  const { code, details } = error as { code?: unknown; details?: unknown };
  if (typeof code !== "string" || !codes.has(code)) {
    return new ModelError("INTERNAL", `The engine failed: ${error.message}`, { cause: error });
  }
  return new ModelError(code as ErrorCode, error.message, {
    details: stringsOf(details),
    cause: error,
  });
}

/** The ModelError for a failed call of `node:fs` on `file`; `doing` completes "Cannot ...". */
export function fromFileSystem(error: unknown, file: string, doing: string): ModelError {
  if (ModelError.isInstance(error)) return error;
  const reason = error instanceof Error ? error.message : String(error);
  return new ModelError("FILE_ERROR", `Cannot ${doing} ${file}: ${reason}`, {
    details: { file, actual: reason },
    cause: error,
  });
}

function stringsOf(details: unknown): ErrorDetails {
  if (typeof details !== "object" || details === null) return {};
  return Object.fromEntries(Object.entries(details).map(([key, value]) => [key, String(value)]));
}
