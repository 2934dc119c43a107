/** What changes by the second on the operator's page: figures, workers, conversations, the line, times of units. */

import { api } from "../lib/admin.js";
import { clock } from "../lib/clock.js";
import { formatCount, formatSpan } from "../lib/format.js";
import { UnitHistory, unitsByKind } from "../lib/unit-history.js";
import { ask } from "../ui/dialog.js";
import { h } from "../ui/h.js";
import { keyedList, put } from "../ui/keyed-list.js";
import { formatMs } from "../ui/stage-cards.js";
import { currentLang, setText } from "../ui/text.js";
import { toast } from "../ui/toast.js";
import { panel, rowList } from "./admin-parts.js";

/** @typedef {import("../lib/admin.js").Live} Live */
/** @typedef {import("../lib/admin.js").Worker} Worker */

const MINUTE_MS = 60000;
const SVG = "http://www.w3.org/2000/svg";

/** Each part has an element and says what it shows of the newest reading. @typedef {{element: HTMLElement, show: (live: Live, ageS: number) => void}} Part */

/** @param {UnitHistory} history @returns {Part} */
export function tiles(history) {
  const slots = tile("admin.slots"), line = tile("admin.waiting"), units = tile("admin.unit_time"), late = tile("admin.late"), served = tile("admin.served"), uptime = tile("admin.uptime");
  const bar = h("div", { class: "meter", attrs: { "aria-hidden": "true" } }, h("span"));
  slots.element.append(bar);
  const show = (/** @type {Live} */ { workers, items, tasks, maxQueue, metrics, serverMs }, /** @type {number} */ ageS) => {
    const lang = currentLang(), total = workers.reduce((sum, { state, num_slots }) => sum + (state === "ready" ? num_slots : 0), 0);
    slots.fill(`${formatCount(tasks.length, lang)} / ${formatCount(total, lang)}`, "admin.slots.note", { free: Math.max(0, total - tasks.length) });
    /** @type {HTMLElement} */ (bar.firstElementChild).style.width = `${total ? Math.min(100, (100 * tasks.length) / total) : 0}%`;
    const longest = Math.max(0, ...items.map(({ wait_elapsed_s }) => wait_elapsed_s));
    line.fill(formatCount(items.length, lang), items.length ? "admin.waiting.note" : "admin.waiting.none", { longest: formatSpan(longest, lang), max: maxQueue });
    line.element.classList.toggle("is-warm", items.length > 0);
    const minute = history.within(MINUTE_MS);
    units.fill(formatMs(minute.p95Ms), minute.count ? "admin.unit_time.note" : "admin.unit_time.none", { p50: formatMs(minute.p50Ms), count: minute.count });
    late.fill(formatCount(minute.late, lang), "admin.late.note", { total: metrics.sum("omni_late_units_total") });
    late.element.classList.toggle("is-bad", minute.late > 0);
    const ended = metrics.sum("omni_sessions_ended_total"), good = metrics.sum("omni_sessions_ended_total", { code: "closed" });
    served.fill(formatCount(workers.reduce((sum, { total_requests }) => sum + total_requests, 0), lang), "admin.served.note", { failed: ended - good });
    uptime.fill(formatSpan(serverMs / 1000 + ageS - metrics.sum("process_start_time_seconds"), lang), "admin.uptime.note", { broker: formatSpan(metrics.sum("omni_broker_uptime_seconds") + ageS, lang) });
  };
  return { element: h("div", { class: "tiles" }, ...[slots, line, units, late, served, uptime].map(({ element }) => element)), show };
}

/** @param {string} key */
function tile(key) {
  const value = h("p", { class: "tile-value" }, "–"), note = h("p", { class: "tile-note" });
  const element = h("section", { class: "tile" }, h("h2", { class: "tile-name", t: key }), value, note);
  /** @param {string} text @param {string} noteKey @param {import("../lib/i18n.js").Params} params */
  const fill = (text, noteKey, params) => (put(value, text), setText(note, noteKey, params));
  return { element, fill };
}

/** @returns {Part} */
export function workersPanel() {
  const { element, body, count } = panel("admin.workers");
  const list = h("ul", { class: "worker-cards" }), none = h("p", { class: "panel-empty", t: "admin.workers.none" });
  body.append(list, none);
  const draw = keyedList(list, { key: ({ worker_id }) => worker_id, make: workerCard, empty: none });
  return { element, show: ({ workers }) => (draw(workers), count(workers.length)) };
}

