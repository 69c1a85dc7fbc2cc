/**
 * Tells who listens when the machine runs short of memory. The system is asked once a second, and
 * only while somebody listens: macOS keeps a level of its own, on Linux a tenth of the memory left
 * is a warning and a thirty-third critical. The timer keeps no process alive.
 */
import type { SystemMemory } from "./memory.js";

export type PressureLevel = Exclude<SystemMemory["pressure"], "normal">;
export type PressureListener = (event: { level: PressureLevel }) => void;

const pollMs = 1_000;

export class PressureWatch {
  readonly #ask: () => SystemMemory["pressure"];
  readonly #listeners = new Set<PressureListener>();
  #timer: NodeJS.Timeout | undefined;
  #last: SystemMemory["pressure"] = "normal";

  /** `ask` says how the machine is. */
  constructor(ask: () => SystemMemory["pressure"]) {
    this.#ask = ask;
  }

  /** Calls `listener` whenever the level rises. Returns what ends it. */
  add(listener: PressureListener): () => void {
    // A function of its own, so that one listener added twice is called twice and removed once.
    const entry: PressureListener = (event) => listener(event);
    this.#listeners.add(entry);
    this.#timer ??= setInterval(() => this.poll(), pollMs).unref();
    return () => {
      this.#listeners.delete(entry);
      if (this.#listeners.size === 0) this.close();
    };
  }

  /** Looks once. @internal */
  poll(): void {
    const level = this.#ask();
    const before = this.#last;
    this.#last = level;
    if (level === "normal" || level === before) return;
    if (before === "critical" && level === "warning") return;
    for (const listener of [...this.#listeners]) listener({ level });
  }

  close(): void {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#listeners.clear();
    this.#last = "normal";
  }
}
