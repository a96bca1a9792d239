// The beam tree as a picture, and the same beams as tables.

import { byId, count, decimals, html, percent, svg } from "./dom.js";
import { beamTree, placeRows } from "./layout.js";

const HEAD = 44; // above the first row
const FOOT = 44; // below the last one
const LETTER = 7.4; // of the labels, in pixels
const TITLE_LETTER = 8.6; // of the titles behind the last column
const TITLE_LETTERS = 44;
const MIN_EDGE = 70;
const MAX_RADIUS = 9;

/** Draw a trace; returns show(semanticId), which moves the focus to that beam and says whether it is there. */
export function drawTree(trace, items) {
  const tree = beamTree(trace.levels, items);
  const height = placeRows(tree);
  placeColumns(tree, byId("tree").clientWidth);
  const groups = new Map();
  const pick = (node) => choose(node, groups);
  const picture = draw(tree, height, groups, pick);
  picture.addEventListener("keydown", (event) => step(event, tree, groups));
  byId("tree").replaceChildren(picture);
  byId("levels").replaceChildren(...trace.levels.map((beams, level) => levelTable(beams, level, items)));
  const leaves = tree.columns.at(-1);
  pick(leaves.find((node) => node.place === 0) ?? leaves[0]);
  return (semanticId) => {
    const leaf = leaves.find((node) => node.survives && node.codes.join() === semanticId.join());
    if (leaf !== undefined) groups.get(leaf).focus();
    return leaf !== undefined;
  };
}

/** Give every node its ``x`` and radius, and every column the room that its labels need. */
function placeColumns({ root, columns }, available) {
  root.x = 28;
  root.radius = 5;
  const labels = columns.map((column) => Math.max(...column.map(labelWidth)));
  const needed = labels.reduce((sum, width) => sum + width, 0);
  const edges = Math.max(MIN_EDGE, (available - root.x - needed - titleRoom(columns)) / columns.length);
  let x = root.x;
  columns.forEach((column, level) => {
    x += edges + labels[level];
    const likeliest = Math.max(...column.map((node) => node.probability));
    for (const node of column) {
      node.x = x;
      node.share = likeliest > 0 ? node.probability / likeliest : 0;
      node.radius = Math.max(2.5, MAX_RADIUS * Math.sqrt(node.share));
    }
  });
}

function titleRoom(columns) {
  const titles = columns.at(-1).filter((node) => node.item).map((node) => shorten(node).length);
  return 2 * MAX_RADIUS + 12 + TITLE_LETTER * Math.max(0, ...titles);
}

const label = (node) => `${node.token} ${percent(node.probability)}`;

const labelWidth = (node) => LETTER * label(node).length + 2 * MAX_RADIUS;

function draw({ root, columns, more }, height, groups, pick) {
  const width = columns.at(-1)[0].x + titleRoom(columns);
  const picture = svg("svg", {
    width, height: HEAD + height + FOOT, role: "tree",
    "aria-label": `Beams of ${count(columns.length, "level")}. Left and right: to the parent and the best child. `
      + "Up and down: within a level.",
  });
  picture.append(svg("circle", { class: "node", cx: root.x, cy: HEAD + root.y, r: root.radius, "aria-hidden": "true" }));
  columns.forEach((column, level) => {
    picture.append(columnHead(column, level));
    if (more[level] > 0) picture.append(columnFoot(column, more[level]));
  });
  for (const kind of ["dead", "alive", "recommended"]) { // what matters is painted last
    for (const [level, column] of columns.entries()) {
      column.forEach((node, place) => {
        if (kindOf(node) !== kind) return;
        const group = beamGroup(node, level, place, column.length);
        group.addEventListener("focus", () => pick(node));
        group.addEventListener("pointerenter", () => pick(node));
        groups.set(node, group);
        picture.append(group);
      });
    }
  }
  return picture;
}

function kindOf(node) {
  if (node.place !== undefined) return "recommended";
  return node.survives ? "alive" : "dead";
}

const fate = (node) => ({ dead: "cut", alive: "kept", recommended: "leads to a recommendation" })[kindOf(node)];

function columnHead(column, level) {
  const kept = column.filter((node) => node.survives).length;
  return svg("text", { class: "column", x: column[0]?.x ?? 0, y: 18, "text-anchor": "middle" },
    `Level ${level + 1}: ${kept} kept`);
}

function columnFoot(column, more) {
  const y = HEAD + Math.max(...column.map((node) => node.y)) + 24;
  return svg("text", { class: "more", x: column[0].x, y, "text-anchor": "middle" }, `… ${more} more cut`);
}

