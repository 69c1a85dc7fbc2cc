/** Numbers on the command line. Ranges are the API's business; this is only about spelling. */
import { InvalidArgumentError } from "commander";

/** A decimal number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new InvalidArgumentError("It is not a number.");
}

/** A whole number. */
export function whole(text: string): number {
  const value = number(text);
  if (Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError("It is not a whole number.");
}
