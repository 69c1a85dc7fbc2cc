/**
 * Tokens from the engine's thread on their way to one consumer. The engine does not wait for a slow
 * consumer, who then gets several tokens at once; what can pile up is bounded by the context.
 */
export class TokenQueue {
  #tokens: number[] = [];
  #isEnded = false;
  #wake: (() => void) | undefined;

  push(token: number): void {
    this.#tokens.push(token);
    this.#wake?.();
  }

  /** No more tokens will come. */
  end(): void {
    this.#isEnded = true;
    this.#wake?.();
  }

  /** All tokens that have come, at least one; undefined once ended and empty. */
  async take(): Promise<number[] | undefined> {
    while (this.#tokens.length === 0 && !this.#isEnded) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    this.#wake = undefined;
    const taken = this.#tokens;
    this.#tokens = [];
    return taken.length > 0 ? taken : undefined;
  }
}
