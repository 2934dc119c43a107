/** What the operator switches and sets: apps, and how long conversations are expected to last. */

import { api } from "../lib/admin.js";
import { formatCount, formatSpan } from "../lib/format.js";
import { h } from "../ui/h.js";
import { keyedList } from "../ui/keyed-list.js";
import { currentLang, hasText, setText } from "../ui/text.js";
import { panel, rowList, tell } from "./admin-parts.js";

/** In the server's names, each with the default that an empty field stands for. */
const KINDS = ["chat", "half_duplex", "audio_duplex", "omni_duplex", "streaming"];

/** Each panel has an element and reads what it shows anew. @typedef {{element: HTMLElement, refresh: () => Promise<void>}} SlowPart */

/** @returns {SlowPart} */
export function appsPanel() {
  const { element, body } = panel("admin.apps");
  const { list, none } = rowList("admin.apps.none");
  body.append(h("p", { class: "panel-note", t: "admin.apps.note" }), list, none);
  const draw = keyedList(list, { key: ({ app_id }) => app_id, make: appRow, empty: none });
  const refresh = async () => {
    const { value } = await api.apps();
    if (value?.apps) draw(value.apps);
  };
  return { element, refresh };
}

/** @param {{app_id: string, name: string, route: string, enabled: boolean}} app */
function appRow({ app_id, name, route }) {
  const input = h("input", { id: `app-${app_id}`, class: "switch", attrs: { type: "checkbox", role: "switch" } });
  const label = h("label", { class: "row-name", attrs: { for: input.id } }, name);
  if (hasText(`admin.app.${app_id}`)) setText(label, `admin.app.${app_id}`);
  input.addEventListener("change", async () => {
    input.disabled = true;
    const isDone = tell(await api.switchApp(app_id, input.checked), input.checked ? "admin.app_on" : "admin.app_off");
    if (!isDone) input.checked = !input.checked;
    input.disabled = false;
  });
  const row = h("li", { class: "row" }, h("div", { class: "row-main" }, label, h("code", {}, route)), input);
  const update = (/** @type {{enabled: boolean}} */ { enabled }) => {
    if (!input.disabled) input.checked = enabled;
  };
  return { element: row, update };
}

/** @returns {SlowPart} */
export function etaPanel() {
  const { element, body } = panel("admin.eta");
  const fields = new Map(KINDS.map((kind) => [kind, etaField(kind)]));
  const alpha = h("input", { id: "eta-alpha", attrs: { type: "number", min: "0.01", max: "1", step: "0.01", required: true } });
  const form = h("form", { class: "eta-form" },
    ...[...fields.values()].map((field) => field.element),
    h("div", { class: "eta-field" }, h("label", { t: "admin.eta.alpha", attrs: { for: alpha.id } }), alpha, h("span", { class: "row-note", t: "admin.eta.alpha.note" })),
    h("div", { class: "form-buttons" },
      h("button", { class: "button primary", t: "admin.save", props: { type: "submit" } }),
      h("button", { class: "button quiet", t: "admin.eta.defaults", on: { click: () => void save({ ema_alpha: null }) } })));
  body.append(h("p", { class: "panel-note", t: "admin.eta.note" }), form);
  let isTouched = false;
  const show = (/** @type {any} */ eta) => {
    for (const [kind, field] of fields) field.show(eta, kind, isTouched);
    if (!isTouched) alpha.value = String(eta.ema_alpha);
  };
  const save = async (/** @type {object} */ config) => {
    const answer = await api.setEta(config);
    if (!tell(answer, "admin.eta.saved")) return;
    isTouched = false;
    show(answer.value);
  };
  form.addEventListener("input", () => (isTouched = true));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const bases = [...fields].map(([kind, { input }]) => [`eta_${kind}_s`, Number(input.value)]);
    void save({ ...Object.fromEntries(bases), ema_alpha: Number(alpha.value) });
  });
  const refresh = async () => {
    const { status, value } = await api.eta();
    if (status === 200) show(value);
  };
  return { element, refresh };
}

/** @param {string} kind */
function etaField(kind) {
  const input = h("input", { id: `eta-${kind}`, attrs: { type: "number", min: "0", max: "1000000", step: "any", required: true, inputmode: "decimal" } });
  const seen = h("span", { class: "row-note" });
  const element = h("div", { class: "eta-field" }, h("label", { t: `admin.eta.${kind}`, attrs: { for: input.id } }), input, seen);
  /** @param {any} eta @param {string} name @param {boolean} isTouched what is being typed stays */
  const show = (eta, name, isTouched) => {
    const mean = eta[`ema_${name}_s`], samples = eta[`ema_${name}_samples`];
    if (!isTouched) input.value = String(eta.config[`eta_${name}_s`]);
    if (mean === null) setText(seen, "admin.eta.unseen");
    else setText(seen, "admin.eta.seen", { mean: formatSpan(mean, currentLang()), samples: formatCount(samples, currentLang()) });
  };
  return { element, input, show };
}
