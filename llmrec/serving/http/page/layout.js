// Where the beams of a search stand: pure functions, no DOM.

const MAX_CUT = 6; // cut beams drawn in a column; the tables have all that the server sent
const ROW = 22;

const keyOf = (codes) => codes.join(",");

/**
 * The beams as a tree. ``levels`` is the trace, ``items`` the recommended ones.
 *
 * Returns {root, columns, more}: nodes of each column from top to bottom, and how many cut beams each leaves out. A node
 * is the traced beam with ``parent``, ``children``, ``token`` (of its last code), ``probability``, ``place`` (0 for the
 * first recommendation, undefined where no recommended item is under it) and ``item``.
 */
export function beamTree(levels, items) {
  const root = { codes: [], text: "", children: [], survives: true, parent: null };
  const nodes = new Map([["", root]]);
  const columns = [];
  const more = [];
  for (const beams of levels.filter((level) => level.length > 0)) {
    const cut = beams.filter((beam) => !beam.survives).sort((a, b) => b.score - a.score);
    const shown = [...beams.filter((beam) => beam.survives), ...cut.slice(0, MAX_CUT)];
    more.push(cut.length - Math.min(cut.length, MAX_CUT));
    const column = shown.map((beam) => join(beam, nodes.get(keyOf(beam.codes.slice(0, -1))) ?? root));
    for (const node of column) if (node.survives) nodes.set(keyOf(node.codes), node);
    columns.push(column);
  }
  items.forEach((item, place) => markPath(nodes.get(keyOf(item.semantic_id)), item, place));
  for (const column of columns.toReversed()) for (const node of column) rate(node);
  order(root, columns);
  return { root, columns, more };
}

function join(beam, parent) {
  const token = beam.text.startsWith(parent.text) ? beam.text.slice(parent.text.length) : beam.text;
  const node = { ...beam, token, probability: Math.exp(beam.score), children: [], parent };
  parent.children.push(node);
  return node;
}

function markPath(leaf, item, place) {
  if (leaf === undefined) return;
  leaf.item = item;
  for (let node = leaf; node !== null; node = node.parent) node.place ??= place;
}

/** How far the best of a node's descendants got, and with which score. */
function rate(node) {
  node.reach = node.survives ? node.codes.length : 0;
  node.best = node.score;
  for (const child of node.children) {
    if (child.reach > node.reach || (child.reach === node.reach && child.best > node.best)) {
      node.reach = child.reach;
      node.best = child.best;
    }
  }
}

/** Sort siblings, then each column in the order of a walk through the tree: no two edges cross. */
function order(root, columns) {
  for (const column of columns) column.length = 0;
  const walk = (node) => {
    if (node.parent !== null) columns[node.codes.length - 1].push(node);
    node.children.sort((a, b) => b.reach - a.reach || b.best - a.best);
    node.children.forEach(walk);
  };
  walk(root);
}

/** Give every node its ``y``, top row at 0; returns the height. */
export function placeRows({ root, columns }) {
  for (const column of columns.toReversed()) {
    const wanted = column.map((node) => middle(node.children));
    spread(wanted).forEach((y, index) => { column[index].y = y; });
  }
  const nodes = columns.flat();
  const top = Math.min(...nodes.map((node) => node.y));
  for (const node of nodes) node.y -= top;
  // beside what was recommended: in a tall tree, the middle of all would be out of sight
  const chosen = root.children.filter((node) => node.place !== undefined);
  root.y = middle(chosen.length ? chosen : root.children);
  return Math.max(0, ...nodes.map((node) => node.y));
}

function middle(nodes) {
  return nodes.length ? (nodes[0].y + nodes.at(-1).y) / 2 : undefined;
}

/**
 * The places closest to the wanted ones that keep the order and a row between neighbours (pool adjacent violators).
 * Where nothing is wanted (no children), right below the one before.
 */
export function spread(wanted) {
  const pools = [];
  let last = 0;
  wanted.forEach((y, index) => {
    const want = (y ?? last + (index > 0 ? ROW : 0));
    last = want;
    // a node without children bends to the others
    pools.push({ weight: y === undefined ? 0.05 : 1, value: want - index * ROW, size: 1 });
    while (pools.length > 1 && pools.at(-2).value > pools.at(-1).value) {
      const [low, high] = pools.splice(-2);
      const weight = low.weight + high.weight;
      const value = (low.value * low.weight + high.value * high.weight) / weight;
      pools.push({ weight, value, size: low.size + high.size });
    }
  });
  return pools.flatMap((pool) => Array(pool.size).fill(pool.value)).map((value, index) => value + index * ROW);
}
