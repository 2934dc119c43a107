/** One message of the chat: its text, its notes, and what can be done with it. */

import { h, iconButton } from "./h.js";
import { renderMarkdown } from "./markdown-view.js";
import { copyText } from "./stage-cards.js";
import { setText } from "./text.js";

/** @typedef {{role: "user"|"assistant", content: string}} Message */

/**
 * @typedef {object} MessageActions
 * @property {() => void} [edit]
 * @property {() => void} [regenerate]
 */

export class ChatMessage {
  #body = h("div", { class: "message-body" });
  #note = h("span", { class: "message-note" });
  #tools = h("div", { class: "message-tools" });
  #isQueued = false;
  element;

  /** @param {Message} message @param {MessageActions} actions */
  constructor(message, actions) {
    this.message = message;
    this.#tools.append(
      iconButton("copy", "action.copy", () => void copyText(this.message.content), "small"),
      ...(actions.edit ? [iconButton("edit", "chat.edit", actions.edit, "small")] : []),
      ...(actions.regenerate ? [iconButton("refresh", "chat.regenerate", actions.regenerate, "small")] : []),
    );
    this.element = h("article", { class: `message message-${message.role}`, label: message.role === "user" ? "transcript.user" : "transcript.ai" },
      this.#body, h("div", { class: "message-foot" }, this.#tools, this.#note));
    this.render();
  }

  /** Show what has come so far; at most once a frame. @param {string} content */
  grow(content) {
    this.message.content = content;
    if (this.#isQueued) return;
    this.#isQueued = true;
    requestAnimationFrame(() => {
      this.#isQueued = false;
      this.render();
    });
  }

  render() {
    const { role, content } = this.message;
    if (role === "user") this.#body.textContent = content;
    else this.#body.replaceChildren(...renderMarkdown(content));
  }

  /** @param {boolean} isWaiting the answer is still on its way */
  wait(isWaiting) {
    this.element.classList.toggle("is-waiting", isWaiting);
    this.element.setAttribute("aria-busy", String(isWaiting));
  }

  /** @param {string} key @param {import("../lib/i18n.js").Params} [params] */
  note(key, params) {
    setText(this.#note, key, params);
  }

  /** @param {HTMLElement} element an error or a place in the line, below the text */
  append(element) {
    this.element.append(element);
  }

  /** Replace the text by a field; resolves with the new text, or null when given up. @returns {Promise<string|null>} */
  editInPlace() {
    const field = h("textarea", { class: "message-edit", label: "chat.edit", attrs: { rows: 3 }, props: { value: this.message.content } });
    return new Promise((resolve) => {
      const finish = (/** @type {string|null} */ text) => {
        this.element.classList.remove("is-editing");
        this.render();
        resolve(text);
      };
      field.addEventListener("keydown", (event) => {
        if (event.key === "Escape") finish(null);
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
          event.preventDefault();
          finish(field.value.trim() || null);
        }
      });
      this.element.classList.add("is-editing");
      this.#body.replaceChildren(field, h("div", { class: "card-buttons" },
        h("button", { class: "button primary", t: "chat.resend", on: { click: () => finish(field.value.trim() || null) } }),
        h("button", { class: "button", t: "action.cancel", on: { click: () => finish(null) } })));
      field.focus();
    });
  }
}
