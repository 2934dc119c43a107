/** The live conversation page, shared by full and half duplex: wires one session after another to the stage. */

import { getDefaults, isServerUp } from "../lib/api.js";
import { Capture } from "../lib/audio/capture.js";
import { playChime } from "../lib/audio/chimes.js";
import { Player } from "../lib/audio/player.js";
import { JsonSocket } from "../lib/ws.js";
import { ask } from "../ui/dialog.js";
import { devicePicker } from "../ui/controls.js";
import { h, iconButton } from "../ui/h.js";
import { Inspector, keyList, numberList } from "../ui/inspector.js";
import { showNotice } from "../ui/notice.js";
import { Orb } from "../ui/orb.js";
import { QueueCard } from "../ui/queue-card.js";
import { SessionBar } from "../ui/session-bar.js";
import { settings, startShell } from "../ui/shell.js";
import { copyText, errorCard, liveNumbers, summaryCard } from "../ui/stage-cards.js";
import { hasText, setText } from "../ui/text.js";
import { toast } from "../ui/toast.js";
import { Transcript, clock, downloadText } from "../ui/transcript.js";
import { Waveform } from "../ui/waveform.js";
import { listenToKeys } from "./live-keys.js";

/** A spinner before this would only flicker, ms. */
const SPINNER_AFTER_MS = 300;
/** Limits of the server are announced when this much of them has passed. */
const ANNOUNCE_AT = 0.8;

/** @typedef {import("../lib/session.js").LiveSession & {phase: string, interrupt(): void, pause?(): void, resume?(): void, forceListen?(on: boolean): void, chunkMs?: number}} AnySession */

/**
 * @typedef {object} LiveMode what differs between the two live pages
 * @property {string} name of the texts: `audio` or `half`
 * @property {() => Promise<new (parts: any) => AnySession>} loadSession the class; loaded when first needed
 * @property {boolean} canPause
 * @property {() => object} options of a session, from the settings
 * @property {() => HTMLElement[]} controls of the settings tab, below the devices
 * @property {[string, string][]} keys
 */

/** Orb and words for each state. @type {Record<string, import("../ui/orb.js").Mood>} */
const MOODS = {
  permission: "waiting", connecting: "waiting", queued: "waiting", preparing: "waiting", generating: "waiting",
  listening: "listening", user: "listening", speaking: "speaking", paused: "paused", failed: "failed",
};

class LivePage {
  /** @type {AnySession|null} */ session = null;
  player = new Player();
  capture = new Capture();
  orb = new Orb();
  waveform = new Waveform();
  #mode;
  /** @type {import("../lib/protocol.js").FrontendDefaults} */ #defaults = { playback_delay_ms: 200 };
  #transcript = new Transcript(["transcript.example1", "transcript.example2", "transcript.example3"]);
  #queue = new QueueCard(() => this.session?.cancel());
  #numbers = numberList(["reply", "reply_p50", "unit", "unit_p95", "server", "ahead", "delay", "gaps", "drift", "chunks", "skipped", "kv", "unknown"]);
  #mic = devicePicker("micId", "audioinput");
  #speaker = devicePicker("speakerId", "audiooutput");
  #pill = h("span", { class: "state-word" });
  #pillBox = h("div", { class: "state-pill", attrs: { role: "status" } }, h("span", { class: "dot" }), this.#pill);
  #timer = h("span", { class: "timer", label: "stage.timer" }, "0:00");
  #headline = h("h1", { class: "headline" });
  #hint = h("p", { class: "stage-hint" });
  #notice = h("p", { class: "engine-notice", icon: "info" }, h("span"));
  #card = h("div", { class: "stage-card-slot" });
  #stage = h("section", { class: "stage", label: "stage.title", attrs: { tabindex: "-1" } });
  #bar; #inspector;
  /** @type {any} */ #wakeLock = null;
  /** @type {{fromMs: number, limitMs: number, key: string, isTold: boolean}|null} */ #limit = null;

