/** Keeps the screen on during a call. Browsers let it go whenever the page is hidden: it is asked for again. */

export class Awake {
  /** @type {WakeLockSentinel|null} */ #lock = null;
  #isWanted = false;

  constructor() {
    document.addEventListener("visibilitychange", () => document.hidden || !this.#isWanted || void this.#ask());
  }

  /** @param {boolean} isWanted */
  keep(isWanted) {
    this.#isWanted = isWanted;
    if (isWanted) return void this.#ask();
    void this.#lock?.release();
    this.#lock = null;
  }

  async #ask() {
    const lock = await navigator.wakeLock?.request("screen").catch(() => null);
    const spare = this.#isWanted ? this.#lock : lock; // the call may have ended meanwhile
    if (this.#isWanted) this.#lock = lock ?? null;
    void spare?.release();
  }
}
