/** Omni full duplex: as the audio session, and one picture with each second of sound. */

import { DuplexSession } from "./duplex.js";
import { CAPTURE_RATE_HZ, MAX_BUFFERED_BYTES, newSessionId } from "./protocol.js";
import { HD_SLICES, PLAIN_SLICES } from "./video/frame.js";

/** A picture goes with the chunk that completes this much sound since the last one, ms. */
const FRAME_EVERY_MS = 1000;
/** Pictures give way before sound does when the uplink is slow. */
const MAX_FRAME_BUFFERED_BYTES = MAX_BUFFERED_BYTES / 2;
/** A picture that takes longer goes with the next second: sound does not wait for it, ms. */
const GRAB_TIMEOUT_MS = 200;

/**
 * @typedef {{frame: import("./video/camera.js").Frame, maxSlices: number}} Taken
 * @typedef {import("./duplex.js").DuplexOptions & import("./video/camera.js").CameraOptions & {isHd?: boolean}} OmniOptions
 */

/** Adds to DuplexSession: `frame` {width, height, bytes} for each picture sent. `parts.camera` gives the pictures. */
export class OmniSession extends DuplexSession {
  id = newSessionId("omni");
  isHd = false;
  /** Chunks leave in the order in which they were heard, also when one waits for its picture. */
  /** @type {Promise<void>} */ #line = Promise.resolve();
  #soundMs = FRAME_EVERY_MS;
  #isSlow = false;
  /** @type {Taken|null} what came too late for its own second */ #late = null;

  get maxSlices() {
    return this.isHd ? HD_SLICES : PLAIN_SLICES;
  }

  async openMedia() {
    this.isHd = this.options.isHd ?? false;
    await super.openMedia(); // first: sound needs the click that started this
    if (!this.parts.camera.isOpen) await this.parts.camera.open(this.options);
  }

  prepareMessage() {
    return { ...super.prepareMessage(), max_slice_nums: this.maxSlices };
  }

  /** @param {Float32Array} samples */
  takeSound(samples) {
    const frame = this.#isFrameDue(samples) ? this.#takeFrame() : null;
    this.#line = this.#line.then(async () => this.sendSound(samples, frame ? await frame : {}));
  }

  /** @param {Float32Array} samples */
  #isFrameDue(samples) {
    this.#soundMs += (samples.length / CAPTURE_RATE_HZ) * 1000;
    if (this.state !== "live" || this.#soundMs < FRAME_EVERY_MS) return false;
    this.#soundMs = 0;
    return true;
  }

  /** The fields that a picture adds to its chunk; none where there is no picture. */
  async #takeFrame() {
    if (this.bufferedAmount > MAX_FRAME_BUFFERED_BYTES) return this.#skipFrame();
    const maxSlices = this.maxSlices;
    const taking = this.#grab(maxSlices);
    void taking.then((taken) => (this.#late = taken));
    const now = await inTime(taking);
    const taken = now === undefined ? this.#late : now;
    this.#late = null;
    return taken ? this.#sendFrame(taken) : this.#skipFrame(false);
  }

  /** null where the camera gives none. @param {number} maxSlices @returns {Promise<Taken|null>} */
  async #grab(maxSlices) {
    const frame = await this.parts.camera.grab(maxSlices).catch(() => null);
    return frame && { frame, maxSlices };
  }

  /** @param {Taken} taken */
  #sendFrame({ frame, maxSlices }) {
    this.#isSlow = false;
    this.metrics.frameSent(frame.bytes);
    this.emit("frame", { width: frame.width, height: frame.height, bytes: frame.bytes });
    return { frame_base64_list: [frame.base64], max_slice_nums: maxSlices };
  }

  /** @param {boolean} isSlow the uplink is the reason, which is said once */
  #skipFrame(isSlow = true) {
    this.metrics.framesSkipped += 1;
    if (isSlow && !this.#isSlow) this.warn("slow_pictures");
    this.#isSlow = isSlow;
    return {};
  }
}

/** undefined for what takes too long. @template T @param {Promise<T>} taking @returns {Promise<T|undefined>} */
async function inTime(taking) {
  /** @type {any} */ let timer = 0;
  const late = new Promise((resolve) => (timer = setTimeout(() => resolve(undefined), GRAB_TIMEOUT_MS)));
  try {
    return /** @type {T|undefined} */ (await Promise.race([taking, late]));
  } finally {
    clearTimeout(timer);
  }
}