  /** @param {LiveMode} mode */
  constructor(mode) {
    this.#mode = mode;
    this.#inspector = new Inspector([
      { id: "settings", label: "inspector.settings", content: this.#settingsTab() },
      { id: "metrics", label: "inspector.metrics", content: this.#numbers.element },
      { id: "keys", label: "inspector.keys", content: keyList(mode.keys) },
    ]);
    this.#bar = new SessionBar({
      start: () => void this.start(),
      stop: () => this.session?.stop(),
      mute: () => this.mute(),
      interrupt: () => this.session?.interrupt(),
      pause: mode.canPause ? () => this.togglePause() : null,
      inspect: () => this.#inspector.toggle(),
    }, `${mode.name}.start`);
    this.#inspector.onToggle = (isOpen) => {
      this.#bar.showInspector(isOpen);
      document.body.classList.toggle("has-inspector", isOpen);
    };
  }

  mount() {
    this.#stage.append(
      h("div", { class: "stage-top" }, this.#pillBox, this.#timer),
      h("div", { class: "stage-center" }, this.orb.element, h("div", { class: "stage-words" }, this.#headline, this.#hint, this.#notice), this.#card),
      h("div", { class: "lanes" }, h("span", { class: "lane-name lane-you", t: "transcript.user" }), h("span", { class: "lane-name lane-ai", t: "transcript.ai" }), this.waveform.element),
    );
    const talk = h("section", { class: "talk", label: "transcript.title" },
      h("div", { class: "talk-head" }, h("h2", { t: "transcript.title" }),
        h("div", { class: "talk-tools" },
          iconButton("copy", "action.copy_transcript", () => void copyText(this.#transcript.asText()), "small"),
          iconButton("download", "action.save_transcript", () => this.#save(), "small"))),
      this.#transcript.element);
    const main = /** @type {HTMLElement} */ (document.getElementById("main"));
    main.append(this.#stage, talk, this.#inspector.element, this.#bar.element);
    this.#show("idle");
    this.#follow();
  }

  async start() {
    if (this.session && !this.session.isOver) return;
    if (!(await this.#explainMicrophone())) return;
    const Session = await this.#mode.loadSession();
    const session = new Session({
      makeSocket: (/** @type {string} */ url, /** @type {any} */ handlers) => new JsonSocket(url, handlers),
      capture: this.capture, player: this.player, now: () => performance.timeOrigin + performance.now(), isServerUp,
    });
    this.session = session;
    this.capture.isMuted = false;
    this.#limit = null;
    this.#transcript.clear();
    this.waveform.clear();
    this.#listen(session);
    const { micId, speakerId, volume, echoCancellation, playbackDelayMs } = settings.value;
    const delayMs = playbackDelayMs < 0 ? this.#defaults.playback_delay_ms : playbackDelayMs;
    await session.start({ micId, speakerId, volume, echoCancellation, delayMs, ...this.#mode.options() });
  }

  mute() {
    if (!this.session?.isLive) return;
    this.capture.isMuted = !this.capture.isMuted;
    this.#show(this.session.state);
  }

  togglePause() {
    if (this.session?.state === "live") this.session.pause?.();
    else this.session?.resume?.();
  }

  showKeys() {
    this.#inspector.select(2);
    if (!this.#inspector.isOpen) this.#inspector.open();
  }

  /** Numbers for the console and for tests. */
  metrics() {
    return { state: this.session?.state ?? "idle", ...this.session?.metrics.summary(), player: this.player.metrics() };
  }

  /** @param {AnySession} session */
  #listen(session) {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ run) =>
      session.addEventListener(type, (event) => this.session === session && run(/** @type {CustomEvent} */ (event).detail));
    on("state", ({ state, before }) => this.#onState(session, state, before));
    on("queue", (message) => this.#queue.update(message));
    on("phase", () => this.#show(session.state));
    on("caption", (caption) => this.#transcript.aiSays(caption));
    on("user", ({ text }) => this.#transcript.userSaid(text));
    on("user_turn", ({ durationMs }) => this.#transcript.userSpoke(durationMs));
    on("level", (level) => this.#onLevel("you", level.peak));
    on("speech_level", (peak) => this.#onLevel("ai", peak));
    on("marker", ({ kind }) => this.waveform.mark(kind));
    on("pause_limit", ({ timeoutS }) => this.#setLimit(timeoutS, "toast.pause_limit"));
    on("time_limit", ({ timeoutS }) => this.#setLimit(timeoutS, "toast.time_limit"));
    on("warning", ({ code }) => this.#onWarning(code));
  }

  /** @param {AnySession} session @param {string} state @param {string} before */
  #onState(session, state, before) {
    if (before === "queued") this.#queue.stop();
    if (before === "permission") void this.#mic.refresh().then(() => this.#speaker.refresh());
    if (before === "queued" && state === "preparing" && settings.value.chimes) playChime("turn");
    if (state === "live" && before === "preparing") this.#onLive();
    if (before === "paused") this.#limit = null;
    if (session.isOver) this.#onOver();
    this.#show(/** @type {any} */ (state));
  }

  #onLive() {
    if (settings.value.chimes) playChime("live");
    this.waveform.isRunning = true;
    this.#stage.focus({ preventScroll: true });
    navigator.wakeLock?.request("screen").then((lock) => (this.#wakeLock = lock), () => undefined);
  }

  #onOver() {
    this.waveform.isRunning = false;
    this.orb.setLevel(0);
    void this.#wakeLock?.release();
    this.#wakeLock = null;
    setText(/** @type {Element} */ (document.querySelector("title")), `${this.#mode.name}.title`);
  }

  /** @param {string} code */
  #onWarning(code) {
    if (code === "mic_lost") {
      toast("warning.mic_lost", { kind: "bad", action: { label: "action.use_default", run: () => settings.set({ micId: "" }) } });
      void this.#reopenMicrophone("");
    } else if (["slow_uplink", "stalled", "server", "bad_message"].includes(code)) toast(`warning.${code}`, { kind: "bad" });
  }

  /** @param {import("../lib/session.js").State} state */
  #show(state) {
    const session = this.session;
    const phase = state === "live" && session ? session.phase : state;
    const shown = this.capture.isMuted && (phase === "listening" || phase === "user") ? "muted" : phase;
    document.body.dataset.state = state;
    this.#stage.dataset.phase = phase;
    this.orb.setMood(MOODS[phase] ?? "idle");
    setText(this.#pill, `state.${shown}`);
    setText(this.#headline, state === "idle" ? `${this.#mode.name}.headline` : `stage.${shown}`);
    const ownHint = `${this.#mode.name}.${shown}.hint`;
    setText(this.#hint, hasText(ownHint) ? ownHint : `stage.${shown}.hint`);
    this.#bar.show(state, this.capture.isMuted);
    this.#bar.showSpeaking(phase === "speaking");
    this.#showCard(state);
    if (state === "connecting" || state === "preparing") this.#spinLater(state);
    else this.#stage.classList.remove("is-spinning");
  }

  /** @param {string} state */
  #spinLater(state) {
    setTimeout(() => this.#stage.classList.toggle("is-spinning", this.session?.state === state), SPINNER_AFTER_MS);
  }

  /** @param {string} state */
  #showCard(state) {
    const card = this.#cardOf(state);
    this.#stage.classList.toggle("has-card", card !== null);
    if (card !== this.#card.firstElementChild) this.#card.replaceChildren(...(card ? [card] : []));
  }

  /** @param {string} state @returns {HTMLElement|null} */
  #cardOf(state) {
    const session = this.session;
    if (state === "queued") return this.#queue.element;
    if (state === "failed" && session?.error) return errorCard(session.error, () => void this.start());
    if (state !== "ended" || !session?.endReason || session.endReason === "cancelled") return null;
    return summaryCard({
      endReason: session.endReason, summary: session.metrics.summary(), gaps: this.#gaps, recordingId: session.recordingId,
      onAgain: () => void this.start(),
      onCopy: () => void copyText(this.#transcript.asText()),
      onSave: () => this.#save(),
    });
  }

  #gaps = 0;

  /** @param {"you"|"ai"} lane @param {number} peak */
  #onLevel(lane, peak) {
    this.waveform.add(lane, peak);
    const isSpeaking = this.session?.phase === "speaking";
    if ((lane === "ai") === isSpeaking) this.orb.setLevel(peak * 0.9);
  }

  /** @param {number} timeoutS @param {string} key */
  #setLimit(timeoutS, key) {
    this.#limit = { fromMs: performance.now(), limitMs: timeoutS * 1000, key, isTold: false };
  }

  /** Timer and numbers, a few times a second. */
  #follow() {
    setInterval(() => {
      const session = this.session;
      if (!session?.isLive) return;
      const player = this.player.metrics();
      this.#gaps = player.gaps;
      this.#timer.textContent = clock(session.metrics.durationS * 1000);
      this.#numbers.fill(liveNumbers(session.metrics.summary(), player));
      this.#tellLimit();
    }, 250);
  }

  #tellLimit() {
    const limit = this.#limit;
    if (!limit) return;
    const leftMs = limit.limitMs - (performance.now() - limit.fromMs);
    if (this.session?.state === "paused") setText(this.#hint, "stage.paused.left", { s: Math.max(0, Math.ceil(leftMs / 1000)) });
    if (limit.isTold || leftMs > limit.limitMs * (1 - ANNOUNCE_AT)) return;
    limit.isTold = true;
    toast(limit.key, { params: { s: Math.max(0, Math.ceil(leftMs / 1000)) } });
  }

  /** Say why before the browser asks; once is enough. */
  async #explainMicrophone() {
    if (settings.value.micExplained) return true;
    const answer = await ask({
      icon: "mic", title: "permission.title", text: "permission.text",
      buttons: [{ value: "", label: "action.not_now" }, { value: "go", label: "permission.go", isPrimary: true }],
    });
    if (answer === "go") settings.set({ micExplained: true });
    return answer === "go";
  }

  #settingsTab() {
    settings.subscribe((values, before) => {
      if (values.volume !== before.volume) this.player.setVolume(values.volume);
      if (values.speakerId !== before.speakerId) void this.player.setSpeaker(values.speakerId);
      if (values.micId !== before.micId) void this.#reopenMicrophone(values.micId);
    });
    const speaker = Player.canChooseSpeaker ? this.#speaker.element : null;
    return h("div", { class: "fields" }, this.#mic.element, speaker, ...this.#mode.controls());
  }

  /** @param {string} micId */
  async #reopenMicrophone(micId) {
    const session = this.session;
    if (!session?.isLive) return;
    try {
      await this.capture.open({ micId, echoCancellation: settings.value.echoCancellation });
      this.capture.start(session.chunkMs ?? 500);
    } catch {
      toast("warning.mic_lost", { kind: "bad" });
    }
  }

  #save() {
    downloadText(`omni-${new Date().toISOString().slice(0, 16).replace(/[:T]/g, "-")}.txt`, this.#transcript.asText());
  }

  async loadDefaults() {
    this.#defaults = await getDefaults();
    this.#transcript.expectsTexts = this.#defaults.transcribes ?? false;
    showNotice(/** @type {HTMLElement} */ (this.#notice.lastElementChild), this.#defaults);
  }
}

/** @param {LiveMode} mode */
export async function startLivePage(mode) {
  await startShell(`${mode.name}.title`);
  const page = new LivePage(mode);
  page.mount();
  listenToKeys(page);
  addEventListener("beforeunload", (event) => {
    if (page.session?.isLive) event.preventDefault();
  });
  addEventListener("pagehide", () => page.session?.stop());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && page.session?.isLive) toast("toast.hidden");
  });
  /** For the console and for browser tests: what the page knows about itself. */
  /** @type {any} */ (globalThis).omni = { metrics: () => page.metrics(), page };
  await page.loadDefaults();
}
