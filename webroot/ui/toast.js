/** Short notices with an optional action; errors interrupt a screen reader, the rest wait. */

import { h, iconButton } from "./h.js";

const SHOWN_MS = 6000;
/** More than this at once would hide the page: the oldest goes. */
const MAX_TOASTS = 3;

/** @type {HTMLElement|null} */
let shelf = null;

/**
 * @param {string} key text key
 * @param {{params?: import("../lib/i18n.js").Params, kind?: "info"|"good"|"bad", action?: {label: string, run: () => void}}} [options]
 */
export function toast(key, { params = {}, kind = "info", action } = {}) {
  shelf ??= document.body.appendChild(h("div", { class: "toasts" }));
  const remove = () => element.remove();
  const element = h("div", { class: `toast toast-${kind}`, attrs: { role: kind === "bad" ? "alert" : "status" } },
    h("span", { class: "toast-text", t: [key, params] }),
    action && h("button", { class: "text-button", t: action.label, on: { click: () => (remove(), action.run()) } }),
    iconButton("close", "action.close", remove, "small"),
  );
  shelf.append(element);
  while (shelf.children.length > MAX_TOASTS) shelf.firstElementChild?.remove();
  setTimeout(remove, SHOWN_MS);
}
