/** Words over the picture: what was said last. The conversation beside it is what screen readers follow. */

import { h } from "./h.js";

/** Words stay this long after the voice has ended, ms. */
const STAY_MS = 6000;

export class Subtitles {
  #user = h("p", { class: "subtitle subtitle-user" });
  #ai = h("p", { class: "subtitle subtitle-ai" });
  /** @type {Map<HTMLElement, any>} */ #timers = new Map();
  element = h("div", { class: "subtitles", attrs: { "aria-hidden": "true" } }, this.#user, this.#ai);

  /** @param {string} text */
  userSaid(text) {
    this.#show(this.#user, text, true);
  }

  /** @param {{text: string, isFinal: boolean}} caption */
  aiSays({ text, isFinal }) {
    this.#show(this.#ai, text.trim(), isFinal);
  }

  clear() {
    for (const line of [this.#user, this.#ai]) this.#show(line, "", false);
  }

  /** @param {HTMLElement} line @param {string} text @param {boolean} isFinal */
  #show(line, text, isFinal) {
    clearTimeout(this.#timers.get(line));
    line.replaceChildren(...(text ? [h("span", {}, text)] : []));
    if (isFinal) this.#timers.set(line, setTimeout(() => line.replaceChildren(), STAY_MS));
  }
}
