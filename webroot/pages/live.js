/** The live conversation page, shared by all live modes: wires one session after another to the stage. */

import { getDefaults } from "../lib/api.js";
import { playChime } from "../lib/audio/chimes.js";
import { SessionError } from "../lib/errors.js";
import { clock } from "../lib/clock.js";
import { Awake } from "../ui/awake.js";
import { ask } from "../ui/dialog.js";
import { canChooseSpeaker, devicePicker } from "../ui/controls.js";
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
import { Transcript, downloadText } from "../ui/transcript.js";
import { Waveform } from "../ui/waveform.js";
import { listenToKeys } from "./live-keys.js";

/** A spinner before this would only flicker, ms. */
const SPINNER_AFTER_MS = 300;
/** Limits of the server are announced when this much of them has passed. */
const ANNOUNCE_AT = 0.8;

/** @typedef {import("../lib/session.js").LiveSession & {phase: string, interrupt(): void, pause?(): void, resume?(): void, forceListen?(on: boolean): void, chunkMs?: number}} AnySession */

/**
 * @typedef {object} LiveMode what differs between the live pages
 * @property {string} name of the texts: `audio`, `half` or `omni`
 * @property {string} [icon] of the start button
 * @property {() => Promise<new (parts: any) => AnySession>} loadSession the class; loaded when first needed
 * @property {boolean} canPause
 * @property {() => object} options of a session, from the settings; or a promise of them
 * @property {() => HTMLElement[]} controls of the settings tab, below the devices
 * @property {[string, string][]} keys
 * @property {boolean} [canForce] listening can be forced by a button
 * @property {string[]} [examples] of what one could say
 * @property {string[]} [numbers] further rows of the numbers tab
 * @property {{icon: string, text: string, seen: "micExplained"|"camExplained"}} [permission] what is said before the browser asks
 * @property {() => object} [parts] further parts of a session
 * @property {(page: LivePage) => void} [dress] put more on the page, once it stands
 */

const EXAMPLES = ["transcript.example1", "transcript.example2", "transcript.example3"];
const MICROPHONE = /** @type {const} */ ({ icon: "mic", text: "permission", seen: "micExplained" });

/** Orb and words for each state. @type {Record<string, import("../ui/orb.js").Mood>} */
const MOODS = {
  permission: "waiting", connecting: "waiting", queued: "waiting", preparing: "waiting", generating: "waiting",
  listening: "listening", user: "listening", speaking: "speaking", paused: "paused", failed: "failed",
};

/** Events: `show` {state, phase, session} on each change of state, `session` (a new one begins), `defaults` of the server. */
export class LivePage extends EventTarget {
  /** @type {AnySession|null} */ session = null;
  /** Why no session began. @type {SessionError|null} */ #error = null;
  /** @type {import("../lib/call.js").CallParts|null} */ #parts = null;
  orb = new Orb();
  waveform = new Waveform();
  #mode;
  /** @type {import("../lib/protocol.js").FrontendDefaults} */ #defaults = { playback_delay_ms: 200 };
  #transcript;
  #queue = new QueueCard(() => this.session?.cancel());
  #numbers;
  #mic = devicePicker("micId", "audioinput");
  #speaker = devicePicker("speakerId", "audiooutput");
  #pill = h("span", { class: "state-word" });
  #pillBox = h("div", { class: "state-pill", attrs: { role: "status" } }, h("span", { class: "dot" }), this.#pill);
  #timer = h("span", { class: "timer", label: "stage.timer", attrs: { role: "timer" } }, "0:00");
  #headline = h("h1", { class: "headline" });
  #hint = h("p", { class: "stage-hint" });
  #notice = h("p", { class: "engine-notice", icon: "info" }, h("span"));
  #card = h("div", { class: "stage-card-slot" });
  stage = h("section", { class: "stage", label: "stage.title", attrs: { tabindex: "-1" } });
  /** True where no call can begin: the page then says why. */
  isBlocked = false;
  /** By the button; a held key adds to it. */
  isForced = false;
  #isStarting = false;
  /** Further single-letter keys of the page. @type {Record<string, () => void>} */ keys = {};
  /** What Escape does before it means the end; true when it did something. */
  escape = () => false;
  #bar; #inspector;
  #awake = new Awake();
  #gaps = 0;
  /** @type {{fromMs: number, limitMs: number, key: string, isTold: boolean}|null} */ #limit = null;

