/**
 * Cuts token ids into the windows that calibration and evaluation work on: each begins with the
 * start token, which is followed by `context - 1` tokens of the text.
 */

/** The first `limit` whole windows, one after another. What does not fill a window is left out. */
export function leadingWindows(
  ids: Int32Array,
  { bos, context, limit }: { bos: number; context: number; limit: number },
): Int32Array[] {
  const count = Math.min(limit, Math.floor(ids.length / (context - 1)));
  return Array.from({ length: count }, (_, i) =>
    windowAt(ids, i * (context - 1), { bos, context }),
  );
}

/**
 * Windows of about `tokens` text tokens in all, spread evenly over the text. A text shorter than a
 * window is one short window; of a longer text only whole windows are taken.
 */
export function spreadWindows(
  ids: Int32Array,
  { bos, context, tokens }: { bos: number; context: number; tokens: number },
): Int32Array[] {
  const length = context - 1;
  if (ids.length === 0) return [];
  if (ids.length < length) return [windowAt(ids, 0, { bos, context })];
  const available = Math.floor(ids.length / length);
  const count = Math.min(available, Math.max(1, Math.floor(tokens / length)));
  return Array.from({ length: count }, (_, i) =>
    windowAt(ids, Math.floor((i * available) / count) * length, { bos, context }),
  );
}

/**
 * `tokens` dealt out to texts of these lengths: evenly, and what a short text cannot use goes to
 * the longer ones.
 */
export function shareTokens(lengths: readonly number[], tokens: number): number[] {
  const shares = new Array<number>(lengths.length).fill(0);
  const shortestFirst = [...lengths.entries()].sort(([, a], [, b]) => a - b);
  let left = tokens;
  for (const [done, [text, length]] of shortestFirst.entries()) {
    const share = Math.min(length, Math.ceil(left / (lengths.length - done)));
    shares[text] = share;
    left -= share;
  }
  return shares;
}

/**
 * The lists merged so that every stretch of the result holds each in proportion: whoever takes the
 * end of it, as tuning does for held-out text, has the ends of all.
 */
export function interleaved<T>(lists: readonly (readonly T[])[]): T[] {
  const placed = lists.flatMap((list) =>
    list.map((item, index) => ({ item, at: (index + 0.5) / list.length })),
  );
  // The sort is stable, so that equal places keep the order of the lists.
  return placed.sort((a, b) => a.at - b.at).map(({ item }) => item);
}

/** Windows of about `tokens` text tokens in all, spread evenly over `windows`; at least one. */
export function thinned(windows: readonly Int32Array[], tokens: number): Int32Array[] {
  const size = (window: Int32Array) => window.length - 1;
  const total = windows.reduce((sum, window) => sum + size(window), 0);
  if (total <= tokens) return [...windows];
  let seen = 0;
  let taken = 0;
  return windows.filter((window) => {
    const isDue = taken <= (tokens * seen) / total;
    seen += size(window);
    if (isDue) taken += size(window);
    return isDue;
  });
}

function windowAt(
  ids: Int32Array,
  start: number,
  { bos, context }: { bos: number; context: number },
): Int32Array {
  const part = ids.subarray(start, start + context - 1);
  const window = new Int32Array(part.length + 1);
  window[0] = bos;
  window.set(part, 1);
  return window;
}
