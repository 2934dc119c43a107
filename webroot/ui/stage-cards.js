/** What the stage shows instead of the live view: what went wrong, or how it went. */

import { clock } from "../lib/clock.js";
import { h } from "./h.js";
import { hasText } from "./text.js";
import { toast } from "./toast.js";

/**
 * @param {import("../lib/errors.js").SessionError} error
 * @param {() => void} onRetry
 */
export function errorCard(error, onRetry) {
  const key = hasText(`error.${error.code}.title`) ? error.code : "unknown";
  const details = `${error.code}${error.detail ? `: ${error.detail}` : ""}\n${new Date().toISOString()} ${location.pathname}\n${navigator.userAgent}`;
  return h("section", { class: "stage-card error-card", attrs: { role: "alert" } },
    h("div", { class: "card-icon bad", icon: "alert" }),
    h("h2", { t: `error.${key}.title` }),
    h("p", { t: `error.${key}.hint` }),
    h("div", { class: "card-buttons" },
      error.retryable && h("button", { class: "button primary", icon: "refresh", t: "action.retry", on: { click: onRetry } }),
      h("button", { class: "button", icon: "copy", t: "action.copy_details", on: { click: () => copyText(details) } }),
    ),
    h("details", {}, h("summary", { t: "error.details" }), h("pre", {}, details)),
  );
}

/**
 * @param {object} facts
 * @param {string} facts.endReason
 * @param {ReturnType<import("../lib/metrics.js").SessionMetrics["summary"]>} facts.summary
 * @param {number} facts.gaps
 * @param {string|null} facts.recordingId where it can be seen again; null when it was not recorded
 * @param {() => void} facts.onAgain
 * @param {() => void} facts.onCopy
 * @param {() => void} facts.onSave
 */
export function summaryCard({ endReason, summary, gaps, recordingId, onAgain, onCopy, onSave }) {
  /** @type {[string, string][]} */
  const numbers = [
    ["summary.duration", clock(summary.durationS * 1000)],
    ["summary.turns", String(summary.turns)],
    ["summary.reply", formatMs(summary.replyP50Ms)],
    ["summary.unit", formatMs(summary.unitP50Ms)],
    ["summary.interrupts", String(summary.interrupts)],
    ["summary.gaps", String(gaps)],
  ];
  return h("section", { class: "stage-card summary-card" },
    h("h2", { t: endReason === "stopped" ? "summary.title" : `summary.${endReason}` }),
    h("dl", { class: "summary-grid" }, ...numbers.map(([key, value]) => h("div", {}, h("dt", { t: key }), h("dd", {}, value)))),
    h("div", { class: "card-buttons" },
      h("button", { class: "button primary", icon: "mic", t: "action.again", on: { click: onAgain } }),
      h("button", { class: "button", icon: "copy", t: "action.copy_transcript", on: { click: onCopy } }),
      h("button", { class: "button", icon: "download", t: "action.save_transcript", on: { click: onSave } }),
      recordingId && h("a", { class: "button", icon: "play", t: "action.replay", attrs: { href: `/s/${encodeURIComponent(recordingId)}`, target: "_blank", rel: "noopener" } }),
    ),
  );
}

/** @param {number|null|undefined} ms */
export function formatMs(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

/** @param {string} text */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("toast.copied", { kind: "good" });
  } catch {
    toast("toast.copy_failed", { kind: "bad" });
  }
}

/** Names of ms and counts for the metrics list, ready to show. @param {any} summary @param {any} player */
export function liveNumbers(summary, player) {
  return {
    reply: formatMs(summary.replyLastMs),
    reply_p50: formatMs(summary.replyP50Ms),
    unit: formatMs(summary.unitP50Ms),
    unit_p95: formatMs(summary.unitP95Ms),
    server: formatMs(summary.serverMs),
    ahead: formatMs(player.aheadMs),
    delay: formatMs(player.delayMs),
    gaps: player.gaps ? `${player.gaps} · ${formatMs(player.gapMs)}` : "0",
    drift: formatMs(summary.driftMs),
    chunks: `${summary.sent} / ${summary.results}`,
    skipped: String(summary.skipped),
    kv: summary.kvTokens ? String(summary.kvTokens) : "–",
    frames: `${summary.frames} / ${summary.framesSkipped}`,
    frame: summary.frameBytes ? `${Math.round(summary.frameBytes / 1000)} kB` : "–",
    vision: summary.visionSlices ? `${summary.visionSlices} · ${summary.visionTokens}` : "–",
    unknown: String(summary.unknown),
  };
}

