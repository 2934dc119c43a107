/** What a user chose, kept in one versioned place of the browser's storage. */

import { Store } from "./store.js";

const STORAGE_KEY = "omni.settings";
/** Raised when a stored value changes its meaning; older stores are then dropped key by key in migrate(). */
export const SETTINGS_VERSION = 1;

/**
 * @typedef {object} SettingsValues
 * @property {""|"zh"|"en"} lang "" follows the address, the browser, then the server
 * @property {"auto"|"light"|"dark"} theme
 * @property {string} micId "" is the system default
 * @property {string} speakerId
 * @property {number} volume 0..1
 * @property {boolean} echoCancellation
 * @property {string} systemPrompt "" is the server's own
 * @property {number} playbackDelayMs below 0 follows the server
 * @property {number} chunkMs asked of the engine
 * @property {boolean} clientBargeIn
 * @property {boolean} singleKeys
 * @property {boolean} chimes
 * @property {boolean} chatVoice
 * @property {number} chatMaxTokens
 * @property {number} vadThreshold
 * @property {number} vadSilenceMs
 * @property {boolean} micExplained the permission explainer was seen
 * @property {string} cameraId "" is the system default
 * @property {"user"|"environment"} cameraFacing the side of a phone
 * @property {boolean} mirrored the picture of oneself, on this page only
 * @property {boolean} isHd more detail in each picture
 * @property {boolean} captions words over the picture
 * @property {number} lengthPenalty above 1 the model says more
 * @property {string} omniPreset id of the preset in use, "" for none
 * @property {boolean} camExplained the explainer of camera and microphone was seen
 */

/** @type {Readonly<SettingsValues>} */
export const DEFAULTS = Object.freeze({
  lang: "",
  theme: "auto",
  micId: "",
  speakerId: "",
  volume: 1,
  echoCancellation: true,
  systemPrompt: "",
  playbackDelayMs: -50,
  chunkMs: 200,
  clientBargeIn: false,
  singleKeys: true,
  chimes: true,
  chatVoice: false,
  chatMaxTokens: 256,
  vadThreshold: 0.8,
  vadSilenceMs: 800,
  micExplained: false,
  cameraId: "",
  cameraFacing: "user",
  mirrored: true,
  isHd: false,
  captions: true,
  lengthPenalty: 1.1,
  omniPreset: "",
  camExplained: false,
});

/** Inclusive limits of the numbers. @type {Readonly<Record<string, [number, number]>>} */
export const LIMITS = Object.freeze({
  volume: [0, 1],
  playbackDelayMs: [-50, 2000],
  chunkMs: [100, 1000],
  chatMaxTokens: [16, 2048],
  lengthPenalty: [0.8, 1.4],
  vadThreshold: [0.1, 0.95],
  vadSilenceMs: [100, 3000],
});

/** @type {Readonly<Record<string, readonly string[]>>} */
const CHOICES = Object.freeze({ lang: ["", "zh", "en"], theme: ["auto", "light", "dark"], cameraFacing: ["user", "environment"] });

/**
 * The stored values that still make sense, over the defaults.
 * @param {string|null} text JSON as stored, or null
 * @returns {SettingsValues}
 */
export function parseSettings(text) {
  const values = /** @type {Record<string, any>} */ ({ ...DEFAULTS });
  /** @type {any} */ let stored = null;
  try {
    stored = JSON.parse(text ?? "null");
  } catch {
    stored = null;
  }
  if (stored?.version !== SETTINGS_VERSION || typeof stored.values !== "object") {
    return /** @type {any} */ (values);
  }
  for (const [key, value] of Object.entries(stored.values ?? {})) {
    if (isValid(key, value)) values[key] = value;
  }
  return /** @type {any} */ (values);
}

/** @param {string} key @param {unknown} value */
function isValid(key, value) {
  if (!(key in DEFAULTS) || typeof value !== typeof (/** @type {any} */ (DEFAULTS)[key])) return false;
  if (key in CHOICES) return CHOICES[key].includes(/** @type {string} */ (value));
  if (!(key in LIMITS)) return true;
  const [low, high] = LIMITS[key];
  return /** @type {number} */ (value) >= low && /** @type {number} */ (value) <= high;
}

/**
 * The settings of this browser; every change is written back at once.
 * @param {Pick<Storage, "getItem"|"setItem">|null} storage null where the browser offers none
 */
export function openSettings(storage) {
  /** @type {string|null} */ let text = null;
  try {
    text = storage?.getItem(STORAGE_KEY) ?? null;
  } catch {
    text = null;
  }
  const store = new Store(parseSettings(text));
  store.subscribe((values) => {
    try {
      storage?.setItem(STORAGE_KEY, JSON.stringify({ version: SETTINGS_VERSION, values }));
    } catch {
      // Private windows may refuse to store: the values then last as long as the page.
    }
  });
  return store;
}
