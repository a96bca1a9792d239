// Elements by hand. Text is always set as text: titles are other people's data.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** An HTML element with attributes and children; strings become text. */
export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A horizontal bar, filled from the left by ``share`` (0 to 1). */
export function bar(share) {
  const width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return svg("svg", { class: "bar", "aria-hidden": "true" },
    svg("rect", { class: "track", width: "100%", height: "100%", rx: 3 }),
    svg("rect", { class: "value", width, height: "100%", rx: 3 }));
}

/** A probability for people: three digits at most, never a rounded-up zero. */
export function percent(probability) {
  const value = probability * 100;
  if (value >= 10) return `${value.toFixed(0)}\u00a0%`;
  if (value >= 0.01) return `${value.toPrecision(2)}\u00a0%`;
  return value > 0 ? "<\u00a00.01\u00a0%" : "0\u00a0%";
}

/** A log-probability for people; what rounds to zero has no sign. */
export const decimals = (value) => value.toFixed(4).replace("-0.0000", "0.0000").replace("-", "−");

/** "1 item", "20 items". */
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
