/** A small reactive value: set a patch, subscribers hear of it. */

/** @template {object} T */
export class Store {
  /** @type {T} */ #value;
  /** @type {Set<(value: T, before: T) => void>} */ #subscribers = new Set();

  /** @param {T} initial */
  constructor(initial) {
    this.#value = Object.freeze({ ...initial });
  }

  get value() {
    return this.#value;
  }

  /** Merge *patch*; subscribers run only when something differs. @param {Partial<T>} patch */
  set(patch) {
    const before = this.#value;
    const next = Object.freeze({ ...before, ...patch });
    const keys = /** @type {(keyof T)[]} */ (Object.keys(next));
    if (keys.every((key) => Object.is(before[key], next[key]))) return;
    this.#value = next;
    for (const subscriber of [...this.#subscribers]) subscriber(next, before);
  }

  /**
   * Call *subscriber* now and on each change; returns the function that ends it.
   * @param {(value: T, before: T) => void} subscriber
   */
  subscribe(subscriber) {
    this.#subscribers.add(subscriber);
    subscriber(this.#value, this.#value);
    return () => this.#subscribers.delete(subscriber);
  }
}
