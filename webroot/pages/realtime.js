/** The realtime page: a call on `/v1/realtime` with every event of both sides in view, and the same call as code. */

import { getDefaults, isServerUp } from "../lib/api.js";
import { Capture } from "../lib/audio/capture.js";
import { Player } from "../lib/audio/player.js";
import { formatBytes } from "../lib/format.js";
import { LANGUAGES, snippet } from "../lib/snippets.js";
import { JsonSocket } from "../lib/ws.js";
import { h, iconButton } from "../ui/h.js";
import { icon } from "../ui/icons.js";
import { numberList } from "../ui/inspector.js";
import { put } from "../ui/keyed-list.js";
import { segmented } from "../ui/segmented.js";
import { startShell, visitor } from "../ui/shell.js";
import { copyText, formatMs } from "../ui/stage-cards.js";
import { currentLang, hasText, onLangChange, setLabel, setText } from "../ui/text.js";
import { toast } from "../ui/toast.js";
import { Waveform } from "../ui/waveform.js";
import { eventComposer } from "./realtime-compose.js";
import { LogView } from "./realtime-log.js";

const NUMBERS_EVERY_MS = 250;
/** @typedef {import("../lib/realtime.js").RealtimeCall} RealtimeCall */

/** Bars of the strip of times. */
const NUM_BARS = 60;
const DEFAULT_INSTRUCTIONS = "You are a helpful voice assistant. Answer briefly.";

/** Words for the pill, and the look of its dot. @type {Record<import("../lib/realtime.js").CallState, string>} */
const LOOKS = { idle: "", permission: "paused", connecting: "paused", queued: "paused", opening: "paused", open: "ready", closing: "paused", closed: "" };

class RealtimePage {
  /** @type {RealtimeCall|null} */ call = null;
  player = new Player();
  capture = new Capture();
  log = new LogView();
  #waveform = new Waveform();
  #video = h("video", { class: "rt-video", label: "omni.preview", props: { muted: true, playsInline: true, hidden: true } });
  /** @type {import("../lib/video/camera.js").Camera|null} */ #camera = null;
  #isStarting = false;
  #delayMs = 200;
  #needsKey = false;
  #language = LANGUAGES[0];

  #dialect = segmented("dialect", "realtime.dialect", [["r1", "realtime.r1"], ["r2", "realtime.r2"], ["openai", "realtime.openai"]], () => this.#onChoice());
  #mode = segmented("mode", "realtime.mode", [["audio", "realtime.audio"], ["video", "realtime.video"]], () => this.#onChoice());
  #sound = segmented("sound", "realtime.sound", [["microphone", "realtime.microphone"], ["silence", "realtime.silence"]], () => this.#onChoice());
  #chunk = segmented("chunk", "realtime.chunk", [["1000", "realtime.1s"], ["500", "realtime.half"], ["250", "realtime.quarter"]], () => this.#onChoice());
  #instructions = h("textarea", { id: "instructions", attrs: { rows: 3, maxlength: 4000, spellcheck: "false" }, props: { value: DEFAULT_INSTRUCTIONS }, on: { input: () => this.#showCode() } });
  #start = h("button", { class: "button primary large", id: "connect", icon: "play", t: "realtime.connect", on: { click: () => void this.start() } });
  #stop = h("button", { class: "button large rt-stop", id: "disconnect", icon: "end", t: "realtime.disconnect", props: { hidden: true }, on: { click: () => this.call?.stop() } });
  #mute = iconButton("mic", "bar.mute", () => this.mute(), "rt-tool");
  #interrupt = iconButton("hand", "bar.interrupt", () => this.call?.interrupt(), "rt-tool");
  #word = h("span", { t: "realtime.state.idle" });
  #pill = h("p", { class: "badge connection", id: "state", attrs: { role: "status" } }, h("span", { class: "dot" }), this.#word);
  #trouble = h("p", { class: "rt-trouble", attrs: { role: "alert" }, props: { hidden: true } });
  #numbers = numberList(["answer_last", "answer_p50", "answer_p95", "events", "traffic", "kv"]);
  #strip = h("div", { class: "rt-strip", attrs: { "aria-hidden": "true" } });
  #said = h("div", { class: "rt-said", label: "realtime.said", attrs: { role: "log" } });
  #code = h("code");
  #compose = eventComposer((event) => this.call?.send(event) ?? false);
  /** @type {HTMLElement|null} the paragraph that the model's words go on in */ #sentence = null;