/** The word for a worker's state: what the broker thinks of it before what it does. @param {Worker} worker */
function workerWord({ state, status, busy_slots }) {
  if (state !== "ready") return state;
  return busy_slots > 0 ? (status === "duplex_paused" && busy_slots === 1 ? "paused" : "busy") : "idle";
}

/** @param {Worker} first */
function workerCard(first) {
  const word = h("span"), badge = h("span", { class: "badge" }, h("span", { class: "dot" }), word);
  const bar = h("span"), slots = h("span", { class: "worker-slots" });
  const cells = new Map(["gpu", "pid", "served", "mean", "restarts", "model"].map((name) => [name, h("dd")]));
  const element = h("li", { class: "worker-card" },
    h("div", { class: "worker-head" }, h("h3", {}, first.worker_id.replace("_", " ")), badge),
    h("div", { class: "worker-load" }, h("div", { class: "meter", attrs: { "aria-hidden": "true" } }, bar), slots),
    h("dl", { class: "facts" }, ...[...cells].map(([name, cell]) => h("div", {}, h("dt", { t: `admin.worker.${name}` }), cell))));
  const update = (/** @type {Worker} */ worker) => {
    const lang = currentLang(), state = workerWord(worker);
    badge.dataset.state = state;
    setText(word, `admin.state.${state}`);
    bar.style.width = `${worker.num_slots ? (100 * worker.busy_slots) / worker.num_slots : 0}%`;
    setText(slots, "admin.worker.slots", { busy: worker.busy_slots, total: worker.num_slots });
    const values = {
      gpu: worker.gpu || "CPU", pid: worker.pid ? String(worker.pid) : "–", served: formatCount(worker.total_requests, lang),
      mean: worker.total_requests ? formatSpan(worker.avg_inference_time_ms / 1000, lang) : "–", restarts: formatCount(worker.restarts, lang), model: worker.model ?? "–",
    };
    for (const [name, text] of Object.entries(values)) put(/** @type {HTMLElement} */ (cells.get(name)), text);
    cells.get("restarts")?.classList.toggle("is-warm", worker.restarts > 0);
  };
  return { element, update };
}

/** @param {() => void} refresh @returns {Part} */
export function talkingPanel(refresh) {
  const { element, body, count } = panel("admin.talking");
  const { list, none } = rowList("admin.talking.none");
  body.append(list, none);
  /** @type {number} */ let age = 0;
  const draw = keyedList(list, {
    key: ({ worker_id, session_id, started_at }) => `${worker_id} ${session_id} ${started_at}`,
    make: (/** @type {import("../lib/admin.js").Task & {started_at: string}} */ task) => {
      const elapsed = h("span", { class: "row-figure" }), left = h("span", { class: "row-note" });
      const end = h("button", { class: "button small", t: "admin.end", on: { click: () => void endSession(task.session_id, refresh) } });
      const row = h("li", { class: "row" },
        h("div", { class: "row-main" }, h("strong", { t: `admin.kind.${task.request_type}` }), h("code", {}, task.session_id), h("span", { class: "row-note" }, task.worker_id.replace("_", " "))),
        h("div", { class: "row-side" }, elapsed, left), h("div", { class: "row-buttons" }, end));
      return {
        element: row,
        update: ({ elapsed_s, estimated_remaining_s }) => {
          put(elapsed, clock((elapsed_s + age) * 1000));
          const rest = estimated_remaining_s - age;
          setText(left, rest > 0 ? "admin.left" : "admin.over", { time: clock(Math.max(0, rest) * 1000) });
        },
      };
    },
    empty: none,
  });
  const show = (/** @type {Live} */ { tasks }, /** @type {number} */ ageS) => {
    age = ageS;
    draw(/** @type {any} */ (tasks));
    count(tasks.length);
  };
  return { element, show };
}

/** @param {string} id @param {() => void} refresh */
async function endSession(id, refresh) {
  const answer = await ask({
    icon: "alert", title: "admin.end.title", text: ["admin.end.text", { id }],
    buttons: [{ value: "", label: "action.cancel" }, { value: "end", label: "admin.end", isPrimary: true }],
  });
  if (answer !== "end") return;
  const { value } = await api.endSession(id);
  toast(value?.success ? "admin.end.done" : "admin.end.failed", { kind: value?.success ? "good" : "bad" });
  refresh();
}

