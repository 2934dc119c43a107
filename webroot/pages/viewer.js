/** A recorded session, for whoever has its link: replay, words, pictures, times, comment, download. */

import { RecordedSession, UNIT_MS, latency } from "../lib/recording.js";
import { h } from "../ui/h.js";
import { Replay } from "../ui/replay.js";
import { pictureStrip, sayingList, turnList } from "../ui/replay-turns.js";
import { startShell } from "../ui/shell.js";
import { currentLang, onLangChange, setText } from "../ui/text.js";
import { toast } from "../ui/toast.js";

/** @typedef {import("../lib/recording.js").Meta} Meta */
/** @typedef {import("../lib/recording.js").Recording} Recording */

const MAX_COMMENT_CHARS = 2000;
/** What the server calls a session of itself; it has one word for all languages. */
const OWN_TITLE = /^对话 (?=\d)/;
const session = new RecordedSession(decodeURIComponent(location.pathname.split("/")[2] ?? ""));

/** @param {Meta} meta */
function heading(meta) {
  const when = h("span", {});
  const show = () => (when.textContent = new Date(meta.created_at).toLocaleString(currentLang()));
  onLangChange(show);
  show();
  const length = h("span", { id: "length" });
  showLength(length, meta);
  return h("header", { class: "viewer-head" },
    h("div", {},
      title(meta),
      h("p", { class: "viewer-facts" }, h("span", { class: "tag", t: `viewer.kind.${meta.app_type}` }), when, length, h("code", {}, meta.session_id))),
    h("div", { class: "viewer-buttons" },
      h("button", { class: "button", icon: "copy", t: "viewer.copy_link", on: { click: copyLink } }),
      h("a", { class: "button primary", icon: "download", t: "viewer.download", attrs: { href: session.downloadPath, download: `${session.id}.zip` } })));
}

/** @param {Meta} meta */
function title(meta) {
  const when = (meta.title ?? "").replace(OWN_TITLE, "");
  if (!when || when === meta.title) return h("h1", {}, meta.title || meta.session_id);
  return h("h1", { t: ["viewer.conversation", { when }] });
}

/** @param {HTMLElement} element @param {Meta} meta */
function showLength(element, meta) {
  if (meta.duration_s === null) setText(element, "viewer.running");
  else setText(element, "viewer.length", { seconds: meta.duration_s });
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast("viewer.copied", { kind: "good" });
  } catch {
    toast("viewer.copy_failed", { kind: "bad" });
  }
}

/** @param {Meta} meta */
function configDetails({ config, worker_id }) {
  /** @type {[string, any][]} */
  const rows = Object.entries({ ...config, worker_id });
  const told = rows.filter(([, value]) => value !== null && value !== "");
  return h("details", { class: "viewer-config" },
    h("summary", { t: "viewer.settings" }),
    h("dl", {}, ...told.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, typeof value === "object" ? JSON.stringify(value) : String(value))])));
}

/** @param {Recording|null} recording */
function content(recording) {
  if (!recording) return [h("p", { class: "viewer-wait", icon: "refresh", t: "viewer.wait", attrs: { role: "status" } })];
  if (recording.turns) return [section("viewer.said", turnList(recording, session)), ...warnings(recording)];
  const replay = makeReplay(recording);
  return [
    ...warnings(recording),
    replay ? section("viewer.replay", replay.element) : null,
    section("viewer.said", sayingList(recording, replay)),
    section("viewer.pictures", pictureStrip(recording, session, replay)),
    section("viewer.latency", latencyChart(recording)),
  ];
}

/** @param {Recording} recording */
function warnings(recording) {
  return [
    recording.complete === false && h("p", { class: "viewer-warning", icon: "alert", t: "viewer.incomplete" }),
    recording.dropped_records && h("p", { class: "viewer-warning", icon: "alert", t: ["viewer.dropped", { count: recording.dropped_records }] }),
  ];
}

/** @param {string} title @param {HTMLElement|null} body */
function section(title, body) {
  return body && h("section", { class: "viewer-section" }, h("h2", { t: title }), body);
}