  /** @param {LiveMode} mode */
  constructor(mode) {
    super();
    this.#mode = mode;
    this.#transcript = new Transcript(mode.examples ?? EXAMPLES);
    this.#numbers = numberList(["reply", "reply_p50", "unit", "unit_p95", "server", "ahead", "delay", "gaps", "drift", "chunks", "skipped", "kv", ...(mode.numbers ?? []), "unknown"]);
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
      force: mode.canForce ? (isOn) => this.session?.forceListen?.((this.isForced = isOn)) : null,
      inspect: () => this.#inspector.toggle(),
    }, `${mode.name}.start`, mode.icon);
    this.#inspector.onToggle = (isOpen) => {
      this.#bar.showInspector(isOpen);
      document.body.classList.toggle("has-inspector", isOpen);
    };
  }

  mount() {
    this.stage.append(
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
    main.append(this.stage, talk, this.#inspector.element, this.#bar.element);
    this.#show("idle");
    this.#follow();
  }

  async start() {
    if (this.isBlocked || this.#isStarting || (this.session && !this.session.isOver)) return;
    this.#isStarting = true;
    try {
      if (await this.explain()) await this.#begin();
    } catch (cause) {
      this.#fail(cause);
    } finally {
      this.#isStarting = false;
    }
  }

  async #begin() {
    const [Session, { makeParts }] = await Promise.all([this.#mode.loadSession(), import("../lib/call.js")]);
    const parts = (this.#parts ??= makeParts());
    const session = new Session({ ...parts, ...this.#mode.parts?.() });
    this.session = session;
    parts.capture.isMuted = this.isForced = false;
    this.#limit = null;
    this.#transcript.clear();
    this.waveform.clear();
    this.#listen(session);
    this.#tell("session", session);
    const { micId, speakerId, volume, echoCancellation, playbackDelayMs } = settings.value;
    const delayMs = playbackDelayMs < 0 ? this.#defaults.playback_delay_ms : playbackDelayMs;
    await session.start({ micId, speakerId, volume, echoCancellation, delayMs, ...(await this.#mode.options()) });
  }

  /** What a call is made of is loaded with the first one: that the server is gone may show here. @param {unknown} cause */
  #fail(cause) {
    this.#error = new SessionError("unreachable", String(cause));
    this.session = null;
    this.#show("failed");
  }

  /** @param {string} type @param {any} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  mute() {
    if (!this.session?.isLive || !this.#parts) return;
    this.#parts.capture.isMuted = !this.#parts.capture.isMuted;
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
    return { state: this.session?.state ?? "idle", ...this.session?.metrics.summary(), player: this.#parts?.player.metrics() };
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
    this.stage.focus({ preventScroll: true });
    this.#awake.keep(true);
  }

  #onOver() {
    this.waveform.isRunning = false;
    this.orb.setLevel(0);
    this.#awake.keep(false);
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
    const isMuted = this.#parts?.capture.isMuted ?? false;
    const shown = isMuted && (phase === "listening" || phase === "user") ? "muted" : phase;
    document.body.dataset.state = state;
    this.stage.dataset.phase = phase;
    this.orb.setMood(MOODS[phase] ?? "idle");
    setText(this.#pill, `state.${shown}`);
    setText(this.#headline, state === "idle" ? `${this.#mode.name}.headline` : this.#own(shown, ""));
    setText(this.#hint, this.#own(shown, ".hint"));
    this.#bar.show(state, isMuted);
    this.#bar.showSpeaking(phase === "speaking");
    this.#showCard(state);
    if (state === "connecting" || state === "preparing") this.#spinLater(state);
    else this.stage.classList.remove("is-spinning");
    this.#tell("show", { state, phase, session });
  }

  /** The page's own words where it has some, else those of all live pages. @param {string} shown @param {string} part */
  #own(shown, part) {
    const own = `${this.#mode.name}.${shown}${part}`;
    return hasText(own) ? own : `stage.${shown}${part}`;
  }

  /** @param {string} state */
  #spinLater(state) {
    setTimeout(() => this.stage.classList.toggle("is-spinning", this.session?.state === state), SPINNER_AFTER_MS);
  }

  /** @param {string} state */
  #showCard(state) {
    const card = this.#cardOf(state);
    this.stage.classList.toggle("has-card", card !== null);
    if (card !== this.#card.firstElementChild) this.#card.replaceChildren(...(card ? [card] : []));
  }

  /** @param {string} state @returns {HTMLElement|null} */
  #cardOf(state) {
    const session = this.session;
    if (state === "queued") return this.#queue.element;
    const error = session ? session.error : this.#error;
    if (state === "failed" && error) return errorCard(error, () => void this.start());
    if (state !== "ended" || !session?.endReason || session.endReason === "cancelled") return null;
    return summaryCard({
      endReason: session.endReason, summary: session.metrics.summary(), gaps: this.#gaps, recordingId: session.recordingId,
      onAgain: () => void this.start(),
      onCopy: () => void copyText(this.#transcript.asText()),
      onSave: () => this.#save(),
    });
  }

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
      if (!session?.isLive || !this.#parts) return;
      const player = this.#parts.player.metrics();
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
  async explain() {
    const { icon, text, seen } = this.#mode.permission ?? MICROPHONE;
    if (settings.value[seen]) return true;
    const answer = await ask({
      icon, title: `${text}.title`, text: `${text}.text`,
      buttons: [{ value: "", label: "action.not_now" }, { value: "go", label: "permission.go", isPrimary: true }],
    });
    if (answer === "go") settings.set({ [seen]: true });
    return answer === "go";
  }

  #settingsTab() {
    settings.subscribe((values, before) => {
      if (values.volume !== before.volume) this.#parts?.player.setVolume(values.volume);
      if (values.speakerId !== before.speakerId) void this.#parts?.player.setSpeaker(values.speakerId);
      if (values.micId !== before.micId) void this.#reopenMicrophone(values.micId);
    });
    const speaker = canChooseSpeaker ? this.#speaker.element : null;
    return h("div", { class: "fields" }, this.#mic.element, speaker, ...this.#mode.controls());
  }

  /** @param {string} micId */
  async #reopenMicrophone(micId) {
    const session = this.session;
    const capture = this.#parts?.capture;
    if (!session?.isLive || !capture) return;
    try {
      await capture.open({ micId, echoCancellation: settings.value.echoCancellation });
      capture.start(session.chunkMs ?? 500);
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
    this.#tell("defaults", this.#defaults);
  }
}

/** @param {LiveMode} mode */
export async function startLivePage(mode) {
  await startShell(`${mode.name}.title`);
  const page = new LivePage(mode);
  page.mount();
  mode.dress?.(page);
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
