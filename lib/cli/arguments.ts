/** Numbers on the command line. Ranges are the API's business; this is only about spelling. */
import { InvalidArgumentError } from "commander";

/** A decimal number. */
export function number(text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new InvalidArgumentError("It is not a number.");
}

/** `name=fp16`, `name=4` or `name>=1.2`: a pattern of names and what is asked of them. */
export function keepRule(text: string): [pattern: string, asked: "fp16" | number | Floor] {
  const [, pattern = "", sign, asked = ""] = /^(.+?)(>?=)([^=]+)$/.exec(text) ?? [];
  if (!pattern)
    throw new InvalidArgumentError("It is not <name>=fp16, <name>=<bits> or <name>>=<bits>.");
  if (sign === "=" && asked === "fp16") return [pattern, asked];
  const bits = number(asked);
  return [pattern, sign === "=" ? bits : { atLeast: bits }];
}
type Floor = { atLeast: number };

/** A whole number. */
export function whole(text: string): number {
  const value = number(text);
  if (Number.isSafeInteger(value)) return value;
  throw new InvalidArgumentError("It is not a whole number.");
}
