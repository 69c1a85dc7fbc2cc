/**
 * Blanks out comments, strings and regular expressions, keeping every line break, so that what is
 * left can be counted and searched by characters. A scanner, not a parser: it knows how literals
 * of C++ and TypeScript start and end, and nothing else.
 */

export type Language = "cpp" | "ts";

export interface BlankOptions {
  /** Keeps what stands inside quotes (for rules about names in strings); comments still go. */
  keepStrings?: boolean;
}

/** Where the literal or comment at `text[start]` ends (exclusive); undefined for plain code. */
function literalEnd(text: string, start: number, language: Language): number | undefined {
  const two = text.slice(start, start + 2);
  if (two === "//") return endOr(text, text.indexOf("\n", start));
  if (two === "/*") return endOr(text, text.indexOf("*/", start + 2), 2);
  const char = text[start];
  if (language === "cpp") {
    if (char === "R" && /^R"[^(\s]{0,16}\(/.test(text.slice(start, start + 20))) {
      const delimiter = text.slice(start + 2, text.indexOf("(", start));
      return endOr(text, text.indexOf(`)${delimiter}"`, start), delimiter.length + 2);
    }
    // 1'000: a separator, not a character.
    if (char === "'" && /[0-9a-fA-F]/.test(text[start - 1] ?? "")) return undefined;
    return char === '"' || char === "'" ? quotedEnd(text, start) : undefined;
  }
  if (char === '"' || char === "'") return quotedEnd(text, start);
  if (char === "`") return templateEnd(text, start);
  if (char === "/" && startsExpression(text.slice(0, start))) return regexEnd(text, start);
  return undefined;
}

function endOr(text: string, index: number, length = 0): number {
  return index < 0 ? text.length : index + length;
}

function quotedEnd(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === text[start]) return at + 1;
    else if (text[at] === "\n") return at;
  }
  return text.length;
}

/** A template literal with whatever stands in its `${}`. */
function templateEnd(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "`") return at + 1;
    else if (text[at] === "$" && text[at + 1] === "{") {
      let depth = 1;
      for (at += 2; at < text.length && depth > 0; at++) {
        const end = literalEnd(text, at, "ts");
        if (end !== undefined) at = end - 1;
        else if (text[at] === "{") depth++;
        else if (text[at] === "}") depth--;
      }
      at--;
    }
  }
  return text.length;
}

/** Whether a slash after `before` starts a regular expression rather than dividing. */
function startsExpression(before: string): boolean {
  return /(^|[(,=:[!&|?{};+\-*%<>~]|\b(return|typeof|case|of|in|do|else))\s*$/.test(
    before.slice(-80),
  );
}

function regexEnd(text: string, start: number): number {
  let inClass = false;
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "\\") at++;
    else if (text[at] === "[") inClass = true;
    else if (text[at] === "]") inClass = false;
    else if (text[at] === "/" && !inClass) return at + 1;
    else if (text[at] === "\n") return at;
  }
  return text.length;
}

export function blank(text: string, language: Language, options: BlankOptions = {}): string {
  let out = "";
  let at = 0;
  while (at < text.length) {
    const end = literalEnd(text, at, language);
    if (end === undefined) {
      out += text[at++];
      continue;
    }
    const literal = text.slice(at, end);
    const isComment = literal.startsWith("//") || literal.startsWith("/*");
    out += options.keepStrings && !isComment ? literal : literal.replace(/[^\n]/g, " ");
    at = end;
  }
  return out;
}
