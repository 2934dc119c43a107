/** Pieces that the panels of the operator's page share. */

import { formatCount } from "../lib/format.js";
import { h } from "../ui/h.js";
import { put } from "../ui/keyed-list.js";
import { currentLang } from "../ui/text.js";
import { toast } from "../ui/toast.js";

/** A titled card; `count` shows a number beside its title, `tools` stand at its right. @param {string} key @param {...HTMLElement} tools */
export function panel(key, ...tools) {
  const number = h("span", { class: "panel-count", attrs: { hidden: true } });
  const id = key.replace(".", "-");
  const body = h("div", { class: "panel-body" });
  const element = h("section", { class: "panel", attrs: { "aria-labelledby": id } },
    h("div", { class: "panel-head" }, h("h2", { t: key, id }), number, h("div", { class: "panel-tools" }, ...tools)), body);
  const count = (/** @type {number} */ value) => (put(number, formatCount(value, currentLang())), (number.hidden = false));
  return { element, body, count };
}

/** A list of rows, and what stands there while it has none. @param {string} emptyKey */
export function rowList(emptyKey) {
  return { list: h("ul", { class: "rows" }), none: h("p", { class: "panel-empty", t: emptyKey }) };
}

/** Say how a change went, in the server's words where it refused. @param {import("../lib/admin.js").Answer} answer @param {string} doneKey */
export function tell(answer, doneKey) {
  const isDone = answer.status >= 200 && answer.status < 300;
  if (isDone) toast(doneKey, { kind: "good" });
  else toast(answer.status ? "admin.refused" : "admin.unreachable", { kind: "bad", params: { reason: answer.error } });
  return isDone;
}
