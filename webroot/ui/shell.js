/** What every page has around it: navigation, language, theme, service state. */

import { getApps, getStatus } from "../lib/api.js";
import { openSettings } from "../lib/settings.js";
import { h, iconButton } from "./h.js";
import { brandMark, icon } from "./icons.js";
import { currentLang, initLanguage, setLabel, setText } from "./text.js";

/** @typedef {{appId: string, route: string, icon: string, name: string}} PageLink `name` is a text key */

/** Pages that exist here, in the order of the navigation. @type {readonly PageLink[]} */
export const PAGES = Object.freeze([
  { appId: "audio_duplex", route: "/audio_duplex", icon: "wave", name: "nav.audio" },
  { appId: "half_duplex_audio", route: "/half_duplex", icon: "turns", name: "nav.half" },
  { appId: "turnbased", route: "/turnbased", icon: "chat", name: "nav.chat" },
]);

const STATUS_EVERY_MS = 10000;
const THEMES = /** @type {const} */ (["auto", "light", "dark"]);
const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export const settings = openSettings(globalThis.localStorage ?? null);

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
  fillLinks(links, PAGES);
  void enabledPages().then((pages) => fillLinks(links, pages));
  return h("header", { class: "nav" },
    h("a", { class: "brand", attrs: { href: "/", "aria-label": "omni" } }, brandMark(), h("span", {}, "omni")),
    links,
    h("div", { class: "nav-tools" }, statusBadge(), languageSwitch(), themeSwitch()),
  );
}

/** The pages whose app is enabled; all of them when the server does not tell. */
export async function enabledPages() {
  const apps = await getApps();
  return apps ? PAGES.filter(({ appId }) => apps.some(({ app_id }) => app_id === appId)) : PAGES;
}

/** @param {HTMLElement} links @param {readonly PageLink[]} pages */
function fillLinks(links, pages) {
  const here = location.pathname;
  links.replaceChildren(...pages.map(({ route, icon: name, name: key }) =>
    h("a", { class: "nav-link", icon: name, t: key, attrs: { href: route, "aria-current": here === route && "page" } })));
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
  const show = () => (button.textContent = currentLang() === "zh" ? "EN" : "中");
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
