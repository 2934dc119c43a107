/** Puts the texts of the chosen language on the page, and again when it changes. */

import { getDefaults, getJson } from "../lib/api.js";
import { Dictionary, pickLang } from "../lib/i18n.js";

/** @typedef {import("../lib/i18n.js").Params} Params */

let dictionary = new Dictionary("en", {});
/** @type {Map<string, Record<string, string>>} */
const loaded = new Map();
/** @type {Set<() => void>} */
const listeners = new Set();

/** @param {string} key @param {Params} [params] */
export function t(key, params) {
  return dictionary.t(key, params);
}

/** @param {string} key */
export function hasText(key) {
  return dictionary.has(key);
}

export function currentLang() {
  return dictionary.lang;
}

/** Show the text of *key* and remember it. @param {Element} element @param {string} key @param {Params} [params] */
export function setText(element, key, params) {
  const data = /** @type {HTMLElement} */ (element).dataset;
  data.i18n = key;
  if (params) data.i18nParams = JSON.stringify(params);
  else delete data.i18nParams;
  const text = t(key, params);
  if (element.textContent !== text) element.textContent = text;
}

/** The accessible name and tooltip. @param {Element} element @param {string} key */
export function setLabel(element, key) {
  /** @type {HTMLElement} */ (element).dataset.i18nLabel = key;
  element.setAttribute("aria-label", t(key));
  element.setAttribute("title", t(key));
}

/** @param {Element} element @param {string} key */
export function setPlaceholder(element, key) {
  /** @type {HTMLElement} */ (element).dataset.i18nPlaceholder = key;
  element.setAttribute("placeholder", t(key));
}

/** Call *listener* when the language changes, for text that keys alone cannot say. @param {() => void} listener */
export function onLangChange(listener) {
  listeners.add(listener);
}

/**
 * Choose the language and load its texts; the server is asked only if nothing else decides. Later changes of the setting follow by themselves.
 * @param {import("../lib/store.js").Store<import("../lib/settings.js").SettingsValues>} settings
 */
export async function initLanguage(settings) {
  const query = new URLSearchParams(location.search).get("lang");
  const hints = { query, stored: settings.value.lang, browser: navigator.languages, server: "en" };
  const isOpen = pickLang(hints) !== pickLang({ ...hints, server: "zh" });
  hints.server = (isOpen && (await getDefaults()).default_lang) || "";
  await useLanguage(pickLang(hints));
  settings.subscribe((value, before) => {
    if (value.lang !== before.lang) void useLanguage(pickLang({ ...hints, query: null, stored: value.lang }));
  });
}

/** @param {import("../lib/i18n.js").Lang} lang */
async function useLanguage(lang) {
  const texts = await textsOf(lang);
  if (!texts) return;
  dictionary = new Dictionary(lang, texts);
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  applyTexts(document);
  listeners.forEach((listener) => listener());
}

/** null where they cannot be had now; the next one who asks may have more luck. @param {string} lang */
async function textsOf(lang) {
  const known = loaded.get(lang);
  if (known) return known;
  const texts = /** @type {Record<string, string>|null} */ (await getJson(new URL(`../i18n/${lang}.json`, import.meta.url).pathname));
  if (texts) loaded.set(lang, texts);
  return texts;
}

/** @param {ParentNode} root */
function applyTexts(root) {
  for (const element of root.querySelectorAll("[data-i18n]")) {
    const { i18n, i18nParams } = /** @type {HTMLElement} */ (element).dataset;
    setText(element, /** @type {string} */ (i18n), i18nParams ? JSON.parse(i18nParams) : undefined);
  }
  for (const element of root.querySelectorAll("[data-i18n-label]")) {
    setLabel(element, /** @type {any} */ (element).dataset.i18nLabel);
  }
  for (const element of root.querySelectorAll("[data-i18n-placeholder]")) {
    setPlaceholder(element, /** @type {any} */ (element).dataset.i18nPlaceholder);
  }
}
