/** The events of a call as a list: each opens to its JSON; filtered, copied, saved, cleared. */

import { EventLog, isShown } from "../lib/event-log.js";
import { formatBytes } from "../lib/format.js";
import { h, iconButton } from "../ui/h.js";
import { icon } from "../ui/icons.js";
import { put } from "../ui/keyed-list.js";
import { segmented } from "../ui/segmented.js";
import { copyText, formatMs } from "../ui/stage-cards.js";
import { currentLang, setPlaceholder, setText } from "../ui/text.js";
import { downloadText } from "../ui/transcript.js";

/** Within this distance of the end new rows keep themselves in view, px. */
const STICK_PX = 60;

/** @typedef {import("../lib/event-log.js").Row} Row */

export class LogView {
  #log = new EventLog();
  /** @type {Map<number, {element: HTMLDetailsElement, update: (row: Row) => void}>} */ #rows = new Map();
  #list = h("div", { class: "log-rows", label: "realtime.log", attrs: { role: "log", "aria-live": "off", tabindex: "0" } });
  #empty = h("p", { class: "log-empty", t: "realtime.log.empty" });
  #count = h("span", { class: "log-count", attrs: { role: "status" } });
  #words = h("input", { class: "search", id: "log-words", label: "realtime.filter", attrs: { type: "search", autocomplete: "off", spellcheck: "false" } });
  #direction = segmented("direction", "realtime.direction", [["all", "realtime.all"], ["out", "realtime.sent"], ["in", "realtime.received"]], () => this.#filter());
  /** The newest row is in view, and is to stay so. */
  #isFollowing = true;
  element;

  constructor() {
    setPlaceholder(this.#words, "realtime.filter");
    this.#words.addEventListener("input", () => this.#filter());
    this.element = h("div", { class: "log" },
      h("div", { class: "log-tools" }, this.#direction.element, this.#words,
        h("div", { class: "log-buttons" },
          iconButton("copy", "realtime.copy", () => void copyText(this.#text()), "small"),
          iconButton("download", "realtime.save", () => downloadText("realtime-events.jsonl", this.#text()), "small"),
          iconButton("trash", "realtime.clear", () => this.clear(), "small"))),
      this.#list,
      h("div", { class: "log-foot" }, this.#count));
    this.#list.append(this.#empty);
    this.#list.addEventListener("scroll", () => (this.#isFollowing = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < STICK_PX));
    new ResizeObserver(() => this.#follow()).observe(this.#list);
    this.#tell();
  }

  /** How many rows there are, and how many of them are shown. */
  get size() {
    return { rows: this.#log.rows.length, shown: [...this.#rows.values()].filter(({ element }) => !element.hidden).length };
  }

  /** @param {import("../lib/realtime.js").CallEvent} event */
  add(event) {
    const { row, isNew, gone } = this.#log.add(event);
    if (isNew) {
      const made = rowView(row);
      this.#rows.set(row.id, made);
      this.#list.append(made.element);
    }
    const view = /** @type {{element: HTMLElement, update: (row: Row) => void}} */ (this.#rows.get(row.id));
    view.update(row);
    view.element.hidden = !isShown(row, this.#wanted);
    if (gone) this.#drop(gone);
    this.#tell();
    this.#follow();
  }

  clear() {
    this.#log.clear();
    this.#rows.forEach(({ element }) => element.remove());
    this.#rows.clear();
    this.#tell();
  }

  /** @returns {{direction: "all"|"in"|"out", words: string}} */
  get #wanted() {
    return { direction: /** @type {any} */ (this.#direction.value), words: this.#words.value };
  }

  #text() {
    return this.#log.asText((row) => isShown(row, this.#wanted));
  }

  #filter() {
    for (const row of this.#log.rows) /** @type {{element: HTMLElement}} */ (this.#rows.get(row.id)).element.hidden = !isShown(row, this.#wanted);
    this.#tell();
    this.#follow();
  }

  #follow() {
    if (this.#isFollowing) this.#list.scrollTop = this.#list.scrollHeight;
  }

  /** @param {Row} row */
  #drop({ id }) {
    this.#rows.get(id)?.element.remove();
    this.#rows.delete(id);
  }

  #tell() {
    const { rows, shown } = this.size;
    this.#empty.hidden = rows > 0;
    setText(this.#count, rows === this.#log.maxRows ? "realtime.count_full" : "realtime.count", { shown, rows });
  }
}

/** @param {Row} row */
function rowView(row) {
  const size = h("span", { class: "log-size" }), times = h("span", { class: "log-times" });
  const json = h("pre", {}), box = h("div", { class: "log-json" }, iconButton("copy", "realtime.copy_one", () => void copyText(json.textContent ?? ""), "small"), json);
  const arrow = h("span", { class: `log-arrow log-${row.direction}`, label: row.direction === "in" ? "realtime.received" : "realtime.sent", attrs: { role: "img" } }, icon("send"));
  const element = h("details", { class: `log-row${row.type === "error" ? " is-error" : ""}` },
    h("summary", {},
      h("span", { class: "log-at" }, at(row.atMs)), arrow,
      h("span", { class: "log-what" }, h("code", {}, row.type || "{…}"), times, row.note ? h("span", { class: "log-note" }, row.note) : null),
      row.latencyMs === null ? null : h("span", { class: "log-latency" }, formatMs(row.latencyMs)), size),
    box);
  let shown = row;
  const showJson = () => element.open && put(json, JSON.stringify(shown.message, null, 2));
  element.addEventListener("toggle", showJson);
  const update = (/** @type {Row} */ changed) => {
    shown = changed;
    put(size, formatBytes(changed.numBytes, currentLang()));
    put(times, changed.count > 1 ? `×${changed.count}` : "");
    showJson();
  };
  return { element, update };
}

/** Minutes, seconds and thousandths since the connection began. @param {number} ms */
function at(ms) {
  const seconds = ms / 1000;
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(3).padStart(6, "0")}`;
}