  mount() {
    const settings = h("section", { class: "panel rt-settings", label: "realtime.settings" },
      this.#dialect.element, this.#mode.element, this.#sound.element, this.#chunk.element,
      h("div", { class: "field" }, h("label", { t: "realtime.instructions", attrs: { for: "instructions" } }), this.#instructions),
      h("div", { class: "rt-buttons" }, this.#start, this.#stop, this.#mute, this.#interrupt),
      this.#trouble);
    const live = h("section", { class: "panel rt-live", label: "realtime.live" },
      this.#video, h("div", { class: "rt-lanes" }, h("span", { class: "lane-name lane-you", t: "transcript.user" }), h("span", { class: "lane-name lane-ai", t: "transcript.ai" }), this.#waveform.element),
      this.#numbers.element, this.#strip);
    document.getElementById("main")?.append(
      h("header", { class: "rt-head" }, h("div", {}, h("h1", { t: "realtime.headline" }), h("p", { class: "rt-lead", t: "realtime.lead" })), this.#pill),
      h("div", { class: "rt-columns" },
        h("div", { class: "rt-side" }, settings, live),
        h("section", { class: "panel rt-main" }, ...this.#tabs())));
    this.player.addEventListener("stats", (/** @type {any} */ { detail }) => this.#waveform.add("ai", detail.peak));
    this.capture.addEventListener("level", (/** @type {any} */ { detail }) => this.#waveform.add("you", this.call?.isMuted ? 0 : detail.peak));
    onLangChange(() => this.#showNumbers());
    setInterval(() => this.call && !this.call.isOver && this.#showNumbers(), NUMBERS_EVERY_MS);
    this.#onChoice();
    this.#show();
  }

  /** What a call needs is loaded with the first one. */
  async start() {
    if (this.#isStarting || (this.call && !this.call.isOver)) return;
    this.#isStarting = true;
    try {
      const { RealtimeCall } = await import("../lib/realtime.js");
      await this.#begin(RealtimeCall);
    } finally {
      this.#isStarting = false;
    }
  }

  /** @param {typeof import("../lib/realtime.js").RealtimeCall} Call */
  async #begin(Call) {
    const isVideo = this.#wanted.mode === "video";
    const grab = async () => (await this.#camera?.grab(1))?.base64 ?? null;
    const call = new Call({
      makeSocket: (url, handlers) => new JsonSocket(url, handlers),
      capture: this.capture, player: this.player, now: () => performance.now(), isServerUp, grab: isVideo ? grab : null,
    });
    this.call = call;
    this.#listen(call);
    this.#clear();
    if (isVideo && !(await this.#openCamera())) return call.stop();
    await call.start({ ...this.#wanted, sound: /** @type {any} */ (this.#sound.value), delayMs: this.#delayMs });
  }

  #clear() {
    this.log.clear();
    this.#said.replaceChildren();
    this.#strip.replaceChildren();
    this.#sentence = null;
    this.#waveform.clear();
    this.#trouble.hidden = true;
  }

  mute() {
    if (!this.call || this.call.isOver) return;
    this.call.isMuted = !this.call.isMuted;
    this.#show();
  }

  async learn() {
    const [defaults, found] = await Promise.all([getDefaults(), visitor()]);
    this.#delayMs = defaults.playback_delay_ms;
    this.#needsKey = found?.needs_key ?? false;
    this.#showCode();
  }

  /** Numbers for the console and for tests. */
  metrics() {
    return { state: this.call?.state ?? "idle", ...this.call?.summary(), counts: this.call?.counts, log: this.log.size, player: this.player.metrics() };
  }

  get #wanted() {
    const dialect = /** @type {import("../lib/realtime-dialects.js").DialectName} */ (this.#dialect.value);
    const mode = /** @type {"audio"|"video"} */ (dialect === "openai" ? "audio" : this.#mode.value);
    return { dialect, mode, instructions: this.#instructions.value, chunkMs: Number(this.#chunk.value) };
  }

  #tabs() {
    const panels = [
      h("div", { class: "rt-events", id: "panel-events", attrs: { role: "tabpanel", "aria-labelledby": "tab-events" } }, this.#said, this.log.element, this.#compose.element),
      h("div", { class: "rt-code", id: "panel-code", attrs: { role: "tabpanel", "aria-labelledby": "tab-code" } }, this.#codeTools(), h("pre", {}, this.#code)),
    ];
    const tabs = ["events", "code"].map((name) => h("button", { class: "tab", id: `tab-${name}`, t: `realtime.tab.${name}`, attrs: { role: "tab", "aria-controls": `panel-${name}` } }));
    const select = (/** @type {number} */ chosen) => tabs.forEach((tab, index) => {
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      panels[index].hidden = index !== chosen;
    });
    tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => select(index));
      tab.addEventListener("keydown", ({ key }) => {
        if (key !== "ArrowRight" && key !== "ArrowLeft") return;
        select(1 - index);
        tabs[1 - index].focus();
      });
    });
    select(0);
    return [h("div", { class: "panel-head" }, h("div", { class: "tabs", attrs: { role: "tablist" } }, ...tabs)), ...panels];
  }

  #codeTools() {
    const language = segmented("language", "realtime.language", [["javascript", "realtime.javascript"], ["python", "realtime.python"]], (value) => {
      this.#language = /** @type {import("../lib/snippets.js").Language} */ (value);
      this.#showCode();
    });
    return h("div", { class: "log-tools" }, language.element, h("div", { class: "log-buttons" },
      h("button", { class: "button small", icon: "copy", t: "action.copy", on: { click: () => void copyText(this.#code.textContent ?? "") } })));
  }

  #showCode() {
    put(this.#code, snippet(this.#language, { ...this.#wanted, origin: location.origin, needsKey: this.#needsKey }));
  }

  /** What a choice makes pointless is not shown. */
  #onChoice() {
    this.#mode.element.hidden = this.#chunk.element.hidden = this.#dialect.value === "openai";
    this.#compose.offer(this.#wanted.dialect);
    this.#showCode();
  }

  async #openCamera() {
    try {
      const { Camera } = await import("../lib/video/camera.js");
      this.#camera ??= new Camera(this.#video);
      await this.#camera.open({});
      return true;
    } catch (cause) {
      this.#showTrouble(`error.${/** @type {any} */ (cause).code ?? "unknown"}.title`);
      return false;
    }
  }

  /** @param {RealtimeCall} call */
  #listen(call) {
    const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ run) =>
      call.addEventListener(type, (event) => this.call === call && run(/** @type {CustomEvent} */ (event).detail));
    on("state", () => this.#show());
    on("event", (event) => this.#take(event));
    on("said", (said) => this.#say(said));
    on("queue", ({ position, waitS }) => setText(this.#word, "realtime.state.queued_at", { position, seconds: Math.round(waitS) }));
    on("trouble", (text) => toast("realtime.trouble", { kind: "bad", params: { text: String(text).slice(0, 200) } }));
  }

  /** @param {import("../lib/realtime.js").CallEvent} event */
  #take(event) {
    this.log.add(event);
    if (event.latencyMs === null) return;
    const bar = h("span", { class: [event.message.type, event.message.kind].some((word) => /listen$/.test(word)) ? "is-listen" : "" });
    bar.dataset.ms = String(event.latencyMs);
    this.#strip.append(bar);
    if (this.#strip.children.length > NUM_BARS) this.#strip.firstElementChild?.remove();
    const bars = /** @type {HTMLElement[]} */ ([...this.#strip.children]);
    const top = Math.max(100, ...bars.map(({ dataset }) => Number(dataset.ms)));
    for (const one of bars) one.style.height = `${Math.max(4, (100 * Number(one.dataset.ms)) / top)}%`;
  }

  /** @param {{who: "user"|"ai", text: string, endsTurn: boolean}} said */
  #say({ who, text, endsTurn }) {
    if (text && (who === "user" || !this.#sentence)) {
      const words = h("span", {});
      this.#said.append(h("p", { class: `said-${who}` }, h("strong", { t: `transcript.${who}` }), words));
      if (who === "user") put(words, text);
      else this.#sentence = words;
      while (this.#said.children.length > 30) this.#said.firstElementChild?.remove();
    }
    if (who === "ai" && text && this.#sentence) this.#sentence.append(text);
    if (who === "ai" && endsTurn) this.#sentence = null;
    this.#said.scrollTop = this.#said.scrollHeight;
  }

  #show() {
    const call = this.call, state = call?.state ?? "idle";
    const isRunning = !["idle", "closed"].includes(state);
    document.body.dataset.state = state;
    this.#pill.dataset.state = call?.error ? "error" : LOOKS[state];
    setText(this.#word, call?.error ? "realtime.state.failed" : `realtime.state.${state}`);
    this.#start.hidden = isRunning;
    this.#stop.hidden = !isRunning;
    this.#mute.hidden = !isRunning || this.#sound.value === "silence";
    this.#interrupt.hidden = state !== "open";
    const isMuted = call?.isMuted ?? false;
    this.#mute.replaceChildren(icon(isMuted ? "mic_off" : "mic"));
    this.#mute.setAttribute("aria-pressed", String(isMuted));
    setLabel(this.#mute, isMuted ? "bar.unmute" : "bar.mute");
    for (const choice of [this.#dialect, this.#mode, this.#sound, this.#chunk]) choice.disabled = isRunning;
    this.#instructions.disabled = isRunning;
    this.#compose.enable(isRunning);
    this.#waveform.isRunning = state === "open";
    this.#video.hidden = !isRunning || this.#wanted.mode !== "video";
    if (call?.isOver) this.#onOver(call);
    this.#showNumbers();
  }

  /** @param {RealtimeCall} call */
  #onOver({ error, ending }) {
    this.#camera?.close();
    if (error) this.#showTrouble(hasText(`error.${error.code}.title`) ? `error.${error.code}.title` : "error.unknown.title", error.detail, error.code === "refused");
    else if (ending) setText(this.#word, "realtime.state.closed_with", { ending });
  }

  /** @param {string} key @param {string} [detail] @param {boolean} [needsKey] a key may help */
  #showTrouble(key, detail = "", needsKey = false) {
    this.#trouble.replaceChildren(h("strong", { t: key }), h("span", {}, detail),
      ...(needsKey ? [h("a", { class: "text-button", t: "realtime.sign_in", attrs: { href: "/signin?next=/realtime" } })] : []));
    this.#trouble.hidden = false;
  }

  #showNumbers() {
    const { call } = this, summary = call?.summary();
    const size = (/** @type {number} */ bytes) => formatBytes(bytes, currentLang());
    this.#numbers.fill({
      answer_last: formatMs(summary?.lastMs), answer_p50: formatMs(summary?.p50Ms), answer_p95: formatMs(summary?.p95Ms),
      events: call ? `${call.counts.out} / ${call.counts.in}` : "–", traffic: call ? `${size(call.bytes.out)} / ${size(call.bytes.in)}` : "–", kv: call?.kvTokens ? String(call.kvTokens) : "–",
    });
  }
}

async function main() {
  await startShell("realtime.title");
  const page = new RealtimePage();
  page.mount();
  void page.learn();
  addEventListener("pagehide", () => page.call?.stop());
  Object.assign(globalThis, { omni: page });
}

void main();
