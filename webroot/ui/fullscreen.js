/** The whole screen for the stage: the browser's own full screen, and a layout of the page where it has none (iPhones). */

export class FullScreen {
  #onChange;
  #isOn = false;

  /** @param {(isOn: boolean) => void} onChange */
  constructor(onChange) {
    this.#onChange = onChange;
    document.addEventListener("fullscreenchange", () => {
      if (!document.fullscreenElement) this.#show(false);
    });
  }

  get isOn() {
    return this.#isOn;
  }

  /** The layout alone: full screen needs a touch or a click, a layout does not. */
  fill() {
    this.#show(true);
  }

  async toggle() {
    if (this.#isOn) return this.leave();
    this.#show(true);
    try {
      await document.documentElement.requestFullscreen({ navigationUI: "hide" });
      await /** @type {any} */ (screen.orientation).lock(screen.orientation.type);
    } catch {
      // No full screen, or no fixed orientation: the layout fills the window all the same.
    }
  }

  leave() {
    this.#show(false);
    if (document.fullscreenElement) void document.exitFullscreen();
  }

  /** @param {boolean} isOn */
  #show(isOn) {
    if (isOn === this.#isOn) return;
    this.#isOn = isOn;
    document.body.classList.toggle("is-full", isOn);
    this.#onChange(isOn);
  }
}
