/**
 * What the commands share towards the terminal: the progress line, tables, figures, and the
 * interruption by Ctrl-C. Results go to stdout; everything else goes to stderr.
 */
import { stripVTControlCharacters } from "node:util";

import type { ProgressEvent } from "../job.js";

/** One line on stderr that is written over; nothing at all where stderr is no terminal. */
export class ProgressLine {
  readonly #stream = process.stderr;
  #shown = "";
  #lastAt = 0;

  /** Shows an event. Bound, so that it can be passed as a listener. */
  readonly show = (event: ProgressEvent): void => {
    // A terminal cannot be read faster than this, and every line costs a system call.
    const now = performance.now();
    if (!this.#stream.isTTY || (now - this.#lastAt < 50 && (event.fraction ?? 0) < 1)) return;
    this.#lastAt = now;
    this.#write(progressText(event, this.#stream.columns || 80));
  };

  /** Takes the line away. */
  clear(): void {
    if (this.#shown) this.#write("");
  }

  #write(text: string): void {
    if (text === this.#shown) return;
    // \r: to the start of the line; ESC [K: erase what is there.
    this.#stream.write(`\r\u001b[K${text}`);
    this.#shown = text;
  }
}

/** `fit [#####-----]  50 %  model.layers.2` in at most `columns` characters. */
export function progressText(event: ProgressEvent, columns: number): string {
  const { phase, loaded, fraction, detail = "" } = event;
  const parts = [phase.padEnd(9)];
  if (fraction === undefined) parts.push(loaded > 0 ? String(loaded) : "");
  else {
    const width = 24;
    const full = Math.round(fraction * width);
    parts.push(`[${"#".repeat(full)}${"-".repeat(width - full)}]`);
    parts.push(`${Math.floor(100 * fraction)}`.padStart(3), "%");
  }
  // Details name tensors and files, which come from elsewhere.
  parts.push(stripVTControlCharacters(detail));
  return parts
    .join(" ")
    .slice(0, columns - 1)
    .trimEnd();
}

/** Rows in columns; a column of which all cells below the head are figures is set to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const columns = rows[0]?.length ?? 0;
  const widths = Array.from({ length: columns }, (_, c) =>
    Math.max(...rows.map((row) => row[c]?.length ?? 0)),
  );
  const isFigure = Array.from({ length: columns }, (_, c) =>
    rows.slice(1).every((row) => /^[\d.,+-]*$/.test(row[c] ?? "")),
  );
  const line = (row: readonly string[]) =>
    row
      .map((cell, c) => (isFigure[c] ? cell.padStart(widths[c] ?? 0) : cell.padEnd(widths[c] ?? 0)))
      .join("  ")
      .trimEnd();
  return rows.map(line).join("\n");
}

/** 1234567 as "1,234,567". */
export function grouped(count: number): string {
  return count.toLocaleString("en-US");
}

/** Bytes in the unit in which they have two to four digits. */
export function byteSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, bytes > 0 ? Math.floor(Math.log2(bytes) / 10) : 0);
  return `${(bytes / 1024 ** power).toFixed(power > 0 ? 1 : 0)} ${units[power]}`;
}

/** A bar of at most `width` characters, to the eighth of one. */
export function bar(share: number, width: number): string {
  const eighths = Math.round(8 * width * Math.min(1, Math.max(0, share)));
  const rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][eighths % 8] ?? "";
  return "█".repeat(Math.floor(eighths / 8)) + rest;
}

/** Milliseconds as "12.3 s", "4 min 5 s" or "2 h 50 min". */
export function duration(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Prints a result as JSON: snake_case keys, numbers in full precision. */
export function printJson(value: object): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** Thrown out of a command that Ctrl-C or a polite kill has ended. */
export class Interrupted extends Error {
  readonly exitCode: number;
  constructor(signal: "SIGINT" | "SIGTERM") {
    super(`interrupted by ${signal}`);
    this.exitCode = signal === "SIGINT" ? 130 : 143;
  }
}

/** A signal that aborts on the first Ctrl-C; the second ends the process at once. */
export function interruption(): AbortSignal {
  const control = new AbortController();
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      const reason = new Interrupted(name);
      if (control.signal.aborted) process.exit(reason.exitCode);
      control.abort(reason);
    });
  }
  return control.signal;
}
