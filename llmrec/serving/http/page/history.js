// The history under construction: an ordered list of items that can be moved and removed.

import { byId, html } from "./dom.js";

export class History {
  /** ``say(text)`` tells people who do not see the list. */
  constructor(say) {
    this.say = say;
    this.items = [];
    this.list = byId("history");
    byId("clear").addEventListener("click", () => {
      this.replace([]);
      this.say("The history is empty.");
      byId("search").focus();
    });
  }

  get itemIds() {
    return this.items.map((item) => item.item_id);
  }

  add(items) {
    this.replace([...this.items, ...items]);
  }

  replace(items) {
    this.items = items;
    this.list.replaceChildren(...items.map((item, place) => this.row(item, place)));
    byId("clear").hidden = items.length === 0;
  }

  row(item, place) {
    const up = html("button", { type: "button", "aria-label": `Move up: ${item.title}`, title: "Move up" }, "↑");
    up.disabled = place === 0;
    up.addEventListener("click", () => this.moveUp(place));
    const remove = html("button", { type: "button", "aria-label": `Remove: ${item.title}`, title: "Remove" }, "×");
    remove.addEventListener("click", () => this.remove(place));
    return html("li", {}, html("span", { class: "title", title: `Item ${item.item_id}` }, item.title), up, remove);
  }

  moveUp(place) {
    const items = [...this.items];
    items.splice(place - 1, 0, ...items.splice(place, 1));
    this.replace(items);
    this.say(`${items[place - 1].title} is now number ${place}.`);
    this.focus(place - 1, place === 1 ? 1 : 0);
  }

  remove(place) {
    const { title } = this.items[place];
    this.replace(this.items.toSpliced(place, 1));
    this.say(`Removed ${title}.`);
    if (this.items.length === 0) byId("search").focus();
    else this.focus(Math.min(place, this.items.length - 1), 1);
  }

  /** The buttons were drawn anew: put the focus where it would have been. */
  focus(place, button) {
    this.list.children[place].querySelectorAll("button")[button].focus();
  }
}
