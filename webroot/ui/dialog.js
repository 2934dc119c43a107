/** Modal dialogs on <dialog>: the browser keeps the focus inside and gives it back. */

import { h } from "./h.js";

/**
 * Ask and resolve with the chosen button's value, or "" when the dialog is dismissed.
 * @param {{icon?: string, title: string, text: string | [string, import("../lib/i18n.js").Params], buttons: {value: string, label: string, isPrimary?: boolean}[]}} question
 * @returns {Promise<string>}
 */
export function ask({ icon, title, text, buttons }) {
  const form = h("form", { class: "dialog-body", attrs: { method: "dialog" } },
    icon && h("div", { class: "dialog-icon", icon }),
    h("h2", { t: title, id: "dialog-title" }),
    h("p", { t: text }),
    h("div", { class: "dialog-buttons" }, ...buttons.map(({ value, label, isPrimary }) =>
      h("button", { class: `button ${isPrimary ? "primary" : ""}`, t: label, props: { value, type: "submit", autofocus: isPrimary } }))),
  );
  const dialog = h("dialog", { class: "dialog", attrs: { "aria-labelledby": "dialog-title" } }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}
