/**
 * Finds functions and their lengths by brace depth: a block is a function when the text before its
 * brace looks like a signature. The outermost function counts; lambdas inside it are its lines.
 */
import { blank, type Language } from "./blank.js";

export interface FoundFunction {
  /** The last identifier before the parameter list, for the report. */
  name: string;
  /** Counted from 1: the line of the signature's first word. */
  line: number;
  lines: number;
}

/** An initializer is the brace of a member in a constructor's list: the signature goes on. */
type Block = "container" | "function" | "initializer" | "other";

const control = /^(?:\}?\s*)(?:else\s+)?(?:if|for|while|switch|do|else|try|catch|return)\b/;

function classifyCpp(header: string): Block {
  if (/^(inline\s+)?namespace\b|^extern\b\s*$/.test(header)) return "container";
  if (/^(template\s*<[\s\S]*>\s*)?(class|struct|union|enum)\b[^()]*$/.test(header))
    return "container";
  if (!header.includes("(") || control.test(header)) return "other";
  if (/\)\s*(noexcept\s*)?:[^:][\s\S]*[\w>]$/.test(header)) return "initializer";
  // `x = f(a){` is data; a lambda kept in a name is a function.
  if (/(?<!operator)[^=!<>]=[^=]/.test(header.replace(/\([\s\S]*\)/, "()"))) {
    return /=\s*\[[^\]]*\]/.test(header) ? "function" : "other";
  }
  return "function";
}

function classifyTs(header: string): Block {
  if (/\b(class|interface|enum|namespace)\s+[\w$]+/.test(header) && !/=>\s*$/.test(header)) {
    return "container";
  }
  // A suite is a list of tests, not a function somebody has to read at once.
  if (/\bdescribe(\.\w+)?\s*\([\s\S]*=>\s*$/.test(header)) return "container";
  if (control.test(header)) return "other";
  if (/=>\s*$/.test(header) || /\bfunction\b/.test(header)) return "function";
  const method = /^(?:[\w@]+\s+)*(?:get |set |async |static |\*)*[\w$#[\].]+\s*(?:<[\s\S]*>)?\s*\(/;
  return method.test(header) && /\)\s*(:[\s\S]*)?$/.test(header) ? "function" : "other";
}

/** The name nearest to the parameter list. */
function nameOf(header: string): string {
  return /([~\w$:.<>]+)\s*\(/.exec(header)?.[1] ?? /(\w+)\s*=/.exec(header)?.[1] ?? "(unnamed)";
}

export function findFunctions(text: string, language: Language): FoundFunction[] {
  const code = blank(text, language).replace(/^[ \t]*#(?:[^\n\\]|\\[\s\S]|\\\n)*/gm, (directive) =>
    language === "cpp" ? directive.replace(/[^\n]/g, " ") : directive,
  );
  const classify = language === "cpp" ? classifyCpp : classifyTs;
  const found: FoundFunction[] = [];
  const blocks: { kind: Block; header: string; line: number; start: number }[] = [];
  let headerStart = 0;
  let parentheses = 0;
  let line = 1;
  let headerLine = 1;
  for (let at = 0; at < code.length; at++) {
    const char = code[at];
    if (char === "\n") line++;
    if (char === "(") parentheses++;
    if (char === ")") parentheses--;
    const empty = code.slice(headerStart, at).trim() === "";
    if (empty && char !== undefined && !/\s/.test(char)) headerLine = line;
    if (char === "{") {
      const header = code.slice(headerStart, at).trim();
      const inFunction = blocks.some(({ kind }) => kind === "function");
      const kind = inFunction ? "other" : classify(header);
      blocks.push({ kind, header, line: headerLine, start: headerStart });
      headerStart = at + 1;
    } else if (char === "}") {
      const block = blocks.pop();
      if (block?.kind === "function") {
        const lines = line - block.line + 1;
        found.push({ name: nameOf(block.header), line: block.line, lines });
      }
      headerStart = block?.kind === "initializer" ? block.start : at + 1;
    } else if (char === ";" && (parentheses === 0 || language === "ts")) {
      headerStart = at + 1;
    }
  }
  return found;
}
