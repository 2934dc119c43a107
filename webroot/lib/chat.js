/** Turn-based chat: one request, one socket, one streamed answer. Cancel closes the socket, which stops the server. */

import { decodeF32 } from "./audio/pcm.js";
import { SessionError, errorFromServer } from "./errors.js";
import { Route, ServerEvent } from "./protocol.js";

/** No word from the server for this long ends the wait, ms. Some servers queue silently here, hence minutes. */
const SILENCE_TIMEOUT_MS = 300000;

/** @typedef {{role: "system"|"user"|"assistant", content: string}} ChatMessage */

/**
 * @typedef {object} ChatOptions
 * @property {number} [maxTokens]
 * @property {boolean} [hasVoice] the answer is spoken too
 */

/**
 * @typedef {object} ChatOutcome
 * @property {string} text
 * @property {boolean} isStopped
 * @property {number|null} inputTokens
 * @property {number|null} generatedTokens
 * @property {number|null} firstTextMs from the request to the first text
 * @property {number} totalMs
 */

/**
 * @param {ChatMessage[]} messages
 * @param {ChatOptions} options
 */
export function chatRequest(messages, { maxTokens = 256, hasVoice = false }) {
  return {
    messages,
    streaming: true,
    generation: { max_new_tokens: maxTokens, do_sample: true, length_penalty: 1.1 },
    image: { max_slice_nums: 1 },
    omni_mode: false,
    tts: { enabled: hasVoice, mode: "audio_assistant" },
    use_tts_template: hasVoice,
  };
}

/** Events: `text` {text} (all of it so far), `audio` (Float32Array, 24 kHz), `queue` (message; null: served now). */
export class ChatTurn extends EventTarget {
  /** @type {import("./session.js").SocketLike|null} */ #socket = null;
  /** @type {((outcome: ChatOutcome) => void)|null} */ #resolve = null;
  /** @type {((error: SessionError) => void)|null} */ #reject = null;
  /** @type {any} */ #timer = 0;
  #text = "";
  #isWaiting = false;
  #isCancelled = false;
  #startMs = 0;
  /** @type {number|null} */ #firstTextMs = null;
  /** @type {number|null} */ #inputTokens = null;

  /** @param {Pick<import("./session.js").LiveParts, "makeSocket"|"now"|"isServerUp">} parts */
  constructor(parts) {
    super();
    this.parts = parts;
  }

  /**
   * Resolves with the whole answer, or with what came before cancel().
   * Raises: SessionError.
   * @param {ChatMessage[]} messages
   * @param {ChatOptions} options
   * @returns {Promise<ChatOutcome>}
   */
  run(messages, options) {
    this.#startMs = this.parts.now();
    if (this.#isCancelled) return Promise.resolve(this.#outcome(true, null));
    const outcome = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    void this.#ask(chatRequest(messages, options));
    return /** @type {Promise<ChatOutcome>} */ (outcome);
  }

  /** Stop the answer where it is; the server sees the close and stops too. Before run() nothing is asked. */
  cancel() {
    this.#isCancelled = true;
    this.#settle(() => this.#resolve?.(this.#outcome(true, null)));
  }

  /** @param {object} request */
  async #ask(request) {
    const socket = this.parts.makeSocket(Route.chat(), {
      onMessage: (message) => this.#receive(message),
      onClose: ({ code }) => this.#fail(new SessionError("lost", `the socket closed with code ${code}`)),
    });
    this.#socket = socket;
    try {
      await socket.open();
    } catch (cause) {
      const error = SessionError.from(cause);
      const isRefused = error.code === "unreachable" && (await this.parts.isServerUp());
      return this.#fail(isRefused ? new SessionError("refused", error.detail) : error);
    }
    if (!this.#resolve) return socket.close(); // cancelled during the handshake
    socket.send(request);
    this.#expectMore();
  }

  /** @param {any} message */
  #receive(message) {
    if (!this.#resolve) return;
    this.#expectMore();
    this.#follow(message);
    if (message.type === ServerEvent.PREFILL_DONE) this.#inputTokens = message.input_tokens ?? null;
    else if (message.type === ServerEvent.CHUNK) this.#onChunk(message);
    else if (message.type === ServerEvent.DONE) this.#onDone(message);
    else if (message.type === ServerEvent.ERROR) this.#fail(errorFromServer(String(message.error ?? "")));
  }

  /** In line as long as queue messages come; any other one ends the wait. @param {any} message */
  #follow(message) {
    const isQueue = message.type === ServerEvent.QUEUED || message.type === ServerEvent.QUEUE_UPDATE;
    if (isQueue || this.#isWaiting) this.dispatchEvent(new CustomEvent("queue", { detail: isQueue ? message : null }));
    this.#isWaiting = isQueue;
  }

  /** @param {any} message */
  #onChunk(message) {
    if (message.text_delta) {
      this.#firstTextMs ??= this.parts.now() - this.#startMs;
      this.#text += message.text_delta;
      this.dispatchEvent(new CustomEvent("text", { detail: { text: this.#text } }));
    }
    if (message.audio_data) this.#onAudio(message.audio_data);
  }

  /** @param {string} audio */
  #onAudio(audio) {
    try {
      this.dispatchEvent(new CustomEvent("audio", { detail: decodeF32(audio) }));
    } catch (cause) {
      this.#fail(new SessionError("bad_message", String(cause)));
    }
  }

  /** @param {any} message */
  #onDone(message) {
    this.#text = message.text || this.#text;
    this.#inputTokens = message.input_tokens ?? this.#inputTokens;
    if (message.audio_data) this.#onAudio(message.audio_data);
    this.#settle(() => this.#resolve?.(this.#outcome(false, message.generated_tokens ?? null)));
  }

  #expectMore() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fail(new SessionError("timeout", "no answer for five minutes")), SILENCE_TIMEOUT_MS);
  }

  /** @param {boolean} isStopped @param {number|null} generatedTokens @returns {ChatOutcome} */
  #outcome(isStopped, generatedTokens) {
    return {
      text: this.#text,
      isStopped,
      inputTokens: this.#inputTokens,
      generatedTokens,
      firstTextMs: this.#firstTextMs,
      totalMs: this.parts.now() - this.#startMs,
    };
  }

  /** @param {SessionError} error */
  #fail(error) {
    this.#settle(() => this.#reject?.(error));
  }

  /** @param {() => void} end */
  #settle(end) {
    clearTimeout(this.#timer);
    end();
    this.#resolve = this.#reject = null;
    this.#socket?.close();
  }
}
