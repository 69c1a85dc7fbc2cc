/**
 * Checks of what a user passed in. Every failure is INVALID_OPTION and names the option, what was
 * expected and what came. Plain functions: a schema library would be more code here than these.
 */
import { ModelError } from "./errors.js";

/** An INVALID_OPTION error for `option`. */
export function invalidOption(option: string, expected: string, actual: unknown): ModelError {
  const shown = show(actual);
  return new ModelError("INVALID_OPTION", `${option} must be ${expected}, not ${shown}`, {
    details: { option, expected, actual: shown },
  });
}

export interface Range {
  min: number;
  max: number;
  /** Only whole numbers. */
  integer?: boolean;
  /** `min` itself is not allowed. */
  above?: boolean;
}

/** `value` if it is a number in `range`. */
export function checkNumber(option: string, value: unknown, range: Range): number {
  const { min, max, integer = false, above = false } = range;
  const fits =
    typeof value === "number" &&
    (integer ? Number.isSafeInteger(value) : Number.isFinite(value)) &&
    (above ? value > min : value >= min) &&
    value <= max;
  if (fits) return value;
  throw invalidOption(option, describe(range), value);
}

function describe({ min, max, integer = false, above = false }: Range): string {
  const kind = integer ? "a whole number" : "a number";
  const low = above ? `above ${min}` : `from ${min}`;
  return max === Number.MAX_SAFE_INTEGER || max === Number.MAX_VALUE
    ? `${kind} ${low}${above ? "" : " up"}`
    : `${kind} ${low} to ${max}`;
}

/** `value` if it is one of `choices`. */
export function checkChoice<T extends string>(
  option: string,
  value: unknown,
  choices: readonly T[],
): T {
  if (choices.includes(value as T)) return value as T;
  throw invalidOption(option, `one of ${choices.map((c) => JSON.stringify(c)).join(", ")}`, value);
}

/** `value` if it is a string of at least one character. */
export function checkText(option: string, value: unknown): string {
  if (typeof value === "string" && value.length > 0) return value;
  throw invalidOption(option, "a string that is not empty", value);
}

/** `value` if it is an AbortSignal or absent. */
export function checkSignal(option: string, value: unknown): AbortSignal | undefined {
  if (value === undefined || value instanceof AbortSignal) return value;
  throw invalidOption(option, "an AbortSignal", value);
}

/** `value` if it is a function or absent. */
export function checkListener<T>(option: string, value: T | undefined): T | undefined {
  if (value === undefined || typeof value === "function") return value;
  throw invalidOption(option, "a function", value);
}

/** Refuses keys that are not `known`: a misspelled option would otherwise be silently ignored. */
export function checkKeys(what: string, value: unknown, known: readonly string[]): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalidOption(what, "an object", value);
  }
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) throw invalidOption(what, `made of ${known.join(", ")}`, key);
  }
}

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.slice(0, 200));
  if (typeof value === "object" && value !== null) {
    return Array.isArray(value) ? "an array" : "an object";
  }
  return typeof value === "function" ? "a function" : String(value);
}
