/**
 * Finds stop strings in text that arrives in parts. Text that may be the start of a stop string is
 * held back until that is decided, so no part of one is ever given out.
 */
export class StopFinder {
  readonly #stops: readonly string[];
  #held = "";
  /** A stop string was found; nothing more is given out. */
  isFound = false;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** The text that is now certain not to belong to a stop string. */
  push(text: string): string {
    if (this.isFound) return "";
    const all = this.#held + text;
    const found = this.#first(all);
    if (found) {
      this.isFound = true;
      this.#held = "";
      return all.slice(0, found.start);
    }
    const certain = all.length - this.#openLength(all);
    this.#held = all.slice(certain);
    return all.slice(0, certain);
  }

  /** At the end of the text: what was held back turned out to be text. */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }

  /** The stop string that is complete first: the one choice that does not depend on the parts. */
  #first(text: string): { start: number; end: number } | undefined {
    let first: { start: number; end: number } | undefined;
    for (const stop of this.#stops) {
      const start = text.indexOf(stop);
      const end = start + stop.length;
      if (start < 0) continue;
      const isFirst = !first || end < first.end || (end === first.end && start < first.start);
      if (isFirst) first = { start, end };
    }
    return first;
  }

  /** How much of the end of `text` begins a stop string. */
  #openLength(text: string): number {
    let open = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > open; length--) {
        if (text.endsWith(stop.slice(0, length))) open = length;
      }
    }
    return open;
  }
}