/** @param {Recording} recording */
function makeReplay({ merged_replay, merged_replay_video, merged_captions, merged_peaks }) {
  if (!merged_replay) return null;
  const replay = new Replay({
    video: merged_replay_video ? session.asset(merged_replay_video) : null,
    sound: session.asset(merged_replay),
    captions: merged_captions ? session.asset(merged_captions) : null,
  });
  if (merged_peaks) void session.peaks(merged_peaks).then((peaks) => peaks && replay.showPeaks(peaks));
  return replay;
}

/** A bar for each unit, and the line that none should pass. @param {Recording} recording */
function latencyChart(recording) {
  const told = latency(recording);
  if (!told) return null;
  const { count, p50, p95, max, values } = told;
  const top = Math.max(UNIT_MS * 1.1, Math.min(max, UNIT_MS * 4));
  const svg = (/** @type {string} */ name, /** @type {Record<string, string|number>} */ attrs) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attrs).forEach(([key, value]) => element.setAttribute(key, String(value)));
    return element;
  };
  const chart = svg("svg", { class: "latency-chart", viewBox: `0 0 ${values.length} 100`, preserveAspectRatio: "none", "aria-hidden": "true" });
  values.forEach(({ ms, speaks }, x) => {
    const height = Math.max(0.5, Math.min(100, (ms / top) * 100));
    chart.append(svg("rect", { class: speaks ? "bar-speak" : "bar-listen", x: x + 0.1, y: 100 - height, width: 0.8, height }));
  });
  const budget = 100 - (UNIT_MS / top) * 100;
  chart.append(svg("line", { class: "budget", x1: 0, x2: values.length, y1: budget, y2: budget, "vector-effect": "non-scaling-stroke" }));
  const figures = { count, p50: Math.round(p50), p95: Math.round(p95), max: Math.round(max) };
  const box = h("div", {}, h("p", { class: "quiet", t: ["viewer.latency_figures", figures] }));
  box.append(chart);
  return box;
}

async function uploads() {
  const names = await session.uploads();
  if (!names.length) return null;
  return section("viewer.uploaded", h("div", { class: "uploads" }, ...names.map((name) =>
    h(name.endsWith(".wav") ? "audio" : "video", { class: "replay-film", attrs: { controls: true, preload: "metadata", playsinline: true, src: session.asset(name) } }))));
}

/** @param {string} text */
function commentBox(text) {
  const field = h("textarea", { id: "comment", attrs: { rows: "3", maxlength: MAX_COMMENT_CHARS, "aria-labelledby": "comment-title" } });
  field.value = text;
  const save = async () => {
    const isSaved = await session.saveComment(field.value);
    toast(isSaved ? "viewer.comment_saved" : "viewer.comment_failed", { kind: isSaved ? "good" : "bad" });
  };
  return h("section", { class: "viewer-section" },
    h("h2", { id: "comment-title", t: "viewer.comment" }),
    field,
    h("button", { class: "button", t: "viewer.comment_save", on: { click: () => void save() } }));
}

async function main() {
  await startShell("viewer.title");
  const root = /** @type {HTMLElement} */ (document.getElementById("main"));
  const [meta, comment] = await Promise.all([session.meta(), session.comment()]);
  if (!meta) return root.append(h("p", { class: "viewer-wait", icon: "alert", t: "viewer.absent" }));
  const body = h("div", { class: "viewer-body" });
  const more = h("div", { class: "viewer-body" });
  root.append(heading(meta), body, more, commentBox(comment), configDetails(meta), h("p", { class: "quiet", t: "viewer.privacy" }));
  void uploads().then((box) => box && more.append(box));
  await session.follow((recording) => {
    body.replaceChildren(...content(recording).filter((part) => part instanceof Node));
    if (recording && meta.duration_s === null) {
      void session.meta().then((now) => now && showLength(/** @type {HTMLElement} */ (document.getElementById("length")), now));
    }
  });
}

void main();
