// Figures as lines.

/** Numbers that grow, as how much a second; a gap or a counter that began anew is none. */
export function rate(before: { at: number; total: number } | null, now: { at: number; total: number }): number | null {
  if (!before) return null;
  const seconds = (now.at - before.at) / 1000;
  const grown = now.total - before.total;
  return seconds > 0 && grown >= 0 ? grown / seconds : null;
}

/** A scale's end that is easy to read: 1, 2 or 5 times a power of ten, never below what is shown. */
export function niceMost(most: number, least = 1): number {
  const wanted = Math.max(most, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  for (const step of [1, 2, 5, 10]) if (step * power >= wanted) return step * power;
  return 10 * power;
}

/** An SVG path through values that stand at equal distances, the newest at the right; `null` breaks it. */
export function path(values: readonly (number | null)[], slots: number, most: number, width: number, height: number): string {
  const step = width / Math.max(1, slots - 1);
  const first = slots - values.length;
  let drawn = "";
  let pen = false;
  values.forEach((value, index) => {
    if (value === null) {
      pen = false;
      return;
    }
    const x = (first + index) * step;
    const y = height - (Math.min(value, most) / most) * height;
    drawn += `${pen ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = true;
  });
  return drawn;
}
