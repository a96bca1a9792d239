// The page at "/" of llmrec serve: pick a history, get recommendations, see the search.

import { Api } from "./api.js";
import { Combobox } from "./combobox.js";
import { bar, byId, count, decimals, html, percent } from "./dom.js";
import { History } from "./history.js";
import { drawTree } from "./tree.js";

const MATCHES = 20;
const POOL = 100; // items that one of a random history is drawn from
const AT_ONCE = 6; // pasted ids looked up at a time

const api = new Api(askForKey);
const history = new History((text) => say(text, "history-status"));
let asked = new AbortController();
let drawn = null; // the last answer, to draw again where the width changes
let shownFingerprint = null;
let hasSemanticIds = true;

function say(text, id = "status") {
  byId(id).textContent = text;
}

/** Run an action; what goes wrong is shown in the element ``id``, and what stood there before is wiped. */
async function attempt(action, id = "problem") {
  say("", id);
  try {
    await action();
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, id);
  }
}

function askForKey(refused) {
  const dialog = byId("key-dialog");
  byId("key").value = "";
  byId("key-problem").textContent = refused ? "The server refused the key." : "";
  byId("change-key").hidden = false;
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const once = new AbortController();
    const finish = (key) => {
      once.abort();
      dialog.close();
      resolve(key);
    };
    byId("key-form").addEventListener("submit", (event) => {
      event.preventDefault();
      finish(byId("key").value.trim());
    }, { signal: once.signal });
    byId("key-cancel").addEventListener("click", () => finish(null), { signal: once.signal });
    dialog.addEventListener("close", () => finish(null), { signal: once.signal });
  });
}

async function showServer() {
  const [models, catalog] = await Promise.all([api.get("/v1/models"), api.get("/v1/catalog")]);
  const model = models.data[0];
  byId("model").textContent = model.id;
  document.title = `${model.id} – llmrec`;
  byId("num-items").textContent = catalog.num_items.toLocaleString("en");
  hasSemanticIds = catalog.num_codebooks > 0;
  byId("codebooks").textContent = `${catalog.num_codebooks} (${catalog.codebook_sizes.join(" × ")})`;
  byId("fingerprint").textContent = shownFingerprint = catalog.catalog;
}

async function listItems(parameters, signal) {
  return (await api.get("/v1/items", parameters, signal)).data;
}

async function addPasted() {
  const itemIds = byId("pasted").value.split(/[,\n]/).map((part) => part.trim()).filter(Boolean);
  const found = [];
  const unknown = [];
  say(`Looking up ${count(itemIds.length, "item")} …`, "history-status");
  for (let start = 0; start < itemIds.length; start += AT_ONCE) {
    const some = itemIds.slice(start, start + AT_ONCE);
    const answers = await Promise.all(some.map((itemId) => findItem(itemId)));
    answers.forEach((item, place) => (item ? found.push(item) : unknown.push(some[place])));
  }
  history.add(found);
  byId("pasted").value = unknown.join("\n");
  say(`Added ${count(found.length, "item")}.`, "history-status");
  if (unknown.length) throw new Error(`Not in the catalogue: ${unknown.join(", ")}`);
}

