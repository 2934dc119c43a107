/** What was said in a recorded session: sayings on the replay's clock, or turns with their media. */

import { clock } from "../lib/clock.js";
import { replayMs, sayings } from "../lib/recording.js";
import { h } from "./h.js";

/** @typedef {import("../lib/recording.js").Recording} Recording */
/** @typedef {import("../lib/recording.js").RecordedSession} RecordedSession */

/**
 * The words of a full-duplex session; a click goes there.
 * @param {Recording} recording @param {import("./replay.js").Replay|null} replay
 */
export function sayingList(recording, replay) {
  const said = sayings(recording);
  const items = said.map(({ who, atMs, text }) =>
    h("li", { class: `saying saying-${who}` },
      h("button", { class: "saying-time", label: "viewer.jump", on: { click: () => replay?.seek(atMs) }, attrs: { disabled: !replay } }, clock(atMs)),
      h("div", {}, h("p", { class: "eyebrow", t: `viewer.${who}` }), h("p", {}, text.trim()))));
  replay?.onMove((ms) => markCurrent(items, said.findLastIndex(({ atMs }) => atMs <= ms + 50)));
  return items.length ? h("ol", { class: "sayings" }, ...items) : h("p", { class: "quiet", t: "viewer.no_words" });
}

/** @param {HTMLElement[]} items @param {number} current */
function markCurrent(items, current) {
  items.forEach((item, index) => item.classList.toggle("is-current", index === current));
}

/**
 * The pictures of a session; the browser loads those that come into view.
 * @param {Recording} recording @param {RecordedSession} session @param {import("./replay.js").Replay|null} replay
 */
export function pictureStrip(recording, session, replay) {
  const pictures = (recording.chunks ?? []).filter(({ user_frame }) => user_frame).map((chunk) =>
    h("button", { class: "picture", label: "viewer.jump", on: { click: () => replay?.seek(replayMs(chunk)) } },
      h("img", { attrs: { loading: "lazy", decoding: "async", alt: "", src: session.asset(/** @type {string} */ (chunk.user_frame)) } }),
      h("span", {}, clock(replayMs(chunk)))));
  return pictures.length ? h("div", { class: "pictures", attrs: { tabindex: "0" } }, ...pictures) : null;
}

/** Chat and half duplex. @param {Recording} recording @param {RecordedSession} session */
export function turnList(recording, session) {
  const turns = recording.turns ?? [];
  if (!turns.length) return h("p", { class: "quiet", t: "viewer.no_words" });
  return h("ol", { class: "sayings" }, ...turns.flatMap((turn) => [asked(turn, session), answered(turn, session)]));
}

/** @param {import("../lib/recording.js").Turn} turn @param {RecordedSession} session */
function asked({ input, request_ts_ms }, session) {
  return h("li", { class: "saying saying-user" },
    h("span", { class: "saying-time" }, clock(request_ts_ms)),
    h("div", {},
      h("p", { class: "eyebrow", t: "viewer.user" }),
      input.text && h("p", {}, input.text),
      input.duration_ms > 0 && h("p", { class: "quiet", t: ["viewer.spoke", { seconds: input.duration_ms / 1000 }] }),
      input.audio && sound(session, input.audio),
      ...(input.images ?? []).map((/** @type {string} */ name) => h("img", { class: "turn-picture", attrs: { loading: "lazy", alt: "", src: session.asset(name) } })),
      ...(input.videos ?? []).map((/** @type {string} */ name) => h("video", { class: "turn-picture", attrs: { controls: true, preload: "metadata", src: session.asset(name) } }))));
}

/** @param {import("../lib/recording.js").Turn} turn @param {RecordedSession} session */
function answered({ output, timing, request_ts_ms }, session) {
  return h("li", { class: "saying saying-ai" },
    h("span", { class: "saying-time" }, clock(request_ts_ms + timing.elapsed_ms)),
    h("div", {},
      h("p", { class: "eyebrow", t: "viewer.ai" }),
      output.text && h("p", { class: "answer-text" }, output.text),
      output.error && h("p", { class: "quiet" }, output.error),
      output.interrupted && h("p", { class: "quiet", t: "viewer.cut" }),
      output.audio && sound(session, output.audio),
      h("p", { class: "quiet", t: ["viewer.took", { seconds: timing.elapsed_ms / 1000 }] })));
}

/** @param {RecordedSession} session @param {string} name */
function sound(session, name) {
  return h("audio", { attrs: { controls: true, preload: "none", src: session.asset(name) } });
}
