/** The documents of the HTTP API: /openapi.json, readable. */

import { getDocument } from "../lib/api.js";
import { curl, groups, matches, rows, typeText } from "../lib/openapi.js";
import { h, iconButton } from "../ui/h.js";
import { startShell } from "../ui/shell.js";
import { copyText } from "../ui/stage-cards.js";
import { setPlaceholder } from "../ui/text.js";

/** @typedef {import("../lib/openapi.js").Operation} Operation */

/** Text whose `pieces` between backticks are code. @param {string} text @returns {Node[]} */
function withCode(text) {
  return text.split("`").map((piece, index) => (index % 2 ? h("code", {}, piece) : document.createTextNode(piece)));
}

/** @param {any} schema */
function fieldTable(schema) {
  const fields = rows(schema);
  if (!fields.length) return h("p", { class: "docs-type" }, h("code", {}, typeText(schema)));
  return h("table", { class: "docs-fields" }, h("tbody", {}, ...fields.map(({ depth, name, type, isRequired, help }) =>
    h("tr", { class: `docs-depth-${Math.min(depth, 4)}` },
      h("th", { attrs: { scope: "row" } }, h("code", {}, name), isRequired && h("span", { class: "docs-needed", label: "docs.needed" }, "*")),
      h("td", { class: "docs-type" }, type),
      h("td", {}, ...withCode(help))))));
}

/** @param {string} title text key @param {...(Node|false|null)} children */
function part(title, ...children) {
  return h("section", { class: "docs-part" }, h("h4", { t: title }), ...children);
}

/** @param {Operation} operation */
function parameters({ parameters: all }) {
  if (!all.length) return null;
  return part("docs.parameters", h("table", { class: "docs-fields" }, h("tbody", {}, ...all.map((param) =>
    h("tr", {},
      h("th", { attrs: { scope: "row" } }, h("code", {}, param.name), param.required && h("span", { class: "docs-needed", label: "docs.needed" }, "*")),
      h("td", { class: "docs-type" }, `${param.in}, ${typeText(param.schema)}`),
      h("td", {}, ...withCode(param.description ?? "")))))));
}

/** @param {Operation} operation */
function answers({ responses }) {
  return part("docs.answers", ...responses.map(({ status, help, type, schema }) =>
    h("details", { class: "docs-answer", attrs: { open: status.startsWith("2") } },
      h("summary", {}, h("span", { class: `docs-status docs-status-${status[0]}` }, status), h("span", {}, help), h("span", { class: "docs-type" }, type)),
      schema && fieldTable(schema))));
}

/** @param {string} title text key @param {import("../lib/openapi.js").SocketEvent[]} events */
function talk(title, events) {
  return part(title, ...events.map(({ type, description, schema }) =>
    h("details", { class: "docs-answer" },
      h("summary", {}, h("code", {}, type || "{…}"), h("span", {}, ...withCode(description))),
      fieldTable(schema))));
}

/** @param {Operation} operation */
function tryIt(operation) {
  const command = curl(operation, location.origin);
  return part("docs.try", h("div", { class: "docs-command" }, h("code", {}, command), iconButton("copy", "action.copy", () => void copyText(command), "small")));
}

/** @param {Operation} operation */
function card(operation) {
  const { id, method, path, summary, help, body, socket } = operation;
  return h("details", { class: "docs-card", id },
    h("summary", {},
      h("span", { class: `docs-method docs-${method}` }, method.toUpperCase()),
      h("code", { class: "docs-path" }, path),
      h("span", { class: "docs-summary" }, summary)),
    h("div", { class: "docs-body" },
      help && h("p", {}, ...withCode(help)),
      parameters(operation),
      body && part("docs.body", h("p", { class: "docs-type" }, body.type), fieldTable(body.schema)),
      socket && talk("docs.client", socket.client),
      socket && talk("docs.server", socket.server),
      answers(operation),
      !socket && tryIt(operation)));
}

/** @param {Map<string, Operation[]>} all */
function list(all) {
  const cards = new Map([...all.values()].flat().map((operation) => [operation, card(operation)]));
  const sections = [...all].map(([tag, operations]) =>
    h("section", { class: "docs-group", id: `tag-${tag}` }, h("h2", {}, tag), ...operations.map((one) => /** @type {HTMLElement} */ (cards.get(one)))));
  const search = h("input", { class: "docs-search", label: "docs.search", attrs: { type: "search", autocomplete: "off", spellcheck: "false" } });
  setPlaceholder(search, "docs.search");
  const none = h("p", { class: "docs-none", t: "docs.none", attrs: { role: "status" } });
  const show = () => {
    for (const [operation, element] of cards) element.hidden = !matches(operation, search.value.trim());
    for (const section of sections) section.hidden = !section.querySelector(".docs-card:not([hidden])");
    none.hidden = sections.some((section) => !section.hidden);
  };
  search.addEventListener("input", show);
  show();
  return [search, none, ...sections];
}

/** Open the operation that the address names. */
function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

async function main() {
  await startShell("docs.title");
  const root = /** @type {HTMLElement} */ (document.getElementById("main"));
  const found = await getDocument();
  root.append(
    h("header", { class: "docs-head" },
      h("h1", { t: "docs.headline" }),
      h("p", { class: "lead", t: "docs.lead" }),
      h("p", {}, h("a", { class: "text-button", attrs: { href: "/openapi.json" } }, "/openapi.json"))));
  if (!found) {
    root.append(h("p", { class: "docs-none", t: "docs.offline", attrs: { role: "alert" } }));
    return;
  }
  root.append(...list(groups(found)));
  openNamed();
  addEventListener("hashchange", openNamed);
}

void main();