async function findItem(itemId) {
  try {
    return await api.get(`/v1/items/${encodeURIComponent(itemId)}`);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function surprise() {
  const first = await listItems({ limit: POOL });
  const length = Math.min(first.length, 3 + Math.floor(Math.random() * 4));
  // the server lists the first items only: pieces of their titles lead to the rest of the catalogue
  const picked = await Promise.all(Array.from({ length }, async () => {
    const { title } = anyOf(first);
    const start = Math.floor(Math.random() * Math.max(1, title.length - 2));
    return anyOf(await listItems({ limit: POOL, search: title.slice(start, start + 3) })) ?? anyOf(first);
  }));
  const items = [...new Map(picked.map((item) => [item.item_id, item])).values()];
  history.replace(items);
  say(`A history of ${count(items.length, "item")}, drawn at random.`, "history-status");
}

const anyOf = (items) => items[Math.floor(Math.random() * items.length)];

function question() {
  const body = { users: [{ history: history.itemIds }] };
  // items without semantic IDs have no beams to show or to set
  if (hasSemanticIds) body.trace = true;
  const fields = [["k", "k"], ["num_beams", "num-beams"], ["max_per_first_code", "max-per-first-code"]];
  for (const [name, id] of hasSemanticIds ? fields : fields.slice(0, 1)) {
    if (byId(id).value !== "") body[name] = byId(id).valueAsNumber;
  }
  body.exclude_seen = byId("exclude-seen").checked;
  return body;
}

async function recommend() {
  if (history.items.length === 0) throw new Error("The history is empty. Add an item, or let the page surprise you.");
  asked.abort();
  const { signal } = (asked = new AbortController());
  const busy = (state) => byId("answer").setAttribute("aria-busy", String(state));
  busy(true);
  say("Searching …");
  const started = performance.now();
  try {
    const answer = await api.post("/v1/recommendations", question(), signal);
    show(answer, performance.now() - started);
    if (answer.catalog !== shownFingerprint) await showServer(); // it was reloaded meanwhile
  } catch (error) {
    if (!signal.aborted) say("Nothing to show.");
    throw error;
  } finally {
    if (!signal.aborted) busy(false);
  }
}

function show(answer, milliseconds) {
  const { items, trace } = answer.data[0];
  const hasTree = trace?.levels[0]?.length > 0;
  byId("search-tree").hidden = !hasTree;
  drawn = hasTree ? { trace, items, width: byId("tree").clientWidth, showBeam: drawTree(trace, items) } : null;
  const texts = new Map((trace?.levels.at(-1) ?? []).map((beam) => [beam.codes.join(), beam.text]));
  const best = items.length ? Math.exp(items[0].score) : 1;
  byId("recommendations").replaceChildren(...items.map((item) => recommendation(item, best, texts)));
  say(`${count(items.length, "recommendation")} in ${count(Math.round(milliseconds), "millisecond")}.`);
}

function recommendation(item, best, texts) {
  if (item.semantic_id.length === 0) return plainRecommendation(item);
  const probability = Math.exp(item.score);
  const text = texts.get(item.semantic_id.join()) ?? item.semantic_id.join(" ");
  const beam = html("button", { type: "button", class: "semantic-id", "aria-label": `${text}: show in the beam tree` }, text);
  beam.addEventListener("click", () => drawn?.showBeam(item.semantic_id));
  return html("li", { "data-item-id": item.item_id, "data-score": item.score },
    html("div", {}, html("p", { class: "title" }, item.title),
      html("p", { class: "below" }, html("span", { class: "item-id" }, `id ${item.item_id}`), beam)),
    html("div", { class: "measure" },
      html("p", { class: "numbers" }, html("span", {}, percent(probability)),
        html("span", { class: "score", title: "Score: log-probability of the semantic ID" }, decimals(item.score))),
      bar(probability / best)));
}

// without a semantic ID there is no beam to show, and a score need not be a probability
function plainRecommendation(item) {
  return html("li", { "data-item-id": item.item_id, "data-score": item.score },
    html("div", {}, html("p", { class: "title" }, item.title),
      html("p", { class: "below" }, html("span", { class: "item-id" }, `id ${item.item_id}`))),
    html("div", { class: "measure" },
      html("p", { class: "numbers" }, html("span", { class: "score", title: "Score of the model" }, decimals(item.score)))));
}

function start() {
  new Combobox(byId("search"), byId("matches"), {
    search: (text, signal) => listItems({ search: text, limit: MATCHES }, signal),
    say: (text) => say(text, "history-status"),
    choose: (item) => {
      history.add([item]);
      say(`Added ${item.title}, number ${history.items.length}.`, "history-status");
    },
  });
  byId("add-pasted").addEventListener("click", () => attempt(addPasted, "history-problem"));
  byId("surprise").addEventListener("click", () => attempt(surprise, "history-problem"));
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(recommend);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || byId("key-dialog").open) return;
    event.preventDefault(); // in a field, the browser would submit too
    byId("ask").requestSubmit();
  });
  byId("change-key").addEventListener("click", () => attempt(async () => {
    await api.renewKey(false);
    await showServer();
  }));
  new ResizeObserver(() => {
    if (drawn === null || byId("tree").clientWidth === drawn.width) return;
    Object.assign(drawn, { width: byId("tree").clientWidth, showBeam: drawTree(drawn.trace, drawn.items) });
  }).observe(byId("tree"));
  byId("search").focus();
  attempt(showServer);
}

start();
