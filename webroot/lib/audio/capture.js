/** The microphone: permission, device, mute; chunks of 16 kHz sound and levels come as events. */

import { SessionError, errorFromMedia } from "../errors.js";

const WORKLET_URL = new URL("./capture.worklet.js", import.meta.url);

/**
 * @typedef {object} CaptureOptions
 * @property {string} [micId]
 * @property {boolean} [echoCancellation]
 */

/** Events: `chunk` (detail Float32Array, 16 kHz), `level` ({rms, peak, ms}), `lost` (the device went away). */
export class Capture extends EventTarget {
  /** @type {AudioContext|null} */ #context = null;
  /** @type {MediaStream|null} */ #stream = null;
  /** @type {AudioWorkletNode|null} */ #node = null;
  /** Counts open() and close(): whoever was asked for meanwhile is let go again. */
  #turn = 0;
  isMuted = false;

  /**
   * Ask for the microphone and start measuring its level. Closed meanwhile, it stays closed.
   * Raises: SessionError `insecure`, `unsupported` or `mic_*`.
   * @param {CaptureOptions} options
   */
  async open(options) {
    if (!globalThis.isSecureContext) throw new SessionError("insecure");
    if (!navigator.mediaDevices?.getUserMedia || !globalThis.AudioWorkletNode) {
      throw new SessionError("unsupported");
    }
    this.close();
    const turn = this.#turn;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: constraints(options) });
      if (turn !== this.#turn) return stream.getTracks().forEach((track) => track.stop());
      await this.#wire(stream, turn);
    } catch (cause) {
      if (turn !== this.#turn) return;
      this.close();
      throw errorFromMedia(cause, "mic");
    }
  }

  /** Send chunks of this length from now on. @param {number} chunkMs */
  start(chunkMs) {
    this.#node?.port.postMessage({ type: "start", chunkMs });
  }

  /** Send no more chunks; levels go on. */
  stop() {
    this.#node?.port.postMessage({ type: "stop" });
  }

  close() {
    this.#turn += 1;
    this.#node?.port.close();
    this.#stream?.getTracks().forEach((track) => {
      track.onended = null;
      track.stop();
    });
    void this.#context?.close();
    this.#node = this.#stream = this.#context = null;
  }

  /** @param {MediaStream} stream @param {number} turn */
  async #wire(stream, turn) {
    this.#stream = stream;
    const context = new AudioContext({ latencyHint: "interactive" });
    this.#context = context;
    stream.getAudioTracks()[0].onended = () => this.dispatchEvent(new Event("lost"));
    await context.audioWorklet.addModule(WORKLET_URL);
    if (turn !== this.#turn) return; // close() has closed both
    const node = new AudioWorkletNode(context, "omni-capture", {
      numberOfInputs: 1,
      numberOfOutputs: 0,
      channelCount: 1,
      channelCountMode: "explicit",
    });
    node.port.onmessage = ({ data }) => this.#relay(data);
    context.createMediaStreamSource(stream).connect(node);
    this.#node = node;
    await context.resume();
  }

  /** @param {any} message */
  #relay(message) {
    if (message.type === "chunk") {
      if (this.isMuted) message.samples.fill(0);
      this.dispatchEvent(new CustomEvent("chunk", { detail: message.samples }));
    } else {
      const { rms, peak, ms } = message;
      const detail = this.isMuted ? { rms: 0, peak: 0, ms } : { rms, peak, ms };
      this.dispatchEvent(new CustomEvent("level", { detail }));
    }
  }
}

/** @param {CaptureOptions} options @returns {MediaTrackConstraints} */
function constraints({ micId, echoCancellation = true }) {
  return {
    channelCount: 1,
    echoCancellation,
    noiseSuppression: echoCancellation,
    autoGainControl: echoCancellation,
    ...(micId ? { deviceId: { exact: micId } } : {}),
  };
}
