/** Words that follow the voice: each text is tied to its sound and appears as that sound is played. */

/**
 * The part of *text* to show when *fraction* of its sound was heard; whole words, or characters where
 * the script has no spaces.
 * @param {string} text
 * @param {number} fraction
 */
export function visiblePart(text, fraction) {
  if (fraction >= 1) return text;
  const words = text.match(/[\u3040-\u30ff\u3400-\u9fff]|\s*[^\s\u3040-\u30ff\u3400-\u9fff]+\s*|\s+/g) ?? [];
  return words.slice(0, Math.ceil(words.length * Math.max(0, fraction))).join("");
}

export class Captions {
  /** @type {{text: string, start: number, length: number}[]} */ #pieces = [];
  #shown = "";

  /** What was revealed so far of this turn. */
  get shown() {
    return this.#shown;
  }

  get isComplete() {
    return this.#pieces.length === 0;
  }

  /**
   * @param {string} text
   * @param {number} start player position of the first sample of its sound
   * @param {number} length samples; 0 shows the text as soon as the position is reached
   */
  add(text, start, length) {
    if (text) this.#pieces.push({ text, start, length });
  }

  /**
   * Reveal up to *position*; returns the text to show now.
   * @param {number} position samples played
   */
  advance(position) {
    while (this.#pieces.length && position >= this.#pieces[0].start + this.#pieces[0].length) {
      this.#shown += /** @type {any} */ (this.#pieces.shift()).text;
    }
    const next = this.#pieces[0];
    if (!next || position <= next.start) return this.#shown;
    return this.#shown + visiblePart(next.text, (position - next.start) / next.length);
  }

  /** Forget what was never heard; returns the text that was. @param {number} position */
  cut(position) {
    this.#shown = this.advance(position);
    this.#pieces = [];
    return this.#shown;
  }
}
