/** Texts by key in the chosen language. Knows no DOM: `ui/text.js` puts the words on the page. */

/** @typedef {"zh"|"en"} Lang */
/** @typedef {Record<string, string|number>} Params */

export const LANGS = /** @type {readonly Lang[]} */ (Object.freeze(["zh", "en"]));

/**
 * The language to begin with: address, stored choice, browser, server, Chinese.
 * @param {{query?: string|null, stored?: string, browser?: readonly string[], server?: string}} hints
 * @returns {Lang}
 */
export function pickLang({ query, stored, browser = [], server }) {
  const fromBrowser = browser.map((tag) => tag.slice(0, 2).toLowerCase());
  const candidates = [query, stored, ...fromBrowser, server, "zh"];
  return /** @type {Lang} */ (candidates.find((lang) => LANGS.includes(/** @type {Lang} */ (lang))));
}

export class Dictionary {
  /** @type {Lang} */ lang;
  /** @type {Record<string, string>} */ #texts;

  /** @param {Lang} lang @param {Record<string, string>} texts */
  constructor(lang, texts) {
    this.lang = lang;
    this.#texts = texts;
  }

  /** @param {string} key */
  has(key) {
    return Object.hasOwn(this.#texts, key);
  }

  /**
   * The text of *key* with `{name}` replaced from *params*; an unknown key shows itself.
   * @param {string} key
   * @param {Params} [params]
   */
  t(key, params = {}) {
    const text = this.#texts[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) =>
      Object.hasOwn(params, name) ? this.#format(params[name]) : whole,
    );
  }

  /** @param {string|number} value */
  #format(value) {
    if (typeof value === "string") return value;
    return new Intl.NumberFormat(this.lang, { maximumFractionDigits: 1 }).format(value);
  }
}
