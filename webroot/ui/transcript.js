/** What was said: growing bubbles, newest in view, copy and download. */

import { clock } from "../lib/clock.js";
import { h } from "./h.js";
import { currentLang, setText, t } from "./text.js";

/** A transcript this late still belongs to the utterance that was heard, ms. */
const MATCH_MS = 10000;
/** Within this distance of the end new lines keep themselves in view, px. */
const STICK_PX = 80;

/**
 * @typedef {object} Line
 * @property {"user"|"ai"} role
 * @property {string} text
 * @property {number} atMs
 * @property {boolean} [isInterrupted]
 */

export class Transcript {
  /** @type {Line[]} */ lines = [];
  /** @type {Map<number, {line: Line, body: HTMLElement, note: HTMLElement}>} */ #turns = new Map();
  /** @type {{element: HTMLElement, body: HTMLElement, atMs: number}|null} */ #pending = null;
  /** The server transcribes: an utterance without words was only a noise. */
  expectsTexts = false;
  #startMs = Date.now();
  #list;
  #empty;

  /** @param {string[]} examples text keys of what one could say */
  constructor(examples) {
    this.#empty = h("div", { class: "transcript-empty" },
      h("div", { class: "card-icon", icon: "wave" }),
      h("p", { t: "transcript.empty" }),
      h("ul", {}, ...examples.map((key) => h("li", { t: key }))));
    this.#list = h("div", { class: "transcript", label: "transcript.title", attrs: { role: "log", "aria-live": "polite", tabindex: "0" } }, this.#empty);
  }

  get element() {
    return this.#list;
  }

  clear() {
    this.lines = [];
    this.#turns.clear();
    this.#pending = null;
    this.#startMs = Date.now();
    this.#list.replaceChildren(this.#empty);
  }

  /** The microphone heard an utterance; its words may follow. @param {number} durationMs */
  userSpoke(durationMs) {
    if (durationMs < 300) return;
    if (this.expectsTexts) this.#pending?.element.remove();
    const { element, body } = this.#bubble("user");
    element.classList.add("is-pending");
    setText(body, "transcript.spoke", { s: Math.round(durationMs / 100) / 10 });
    const pending = { element, body, atMs: Date.now() };
    this.#pending = pending;
    if (this.expectsTexts) setTimeout(() => this.#pending === pending && this.#forget(pending), MATCH_MS);
  }

  /** @param {string} text */
  userSaid(text) {
    this.expectsTexts = true;
    const line = /** @type {Line} */ ({ role: "user", text, atMs: Date.now() - this.#startMs });
    this.lines.push(line);
    const pending = this.#pending && Date.now() - this.#pending.atMs < MATCH_MS ? this.#pending : this.#bubble("user");
    this.#pending = null;
    pending.element.classList.remove("is-pending");
    delete pending.body.dataset.i18n;
    pending.body.textContent = text;
    this.#follow();
  }

  /** @param {{turn: number, text: string, isFinal: boolean, isInterrupted: boolean}} caption */
  aiSays({ turn, text, isFinal, isInterrupted }) {
    let entry = this.#turns.get(turn);
    if (!entry) {
      if (!text) return;
      const { body, note } = this.#bubble("ai");
      const line = /** @type {Line} */ ({ role: "ai", text: "", atMs: Date.now() - this.#startMs });
      this.lines.push(line);
      entry = { line, body, note };
      this.#turns.set(turn, entry);
    }
    entry.line.text = text;
    if (entry.body.textContent !== text.trim()) entry.body.textContent = text.trim();
    entry.body.classList.toggle("is-growing", !isFinal);
    entry.body.setAttribute("aria-busy", String(!isFinal)); // read out once, when it is whole
    if (isInterrupted) {
      entry.line.isInterrupted = true;
      setText(entry.note, "transcript.interrupted");
    }
    this.#follow();
  }

  /** @param {{element: HTMLElement}} pending */
  #forget(pending) {
    pending.element.remove();
    this.#pending = null;
  }

  /** The conversation as plain text. */
  asText() {
    return this.lines
      .map(({ role, text, atMs, isInterrupted }) => `[${clock(atMs)}] ${t(`transcript.${role}`)}: ${text.trim()}${isInterrupted ? " …" : ""}`)
      .join("\n");
  }

  /** @param {"user"|"ai"} role */
  #bubble(role) {
    this.#empty.remove();
    const body = h("div", { class: "bubble-text" });
    const note = h("span", { class: "bubble-note" });
    const time = h("time", { class: "bubble-time" }, new Date().toLocaleTimeString(currentLang(), { hour: "2-digit", minute: "2-digit" }));
    const who = h("div", { class: "bubble-head" }, h("span", { class: "bubble-who", t: `transcript.${role}` }), time, note);
    const element = h("div", { class: `bubble bubble-${role}` }, who, body);
    const isNear = this.#isNearEnd();
    this.#list.append(element);
    if (isNear) this.#scrollToEnd();
    return { element, body, note };
  }

  #isNearEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#list;
    return scrollHeight - scrollTop - clientHeight < STICK_PX;
  }

  #follow() {
    if (this.#isNearEnd()) this.#scrollToEnd();
  }

  #scrollToEnd() {
    this.#list.scrollTop = this.#list.scrollHeight;
  }
}

/** Save *text* as a file of the user. @param {string} name @param {string} text */
export function downloadText(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
  h("a", { attrs: { href: url, download: name } }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
