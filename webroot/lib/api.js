/** Every HTTP call of the pages. Each gives up after a few seconds; absence of an endpoint is not an error. */

const TIMEOUT_MS = 5000;

/**
 * @param {string} path
 * @param {number} [timeoutMs]
 * @returns {Promise<any|null>} null when there is no such endpoint or no server
 */
export async function getJson(path, timeoutMs = TIMEOUT_MS) {
  try {
    const response = await fetch(path, { signal: AbortSignal.timeout(timeoutMs) });
    if (response.status === 401) signInAgain();
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** @typedef {{app_id: string, name: string, route: string}} App */

/** The enabled apps; null when the server does not tell. @returns {Promise<App[]|null>} */
export async function getApps() {
  const reply = await getJson("/api/apps");
  return Array.isArray(reply?.apps) ? reply.apps : null;
}

/** @returns {Promise<import("./protocol.js").FrontendDefaults>} */
export async function getDefaults() {
  const reply = await getJson("/api/frontend_defaults");
  return { playback_delay_ms: 200, ...(reply ?? {}) };
}

/**
 * @typedef {object} ServiceStatus
 * @property {number} total_workers
 * @property {number} idle_workers
 * @property {number} queue_length
 * @property {number} [free_slots] sessions that could start now; other servers count workers only
 */

/** null when the server is not reachable or not ready. @returns {Promise<ServiceStatus|null>} */
export async function getStatus() {
  return getJson("/status");
}

/**
 * @typedef {object} Preset
 * @property {string} id
 * @property {string} name
 * @property {string} description
 * @property {string} [system_prompt]
 * @property {{name: string}} [ref_audio] its sound is fetched when it is needed
 */

/** The presets of one mode, in their order. @param {string} mode @returns {Promise<Preset[]>} */
export async function getPresets(mode) {
  return (await getJson("/api/presets"))?.[mode] ?? [];
}

/** The voice of a preset: base64 of float32 at 16 kHz; null where it has none. @param {string} mode @param {string} id */
export async function getPresetAudio(mode, id) {
  return /** @type {string|null} */ ((await getJson(`/api/presets/${mode}/${id}/audio`))?.ref_audio?.data ?? null);
}

/** True when the server answers at all: tells a refused session from an absent server. */
export async function isServerUp() {
  return (await getJson("/health")) !== null;
}

/** The key is needed, or was taken back: lead there and come back afterwards. */
export function signInAgain() {
  if (typeof location === "undefined" || location.pathname === "/signin") return;
  location.assign(`/signin?next=${encodeURIComponent(location.pathname + location.search)}`);
}

/**
 * @param {string} key
 * @returns {Promise<"signed in"|"refused"|"too often"|"unreachable">}
 */
export async function signIn(key) {
  try {
    const response = await fetch("/api/signin", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ key }),
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    if (response.ok) return "signed in";
    return response.status === 429 ? "too often" : response.status < 500 ? "refused" : "unreachable";
  } catch {
    return "unreachable";
  }
}

/** @typedef {{needs_key: boolean, is_admin: boolean, key: {id: string, kind: "api"|"admin", name: string}|null}} Visitor */

/** Who the server takes this browser for; null when it does not tell. @returns {Promise<Visitor|null>} */
export async function getVisitor() {
  return getJson("/api/visitor");
}

/** Forget the key that this browser has shown. */
export async function signOut() {
  await fetch("/api/signout", { method: "POST", signal: AbortSignal.timeout(TIMEOUT_MS) }).catch(() => null);
}

/** The OpenAPI document of this server; null when it does not answer. */
export async function getDocument() {
  return getJson("/openapi.json");
}
