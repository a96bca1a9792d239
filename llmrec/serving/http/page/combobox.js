// A search box with a list of matches under it, after the ARIA combobox pattern.

import { html } from "./dom.js";

const PAUSE = 150; // milliseconds without a key before the server is asked

export class Combobox {
  /**
   * ``search(text, signal)`` resolves to items ({item_id, title}); ``choose(item)`` gets the picked one; ``say(text)``
   * tells people who do not see the list.
   */
  constructor(input, list, { search, choose, say }) {
    Object.assign(this, { input, list, search, choose, say });
    this.items = [];
    this.active = -1;
    this.asked = new AbortController();
    input.addEventListener("input", () => this.ask(PAUSE));
    input.addEventListener("keydown", (event) => this.press(event));
    input.addEventListener("blur", () => this.close());
    // the input keeps the focus, so that a click on a match does not close the list first
    list.addEventListener("mousedown", (event) => event.preventDefault());
    list.addEventListener("click", (event) => this.pick([...list.children].indexOf(event.target.closest("li"))));
  }

  async ask(pause) {
    this.asked.abort();
    const { signal } = (this.asked = new AbortController());
    const text = this.input.value.trim();
    await new Promise((resume) => setTimeout(resume, pause));
    if (signal.aborted) return;
    if (text === "") {
      this.close();
      return;
    }
    try {
      this.show(await this.search(text, signal));
    } catch (error) {
      if (error.name === "AbortError") return;
      this.close();
      this.say(error.message);
    }
  }

  show(items) {
    this.items = items;
    this.list.replaceChildren(...items.map((item, place) => html(
      "li", { role: "option", id: `match-${place}`, "aria-selected": "false" },
      html("span", {}, item.title), html("span", { class: "item-id" }, item.item_id))));
    this.activate(-1);
    this.list.hidden = items.length === 0;
    this.input.setAttribute("aria-expanded", String(items.length > 0));
    this.say(items.length === 0 ? "No title matches." : `${items.length} matches; arrow keys to choose.`);
  }

  close() {
    this.asked.abort();
    this.items = [];
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.activate(-1);
  }

  activate(place) {
    this.active = place;
    for (const [index, option] of [...this.list.children].entries()) {
      option.setAttribute("aria-selected", String(index === place));
    }
    if (place < 0) {
      this.input.removeAttribute("aria-activedescendant");
      return;
    }
    this.input.setAttribute("aria-activedescendant", `match-${place}`);
    this.list.children[place].scrollIntoView({ block: "nearest" });
  }

  press(event) {
    if (event.isComposing || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") this.step(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Enter") this.pick(this.active);
    else if (event.key === "Escape") this.leave();
    else return;
    event.preventDefault();
  }

  step(by) {
    if (this.items.length === 0) {
      this.ask(0);
      return;
    }
    // one stop between the last match and the first is the input itself
    const stops = this.items.length + 1;
    this.activate((this.active + 1 + by + stops) % stops - 1);
  }

  leave() {
    if (this.list.hidden) this.input.value = "";
    this.close();
  }

  pick(place) {
    const item = this.items[place];
    if (item === undefined) return;
    this.input.value = "";
    this.close();
    this.choose(item);
  }
}
