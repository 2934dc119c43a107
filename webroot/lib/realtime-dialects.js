/** Three dialects of `/v1/realtime`: what this side says in each, and what the server's events mean to the page. */

import { decodeF32, encodeF32 } from "./audio/pcm.js";
import { decodePcm16, encodePcm16 } from "./audio/pcm16.js";
import { Resampler } from "./audio/resample.js";
import { CAPTURE_RATE_HZ, Route, SPEECH_RATE_HZ } from "./protocol.js";

/** @typedef {"r1"|"r2"|"openai"} DialectName */
/** @typedef {{mode: "audio"|"video", instructions: string, chunkMs: number}} CallOptions */

/**
 * @typedef {object} Heard what one event of the server means
 * @property {boolean} [asksOpening] now the opening is due
 * @property {boolean} [isOpen] now sound is taken
 * @property {boolean} [asks] something awaits an answer from here on
 * @property {boolean} [answers] the oldest thing that awaited one has it
 * @property {string} [text] the model's words
 * @property {string} [userText] the user's words
 * @property {Float32Array} [sound] 24 kHz
 * @property {boolean} [cuts] what is queued for playing is void
 * @property {boolean} [endsTurn]
 * @property {number} [kvTokens]
 * @property {{position: number, waitS: number}} [queue]
 * @property {string} [error] in the server's words
 * @property {string} [closed] why the session is over
 */

/**
 * @typedef {object} Dialect
 * @property {number} chunkMs
 * @property {boolean} asksByChunk each chunk of sound awaits an answer
 * @property {string} path
 * @property {() => object} opening
 * @property {(samples: Float32Array, frames: string[], isForced: boolean) => object} append samples: 16 kHz
 * @property {object|null} interruption null: the next chunk says it
 * @property {object|null} farewell
 * @property {(event: any) => Heard} hear
 */

/** @param {DialectName} name @param {CallOptions} options @returns {Dialect} */
export function dialectOf(name, options) {
  return { r1, r2, openai }[name](options);
}

/** @param {CallOptions} options @returns {Dialect} */
function r1({ mode, instructions, chunkMs }) {
  return {
    chunkMs,
    asksByChunk: true,
    path: Route.realtime("r1", mode),
    opening: () => ({ type: "session.update", session: { instructions } }),
    append: (samples, frames, isForced) => ({
      type: "input_audio_buffer.append",
      audio: encodeF32(samples),
      ...(frames.length ? { video_frames: frames } : {}),
      ...(isForced ? { force_listen: true } : {}),
    }),
    interruption: null,
    farewell: { type: "session.close", reason: "user_stop" },
    hear: hearR1,
  };
}

/** @param {any} event @returns {Heard} */
function hearR1(event) {
  switch (event.type) {
    case "response.listen":
      return { answers: true, endsTurn: true, kvTokens: event.kv_cache_length };
    case "response.output_audio.delta":
      return {
        answers: true, text: event.text ?? "", endsTurn: event.end_of_turn === true, kvTokens: event.kv_cache_length,
        ...(event.audio ? { sound: decodeF32(event.audio) } : {}),
      };
  }
  return hearSession(event);
}

/** A unit is answered by one to three frames, which carry the id of its sound. @param {CallOptions} options @returns {Dialect} */
function r2({ mode, instructions, chunkMs }) {
  let numSent = 0, lastAnswered = "";
  return {
    chunkMs,
    asksByChunk: true,
    path: Route.realtime("r2", mode),
    opening: () => ({ type: "session.init", payload: { system_prompt: instructions, config: { chunk_ms: chunkMs } } }),
    append: (samples, frames, isForced) => ({
      type: "input.append",
      input: {
        audio: encodeF32(samples), input_id: `in_${(numSent += 1)}`,
        ...(frames.length ? { video_frames: frames } : {}),
        ...(isForced ? { force_listen: true } : {}),
      },
    }),
    interruption: null,
    farewell: { type: "session.close", reason: "user_stop" },
    hear: (event) => {
      if (event.type !== "response.output.delta") return hearSession(event);
      const answers = event.input_id !== lastAnswered;
      lastAnswered = event.input_id;
      return { answers, kvTokens: event.metrics?.kv_cache_length, ...hearDelta(event) };
    },
  };
}

/** @param {any} event @returns {Heard} */
function hearDelta(event) {
  if (event.kind === "listen") return { endsTurn: true };
  if (event.kind === "text") return { text: String(event.text ?? "") };
  return event.audio ? { sound: decodeF32(event.audio) } : {};
}

/** What R1 and R2 say in the same words. @param {any} event @returns {Heard} */
function hearSession(event) {
  switch (event.type) {
    case "session.queued":
    case "session.queue_update":
      return { queue: { position: event.position, waitS: event.estimated_wait_s } };
    case "session.queue_done":
      return { asksOpening: true };
    case "session.created":
      return { isOpen: true };
    case "session.user_transcript":
      return { userText: String(event.text ?? "") };
    case "session.warning":
      return { error: String(event.message ?? "") };
    case "session.closed":
      return { closed: String(event.reason ?? "") };
  }
  return errorIn(event);
}

/** @param {CallOptions} options @returns {Dialect} */
function openai({ instructions }) {
  const format = { type: "audio/pcm", rate: SPEECH_RATE_HZ };
  const resampler = new Resampler(CAPTURE_RATE_HZ, SPEECH_RATE_HZ);
  const resampled = (/** @type {Float32Array} */ samples) => {
    const out = new Float32Array(resampler.maxOutputs(samples.length));
    return out.subarray(0, resampler.process(samples, out));
  };
  return {
    chunkMs: 100,
    asksByChunk: false,
    path: Route.realtime("openai", "audio"),
    opening: () => ({
      type: "session.update",
      session: {
        type: "realtime", instructions,
        audio: { input: { format, transcription: { model: "any" }, turn_detection: { type: "server_vad" } }, output: { format } },
      },
    }),
    append: (samples) => ({ type: "input_audio_buffer.append", audio: encodePcm16(resampled(samples)) }),
    interruption: { type: "response.cancel" },
    farewell: null,
    hear: hearOpenAI,
  };
}

/** @param {any} event @returns {Heard} */
function hearOpenAI(event) {
  switch (event.type) {
    case "session.created":
      return { asksOpening: true };
    case "session.updated":
      return { isOpen: true };
    case "input_audio_buffer.speech_started":
      return { cuts: true };
    case "input_audio_buffer.speech_stopped":
      return { asks: true };
    case "response.output_audio.delta":
      return { answers: true, ...(event.delta ? { sound: decodePcm16(event.delta) } : {}) };
    case "response.output_audio_transcript.delta":
      return { text: String(event.delta ?? "") };
    case "response.output_text.delta":
      return { answers: true, text: String(event.delta ?? "") };
    case "conversation.item.input_audio_transcription.completed":
      return { userText: String(event.transcript ?? "") };
    case "response.done":
      return { endsTurn: true };
  }
  return errorIn(event);
}

/** @param {any} event @returns {Heard} */
function errorIn(event) {
  if (event.type !== "error") return {};
  return { error: String(event.error?.message ?? event.message ?? event.error ?? "") };
}
