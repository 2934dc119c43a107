/** What every page has around it: navigation, language, theme, service state. */

import { getApps, getStatus, getVisitor } from "../lib/api.js";
import { openSettings } from "../lib/settings.js";
import { h, iconButton } from "./h.js";
import { brandMark, icon } from "./icons.js";
import { currentLang, initLanguage, setLabel, setText } from "./text.js";

/** @typedef {{appId: string, route: string, icon: string, name: string}} PageLink `name` is a text key */

/** Pages that exist here, in the order of the navigation. @type {readonly PageLink[]} */
export const PAGES = Object.freeze([
  { appId: "audio_duplex", route: "/audio_duplex", icon: "wave", name: "nav.audio" },
  { appId: "omni", route: "/omni", icon: "video", name: "nav.omni" },
  { appId: "half_duplex_audio", route: "/half_duplex", icon: "turns", name: "nav.half" },
  { appId: "turnbased", route: "/turnbased", icon: "chat", name: "nav.chat" },
]);

/** Pages for who writes programs; narrow screens have them on the home page alone. @type {readonly PageLink[]} */
const TOOLS = Object.freeze([{ appId: "realtime", route: "/realtime", icon: "code", name: "nav.realtime" }]);

const STATUS_EVERY_MS = 10000;
const THEMES = /** @type {const} */ (["auto", "light", "dark"]);
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export const settings = openSettings(storage());

/** null where the browser keeps nothing for this page: even looking may be forbidden. */
function storage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null;
  }
}

/**
 * Load the language and put the navigation on the page. Resolves when texts can be shown.
 * @param {string} titleKey
 */
export async function startShell(titleKey) {
  await initLanguage(settings);
  const title = document.querySelector("title");
  if (title) setText(title, titleKey);
  settings.subscribe(({ theme }) => applyTheme(theme));
  document.body.prepend(skipLink(), navigation());
  void followStatus();
}

function skipLink() {
  return h("a", { class: "skip-link", t: "nav.skip", attrs: { href: "#main" } });
}

function navigation() {
  const links = h("nav", { class: "nav-links", label: "nav.main" });
  fillLinks(links, PAGES, TOOLS);
  void Promise.all([enabledPages(), enabledTools()]).then(([pages, tools]) => fillLinks(links, pages, tools));
  return h("header", { class: "nav" },
    h("a", { class: "brand", attrs: { href: "/", "aria-label": "omni" } }, brandMark(), h("span", {}, "omni")),
    links,
    h("div", { class: "nav-tools" }, statusBadge(), adminLink(), languageSwitch(), themeSwitch()),
  );
}

/** @type {Map<() => Promise<any>, Promise<any>>} */
const asked = new Map();

/** What the server says to a question that one page needs to ask but once. @template T @param {() => Promise<T>} question @returns {Promise<T>} */
function once(question) {
  if (!asked.has(question)) asked.set(question, question());
  return /** @type {Promise<T>} */ (asked.get(question));
}

/** Who the server takes this browser for; null when it does not tell. */
export const visitor = () => once(getVisitor);

/** The pages whose app is enabled; all of them when the server does not tell. */
export const enabledPages = () => enabled(PAGES);
export const enabledTools = () => enabled(TOOLS);

/** @param {readonly PageLink[]} links */
async function enabled(links) {
  const apps = await once(getApps);
  return apps ? links.filter(({ appId }) => apps.some(({ app_id }) => app_id === appId)) : links;
}

/** @param {HTMLElement} links @param {readonly PageLink[]} pages @param {readonly PageLink[]} tools */
function fillLinks(links, pages, tools) {
  const here = location.pathname;
  const link = (/** @type {PageLink} */ { route, icon: name, name: key }, className = "nav-link") =>
    h("a", { class: className, icon: name, t: key, attrs: { href: route, "aria-current": here === route && "page" } });
  links.replaceChildren(...pages.map((page) => link(page)), ...tools.map((tool) => link(tool, "nav-link nav-wide")));
}

/** To the operator's page, for whoever may use it. */
function adminLink() {
  const isHere = location.pathname === "/admin" && "page";
  const link = h("a", { class: "icon-button nav-wide", icon: "gauge", label: "nav.admin", attrs: { href: "/admin", "aria-current": isHere }, props: { hidden: true } });
  void visitor().then((found) => (link.hidden = !found?.is_admin));
  return link;
}

function statusBadge() {
  return h("span", { class: "status-badge", id: "service", attrs: { role: "status" } },
    h("span", { class: "dot" }), h("span", { class: "status-text", t: "status.checking" }));
}

async function followStatus() {
  const badge = /** @type {HTMLElement} */ (document.getElementById("service"));
  const text = /** @type {HTMLElement} */ (badge.querySelector(".status-text"));
  const show = async () => {
    if (document.hidden) return;
    const status = await getStatus();
    const [state, key] = statusWords(status);
    badge.dataset.state = state;
    setText(text, key, status ? { idle: status.idle_workers ?? 0, total: status.total_workers ?? 0, waiting: status.queue_length ?? 0 } : {});
    badge.title = text.textContent ?? "";
  };
  await show();
  setInterval(show, STATUS_EVERY_MS);
}

/** @param {import("../lib/api.js").ServiceStatus|null} status @returns {[string, string]} */
function statusWords(status) {
  if (!status) return ["offline", "status.offline"];
  if (status.queue_length > 0) return ["busy", "status.waiting"];
  return (status.free_slots ?? status.idle_workers) > 0 ? ["ready", "status.ready"] : ["busy", "status.busy"];
}

function languageSwitch() {
  const button = h("button", { class: "icon-button lang-switch", label: "nav.language" });
  const show = () => Object.assign(button, currentLang() === "zh" ? { textContent: "EN", lang: "en" } : { textContent: "中", lang: "zh-CN" });
  button.addEventListener("click", () => settings.set({ lang: currentLang() === "zh" ? "en" : "zh" }));
  new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["lang"] });
  show();
  return button;
}

function themeSwitch() {
  const button = iconButton("auto", "theme.auto", () => {
    settings.set({ theme: THEMES[(THEMES.indexOf(settings.value.theme) + 1) % THEMES.length] });
  });
  settings.subscribe(({ theme }) => {
    button.replaceChildren(icon(THEME_ICONS[theme]));
    setLabel(button, `theme.${theme}`);
  });
  return button;
}

/** @param {"auto"|"light"|"dark"} theme */
function applyTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("themechange"));
}