/** @param {() => void} refresh @returns {Part} */
export function linePanel(refresh) {
  const { element, body, count } = panel("admin.line");
  const { list, none } = rowList("admin.line.none");
  body.append(list, none);
  /** @type {number} */ let age = 0;
  const cancel = async (/** @type {string} */ id) => {
    const { value } = await api.cancelTicket(id);
    toast(value?.success ? "admin.cancel.done" : "admin.cancel.gone", { kind: value?.success ? "good" : "info" });
    refresh();
  };
  const draw = keyedList(list, {
    key: ({ ticket_id }) => ticket_id,
    make: (/** @type {import("../lib/admin.js").Ticket} */ ticket) => {
      const place = h("span", { class: "row-place" }), waited = h("span", { class: "row-figure" }), left = h("span", { class: "row-note" });
      const row = h("li", { class: "row" },
        h("div", { class: "row-main" }, place, h("strong", { t: `admin.kind.${ticket.request_type}` }), h("code", {}, ticket.session_id || ticket.ticket_id)),
        h("div", { class: "row-side" }, waited, left),
        h("div", { class: "row-buttons" }, h("button", { class: "button small", t: "action.cancel", on: { click: () => void cancel(ticket.ticket_id) } })));
      return {
        element: row,
        update: ({ position, estimated_wait_s, wait_elapsed_s }) => {
          put(place, String(position));
          put(waited, clock((wait_elapsed_s + age) * 1000));
          setText(left, "admin.wait_left", { time: clock(Math.max(0, estimated_wait_s - age) * 1000) });
        },
      };
    },
    empty: none,
  });
  const show = (/** @type {Live} */ { items }, /** @type {number} */ ageS) => {
    age = ageS;
    draw(items);
    count(items.length);
  };
  return { element, show };
}

/** @param {UnitHistory} history @returns {Part} */
export function unitsPanel(history) {
  const { element, body } = panel("admin.units");
  const { list, none } = rowList("admin.units.none");
  const chart = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({ class: "unit-chart", viewBox: "0 0 150 100", preserveAspectRatio: "none", role: "img" })) chart.setAttribute(name, value);
  const caption = h("p", { class: "panel-note" });
  const note = h("p", { class: "panel-note", t: "admin.units.note" });
  body.append(chart, caption, note, list, none);
  const draw = keyedList(list, {
    key: ({ kind }) => kind,
    make: ({ kind }) => {
      const p95 = h("span", { class: "row-figure" }), note = h("span", { class: "row-note" });
      return {
        element: h("li", { class: "row" }, h("div", { class: "row-main" }, h("strong", { t: `admin.kind.${kind}` }), note), h("div", { class: "row-side" }, p95)),
        update: (unit) => {
          setText(p95, "admin.units.p95", { p95: formatMs(unit.p95Ms), p50: formatMs(unit.p50Ms) });
          setText(note, "admin.units.kind", { count: unit.count, late: unit.late });
        },
      };
    },
    empty: none,
  });
  const show = (/** @type {Live} */ { metrics }) => {
    const steps = history.steps();
    const top = Math.max(100, ...steps.map(({ p95Ms }) => p95Ms ?? 0));
    drawBars(chart, steps, top);
    setText(caption, "admin.units.caption", { top: formatMs(top) });
    chart.setAttribute("aria-label", caption.textContent ?? "");
    const kinds = unitsByKind(metrics);
    note.hidden = !kinds.length;
    draw(kinds);
  };
  return { element, show };
}

/** A bar for each step, the newest at the right; late ones in the colour of trouble. @param {SVGElement} chart @param {import("../lib/unit-history.js").UnitFigures[]} steps @param {number} top ms */
function drawBars(chart, steps, top) {
  while (chart.children.length > steps.length) chart.lastElementChild?.remove();
  while (chart.children.length < steps.length) chart.append(document.createElementNS(SVG, "rect"));
  steps.forEach(({ p95Ms, late }, index) => {
    const height = p95Ms === null ? 0 : Math.max(2, (100 * p95Ms) / top);
    const attributes = { x: 150 - steps.length + index + 0.15, width: 0.7, y: 100 - height, height, class: late ? "bar-late" : "bar-unit" };
    for (const [name, value] of Object.entries(attributes)) chart.children[index].setAttribute(name, String(value));
  });
}
