/** The panel beside the stage: tabs for settings, numbers and keys. A column on wide screens, a sheet on narrow ones. */

import { h, iconButton } from "./h.js";

const WIDE = "(min-width: 1180px)";

/** @typedef {{id: string, label: string, content: HTMLElement}} Tab */

export class Inspector {
  #dialog;
  /** @type {HTMLButtonElement[]} */ #tabs;
  #panels;
  /** @type {(isOpen: boolean) => void} */ onToggle = () => {};

  /** @param {Tab[]} tabs */
  constructor(tabs) {
    this.#tabs = tabs.map(({ id, label }, index) =>
      h("button", { class: "tab", t: label, id: `tab-${id}`, attrs: { role: "tab", "aria-controls": `panel-${id}` }, on: { click: () => this.select(index), keydown: (event) => this.#onKey(event, index) } }));
    this.#panels = tabs.map(({ id, content }) =>
      h("div", { class: "tab-panel", id: `panel-${id}`, attrs: { role: "tabpanel", "aria-labelledby": `tab-${id}` } }, content));
    this.#dialog = h("dialog", { class: "inspector", label: "inspector.title" },
      h("div", { class: "inspector-head" }, h("div", { class: "tabs", attrs: { role: "tablist" } }, ...this.#tabs), iconButton("close", "action.close", () => this.close(), "small")),
      ...this.#panels,
    );
    this.#dialog.addEventListener("close", () => this.onToggle(false));
    this.#dialog.addEventListener("click", (event) => event.target === this.#dialog && this.close());
    matchMedia(WIDE).addEventListener("change", () => this.isOpen && (this.close(), this.open()));
    this.select(0);
  }

  get element() {
    return this.#dialog;
  }

  get isOpen() {
    return this.#dialog.open;
  }

  open() {
    if (matchMedia(WIDE).matches) this.#dialog.show();
    else this.#dialog.showModal();
    this.onToggle(true);
  }

  close() {
    this.#dialog.close();
  }

  toggle() {
    if (this.isOpen) this.close();
    else this.open();
  }

  /** @param {number} index */
  select(index) {
    this.#tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === index));
      tab.tabIndex = i === index ? 0 : -1;
      this.#panels[i].hidden = i !== index;
    });
  }

  /** @param {KeyboardEvent} event @param {number} index */
  #onKey(event, index) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = (index + step + this.#tabs.length) % this.#tabs.length;
    this.select(next);
    this.#tabs[next].focus();
  }
}

/** The list of keys. @param {[string, string][]} keys key name and text key */
export function keyList(keys) {
  return h("dl", { class: "key-list" }, ...keys.flatMap(([key, text]) => [
    h("dt", {}, h("kbd", {}, key)), h("dd", { t: text }),
  ]));
}

/** Rows of live numbers; returns the element and the function that fills it. @param {string[]} names */
export function numberList(names) {
  const cells = new Map(names.map((name) => [name, h("dd", {}, "–")]));
  const element = h("dl", { class: "number-list" }, ...names.flatMap((name) => [h("dt", { t: `metrics.${name}` }), /** @type {HTMLElement} */ (cells.get(name))]));
  /** @param {Record<string, string>} values */
  const fill = (values) => {
    for (const [name, cell] of cells) {
      const text = values[name] ?? "–";
      if (cell.textContent !== text) cell.textContent = text;
    }
  };
  return { element, fill };
}