function beamGroup(node, level, place, size) {
  const y = HEAD + node.y;
  const start = node.x - labelWidth(node);
  const from = { x: node.parent.x + node.parent.radius, y: HEAD + node.parent.y };
  const bend = (from.x + start) / 2;
  const edge = `M${from.x},${from.y}C${bend},${from.y} ${bend},${y} ${start},${y}`;
  const group = svg("g", {
    class: `beam-group ${kindOf(node)}`, role: "treeitem", tabindex: -1, "aria-selected": "false",
    "aria-level": level + 1, "aria-posinset": place + 1, "aria-setsize": size, "data-codes": node.codes.join(),
    "aria-label": describe(node),
  },
  svg("path", { class: "edge", d: edge, "stroke-width": Math.max(1, 6 * node.share) }),
  svg("rect", { class: "hit", x: start, y: y - 11, width: labelWidth(node) + 14, height: 22 }),
  svg("text", { class: "label", x: node.x - MAX_RADIUS - 4, y }, label(node)),
  svg("circle", { class: "halo", cx: node.x, cy: y, r: node.radius + 3 }),
  svg("circle", { class: "node", cx: node.x, cy: y, r: node.radius }));
  if (node.item) group.append(svg("text", { class: "item", x: node.x + MAX_RADIUS + 6, y }, shorten(node)));
  return group;
}

function shorten({ item, place }) {
  const letters = [...item.title];
  const title = letters.length > TITLE_LETTERS ? `${letters.slice(0, TITLE_LETTERS - 1).join("")}…` : item.title;
  return `${place + 1}. ${title}`;
}

function describe(node) {
  const words = [node.text, fate(node), `probability ${percent(node.probability)}`, count(node.num_items, "item")];
  return (node.item ? [`number ${node.place + 1}: ${node.item.title}`, ...words] : words).join(", ");
}

/** Make ``node`` the one that Tab leads to, light its path, and show its figures. */
function choose(node, groups) {
  for (const [other, group] of groups) {
    group.classList.remove("lit");
    group.setAttribute("tabindex", other === node ? 0 : -1);
    group.setAttribute("aria-selected", String(other === node));
  }
  for (let step = node; step.parent !== null; step = step.parent) groups.get(step).classList.add("lit");
  const facts = [
    ["Beam", node.text],
    ["Codes", node.codes.join(", ")],
    ["Log-probability of its code", decimals(node.log_prob)],
    ["Score", `${decimals(node.score)} (${percent(node.probability)})`],
    ["Items under it", node.num_items.toLocaleString("en")],
    node.item ? [`Recommended as number ${node.place + 1}`, node.item.title] : ["Fate", fate(node)],
  ];
  byId("beam").replaceChildren(...facts.map(([name, value]) => html("div", {}, html("dt", {}, name), html("dd", {}, value))));
}

function step(event, { columns }, groups) {
  const node = [...groups].find(([, group]) => group === event.target)?.[0];
  if (node === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  const column = columns[node.codes.length - 1];
  const targets = {
    ArrowLeft: node.parent, ArrowRight: node.children[0], ArrowUp: column[column.indexOf(node) - 1],
    ArrowDown: column[column.indexOf(node) + 1], Home: column[0], End: column.at(-1),
  };
  if (!(event.key in targets)) return;
  event.preventDefault();
  groups.get(targets[event.key])?.focus();
}

function levelTable(beams, level, items) {
  const titles = new Map(items.map((item) => [item.semantic_id.join(), item.title]));
  const kept = beams.filter((beam) => beam.survives).length;
  const heads = ["Beam", "Fate", "Log-probability", "Score", "Probability", "Items"];
  const rows = beams.map((beam) => {
    const numbers = [decimals(beam.log_prob), decimals(beam.score), percent(Math.exp(beam.score)), beam.num_items];
    const title = beam.survives ? titles.get(beam.codes.join()) : undefined;
    return html("tr", {}, html("th", { scope: "row", class: "mono" }, beam.text),
      html("td", {}, title ?? (beam.survives ? "kept" : "cut")),
      ...numbers.map((number) => html("td", { class: "number" }, String(number))));
  });
  return html("table", {},
    html("caption", {}, `Level ${level + 1}: ${kept} kept, ${beams.length - kept} of those that were cut`),
    html("thead", {}, html("tr", {}, ...heads.map((head, place) => html(
      "th", { scope: "col", class: place > 1 ? "number" : "" }, head)))),
    html("tbody", {}, ...rows));
}
