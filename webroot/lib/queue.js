/** The countdown of a waiting client: pure, with the clock passed in. */

/**
 * @typedef {object} QueueView what a queue card shows
 * @property {number} position 1-based
 * @property {number} queueLength
 * @property {number} remainingS seconds left, 0 when past the estimate
 * @property {number} overtimeS seconds past the estimate, 0 before
 * @property {number} progress 0..1 of the whole wait
 * @property {boolean} isEstimated false where the server could not tell how long it takes
 * @property {number} waitedS
 */

export class QueueCountdown {
  /** @type {() => number} */ #now;
  #startedMs = 0;
  #targetMs = 0;
  #position = 0;
  #queueLength = 0;
  #isEstimated = false;

  /** @param {() => number} now milliseconds of any steady clock */
  constructor(now) {
    this.#now = now;
  }

  /** True once the first queue message came. */
  get isWaiting() {
    return this.#position > 0;
  }

  /**
   * Take a `queued` or `queue_update`. A new estimate counts only when it is shorter than what is left or
   * when the position changed, so the countdown never jumps up without a reason the user can see.
   * @param {import("./protocol.js").QueueMessage} message
   */
  update(message) {
    const now = this.#now();
    const position = message.position ?? (this.#position || 1);
    const estimateMs = Math.max(0, message.estimated_wait_s ?? 0) * 1000;
    const isFirst = !this.isWaiting;
    if (isFirst) this.#startedMs = now;
    if (isFirst || position !== this.#position || now + estimateMs < this.#targetMs) {
      this.#targetMs = now + estimateMs;
    }
    if (estimateMs > 0) this.#isEstimated = true;
    this.#position = position;
    this.#queueLength = message.queue_length ?? Math.max(this.#queueLength, position);
  }

  /** @returns {QueueView} */
  read() {
    const now = this.#now();
    const leftMs = this.#targetMs - now;
    const waitedMs = now - this.#startedMs;
    const wholeMs = waitedMs + Math.max(0, leftMs);
    return {
      position: this.#position,
      queueLength: this.#queueLength,
      remainingS: Math.max(0, Math.ceil(leftMs / 1000)),
      overtimeS: Math.max(0, Math.floor(-leftMs / 1000)),
      progress: wholeMs > 0 && this.#isEstimated ? waitedMs / wholeMs : 0,
      isEstimated: this.#isEstimated,
      waitedS: Math.floor(waitedMs / 1000),
    };
  }
}
