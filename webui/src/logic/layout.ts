// Where instances stand in the picture of their links: those that others are led to on the right of them.

export interface Edge {
  id: string;
  from: string;
  to: string | null;
}

export interface Place {
  x: number;
  y: number;
}

export interface Layout {
  places: Map<string, Place>;
  width: number;
  height: number;
}

export const BOX = { width: 168, height: 46 } as const;
const GAP = { x: 110, y: 22 } as const;
const MARGIN = 20;

/** Layers from left to right; circles are cut where they close. */
export function layers(nodes: readonly string[], edges: readonly Edge[]): string[][] {
  const targets = new Map<string, string[]>();
  for (const edge of edges) {
    if (edge.to && edge.to !== edge.from) targets.set(edge.from, [...(targets.get(edge.from) ?? []), edge.to]);
  }
  const depth = new Map<string, number>();
  const under = new Set<string>();
  // How far the longest way is from here to one that links to nobody.
  const measure = (node: string): number => {
    const known = depth.get(node);
    if (known !== undefined) return known;
    if (under.has(node)) return 0;
    under.add(node);
    const its = (targets.get(node) ?? []).map((target) => measure(target) + 1);
    under.delete(node);
    const found = Math.max(0, ...its);
    depth.set(node, found);
    return found;
  };
  nodes.forEach(measure);
  const deepest = Math.max(0, ...depth.values());
  const columns: string[][] = Array.from({ length: deepest + 1 }, () => []);
  for (const node of nodes) columns[deepest - (depth.get(node) ?? 0)]!.push(node);
  return columns.filter((column) => column.length > 0);
}

export function layout(nodes: readonly string[], edges: readonly Edge[]): Layout {
  const columns = layers(nodes, edges);
  // Beside those that lead to it, so that arrows cross less.
  columns.slice(1).forEach((column, index) => {
    const before = columns[index]!;
    const weight = (node: string) => {
      const sources = edges.filter((edge) => edge.to === node).map((edge) => before.indexOf(edge.from)).filter((at) => at >= 0);
      return sources.length > 0 ? sources.reduce((sum, at) => sum + at, 0) / sources.length : before.length;
    };
    const keyed = new Map(column.map((node) => [node, weight(node)]));
    column.sort((a, b) => keyed.get(a)! - keyed.get(b)!);
  });
  const tallest = Math.max(1, ...columns.map((column) => column.length));
  const height = tallest * (BOX.height + GAP.y) - GAP.y + 2 * MARGIN;
  const places = new Map<string, Place>();
  columns.forEach((column, across) => {
    const own = column.length * (BOX.height + GAP.y) - GAP.y;
    column.forEach((node, down) => places.set(node, { x: MARGIN + across * (BOX.width + GAP.x), y: (height - own) / 2 + down * (BOX.height + GAP.y) }));
  });
  return { places, width: columns.length * (BOX.width + GAP.x) - GAP.x + 2 * MARGIN, height };
}

/** The box that a point is in. */
export function hit(places: ReadonlyMap<string, Place>, x: number, y: number): string | null {
  for (const [node, place] of places) {
    if (x >= place.x && x <= place.x + BOX.width && y >= place.y && y <= place.y + BOX.height) return node;
  }
  return null;
}

/** From the right of one box to the left of another; a bow where it goes back. */
export function curve(from: Place, to: Place): string {
  const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
  const bow = Math.max(40, Math.abs(x2 - x1) / 2);
  return `M${x1} ${y1}C${x1 + bow} ${y1} ${x2 - bow} ${y2} ${x2} ${y2}`;
}
