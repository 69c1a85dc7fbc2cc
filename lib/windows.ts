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
