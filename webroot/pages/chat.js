/** Turn-based chat: write, read and, if wished, hear the answer. */

import { getDefaults, isServerUp } from "../lib/api.js";
import { Player } from "../lib/audio/player.js";
import { ChatTurn } from "../lib/chat.js";
import { SessionError } from "../lib/errors.js";
import { JsonSocket } from "../lib/ws.js";
import { ChatMessage } from "../ui/chat-message.js";
import { slider, textArea, toggle } from "../ui/controls.js";
import { h, iconButton } from "../ui/h.js";
import { Inspector, keyList } from "../ui/inspector.js";
import { showNotice } from "../ui/notice.js";
import { QueueCard } from "../ui/queue-card.js";
import { settings, startShell } from "../ui/shell.js";
import { errorCard, formatMs } from "../ui/stage-cards.js";
import { setLabel, setPlaceholder, setText } from "../ui/text.js";
import { icon } from "../ui/icons.js";

const SUGGESTIONS = ["chat.suggestion1", "chat.suggestion2", "chat.suggestion3"];
/** Within this distance of the end the newest words keep themselves in view, px. */
const STICK_PX = 120;

class ChatPage {
  /** @type {ChatMessage[]} */ #messages = [];
  /** @type {ChatTurn|null} */ #turn = null;
  #player = new Player();
  #queue = new QueueCard(() => this.#stop());
  #log = h("div", { class: "chat-log", label: "transcript.title", attrs: { role: "log", "aria-live": "polite" } });
  #welcome = h("div", { class: "chat-welcome" });
  #engineNote = h("p", { class: "engine-notice" });
  #input = h("textarea", { class: "composer-input", id: "message", label: "chat.placeholder", attrs: { rows: 1, enterkeyhint: "send" } });
  #send = h("button", { class: "composer-send", id: "send", icon: "send", label: "chat.send", attrs: { disabled: true } });
  #voice = h("button", { class: "composer-tool", icon: "speaker_off", label: "chat.voice", attrs: { "aria-pressed": "false" } });
  #inspector = new Inspector([
    { id: "settings", label: "inspector.settings", content: h("div", { class: "fields" }, textArea("systemPrompt"), toggle("chatVoice"), slider("volume", { step: 0.05, show: (value) => ["settings.percent", { value: Math.round(value * 100) }] }), slider("chatMaxTokens", { step: 16 })) },
    { id: "keys", label: "inspector.keys", content: keyList([["Enter", "keys.send"], ["Shift Enter", "keys.newline"], ["Esc", "keys.stop_answer"]]) },
  ]);

  mount() {
    const tools = h("div", { class: "composer-tools" }, this.#voice,
      iconButton("sliders", "bar.settings", () => this.#inspector.toggle(), "composer-tool"),
      iconButton("plus", "chat.new", () => this.#restart(), "composer-tool"), this.#send);
    const composer = h("form", { class: "composer", on: { submit: (event) => (event.preventDefault(), this.#onSend()) } }, this.#input, tools);
    this.#send.type = "submit";
    setPlaceholder(this.#input, "chat.placeholder");
    this.#welcome.append(
      h("h1", { t: "chat.headline" }), this.#engineNote,
      h("div", { class: "suggestions" }, ...SUGGESTIONS.map((key) =>
        h("button", { class: "suggestion", t: key, on: { click: (event) => void this.#ask(event.currentTarget.textContent) } }))));
    const main = /** @type {HTMLElement} */ (document.getElementById("main"));
    main.append(h("div", { class: "chat-column" }, this.#welcome, this.#log, composer), this.#inspector.element);
    this.#inspector.onToggle = (isOpen) => document.body.classList.toggle("has-inspector", isOpen);
    this.#wire();
    this.#show();
  }

  async loadDefaults() {
    const defaults = await getDefaults();
    const name = defaults.model_name || defaults.engine;
    if (defaults.notice) showNotice(this.#engineNote, defaults);
    else if (name) setText(this.#engineNote, "chat.engine", { name });
  }

  /** Numbers for the console and for tests. */
  metrics() {
    return { isAnswering: this.#turn !== null, messages: this.#messages.length, player: this.#player.metrics() };
  }

  #wire() {
    this.#input.addEventListener("input", () => this.#show());
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#onSend();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.#stop());
    for (const type of ["started", "drained"]) this.#player.addEventListener(type, () => this.#show());
    this.#voice.addEventListener("click", () => settings.set({ chatVoice: !settings.value.chatVoice }));
    settings.subscribe(({ chatVoice, volume }) => {
      this.#voice.replaceChildren(icon(chatVoice ? "speaker" : "speaker_off"));
      this.#voice.setAttribute("aria-pressed", String(chatVoice));
      this.#player.setVolume(volume);
    });
  }

  #stop() {
    this.#turn?.cancel();
    this.#player.cut();
  }

  /** The same button sends, stops the answer, and stops the voice that still reads it. */
  #onSend() {
    if (this.#turn) return this.#turn.cancel();
    const text = this.#input.value.trim();
    if (!text) return this.#player.cut();
    this.#input.value = "";
    void this.#ask(text);
  }

  /** @param {string} text */
  async #ask(text) {
    if (this.#turn) return;
    this.#add({ role: "user", content: text });
    await this.#answer();
  }

  /** @param {import("../ui/chat-message.js").Message} message */
  #add(message) {
    /** @type {ChatMessage} */
    const added = new ChatMessage(message, message.role === "user"
      ? { edit: () => void this.#edit(added) }
      : { regenerate: () => void this.#regenerate(added) });
    this.#messages.push(added);
    this.#log.append(added.element);
    added.element.scrollIntoView({ block: "end" });
    this.#show();
    return added;
  }

  /** Ask for the answer to everything said so far. */
  async #answer() {
    const history = this.#history();
    const hasVoice = settings.value.chatVoice;
    const turn = new ChatTurn({ makeSocket: (url, handlers) => new JsonSocket(url, handlers), now: () => performance.now(), isServerUp });
    this.#turn = turn;
    const answer = this.#add({ role: "assistant", content: "" });
    answer.wait(true);
    turn.addEventListener("text", (event) => this.#grow(answer, /** @type {CustomEvent} */ (event).detail.text));
    turn.addEventListener("queue", (event) => this.#wait(answer, /** @type {CustomEvent} */ (event).detail));
    turn.addEventListener("audio", (event) => this.#player.play(/** @type {CustomEvent} */ (event).detail));
    try {
      if (hasVoice) await this.#player.open({ delayMs: 100, volume: settings.value.volume, speakerId: settings.value.speakerId });
      const outcome = await turn.run(history, { maxTokens: settings.value.chatMaxTokens, hasVoice });
      this.#settle(answer, outcome);
    } catch (cause) {
      this.#fail(answer, SessionError.from(cause));
    } finally {
      this.#wait(answer, null);
      answer.wait(false);
      this.#turn = null;
      this.#show();
    }
  }

  /** Show the place in the line, or take the card away. @param {ChatMessage} answer @param {import("../lib/protocol.js").QueueMessage|null} place */
  #wait(answer, place) {
    if (place) {
      if (!this.#queue.element.parentElement) answer.append(this.#queue.element);
      return this.#queue.update(place);
    }
    if (!this.#queue.element.parentElement) return;
    this.#queue.stop();
    this.#queue.element.remove();
    setText(/** @type {Element} */ (document.querySelector("title")), "chat.title");
  }

  /** @param {ChatMessage} answer @param {import("../lib/chat.js").ChatOutcome} outcome */
  #settle(answer, outcome) {
    answer.grow(outcome.text);
    if (outcome.isStopped) {
      this.#player.cut();
      if (outcome.text) return answer.note("chat.stopped");
      return this.#remove(answer);
    }
    this.#player.endTurn();
    const { firstTextMs, totalMs, generatedTokens } = outcome;
    answer.note("chat.note", { first: formatMs(firstTextMs), total: formatMs(totalMs), tokens: generatedTokens ?? "–" });
  }

  /** @param {ChatMessage} answer @param {SessionError} error */
  #fail(answer, error) {
    this.#player.cut();
    answer.append(errorCard(error, () => void this.#regenerate(answer)));
  }

  /** @param {ChatMessage} answer @param {string} text */
  #grow(answer, text) {
    const page = /** @type {HTMLElement} */ (document.scrollingElement);
    const isNear = page.scrollHeight - page.scrollTop - page.clientHeight < STICK_PX;
    answer.grow(text);
    if (isNear) requestAnimationFrame(() => page.scrollTo({ top: page.scrollHeight }));
  }

  /** @param {ChatMessage} message */
  async #edit(message) {
    if (this.#turn) return;
    const text = await message.editInPlace();
    if (text === null || this.#turn) return;
    this.#dropFrom(message);
    await this.#ask(text);
  }

  /** @param {ChatMessage} answer */
  async #regenerate(answer) {
    if (this.#turn) return;
    this.#dropFrom(answer);
    await this.#answer();
  }

  /** @param {ChatMessage} message */
  #dropFrom(message) {
    this.#player.cut();
    for (const dropped of this.#messages.splice(this.#messages.indexOf(message))) dropped.element.remove();
  }

  /** @param {ChatMessage} message */
  #remove(message) {
    this.#messages = this.#messages.filter((kept) => kept !== message);
    message.element.remove();
  }

  #restart() {
    this.#stop();
    this.#messages = [];
    this.#log.replaceChildren();
    this.#show();
    this.#input.focus();
  }

  /** @returns {import("../lib/chat.js").ChatMessage[]} */
  #history() {
    const { systemPrompt } = settings.value;
    const said = this.#messages.map(({ message }) => message).filter(({ content }) => content);
    return systemPrompt ? [{ role: "system", content: systemPrompt }, ...said] : said;
  }

  #show() {
    const text = this.#input.value.trim();
    const canStop = this.#turn !== null || (!text && this.#player.isPlaying);
    document.body.classList.toggle("is-empty", this.#messages.length === 0);
    this.#send.disabled = !canStop && !text;
    this.#send.replaceChildren(icon(canStop ? "stop" : "send"));
    this.#send.classList.toggle("is-stop", canStop);
    setLabel(this.#send, canStop ? "chat.stop" : "chat.send");
    this.#input.style.height = "auto";
    this.#input.style.height = `${Math.min(200, this.#input.scrollHeight)}px`;
  }
}

async function main() {
  await startShell("chat.title");
  const page = new ChatPage();
  page.mount();
  /** For the console and for browser tests. */
  /** @type {any} */ (globalThis).omni = { metrics: () => page.metrics() };
  await page.loadDefaults();
}

void main();
