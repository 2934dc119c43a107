/** Home: what this is, what answers here, and the ways to talk with it. */

import { getDefaults } from "../lib/api.js";
import { h } from "../ui/h.js";
import { modeArt } from "../ui/mode-art.js";
import { showNotice } from "../ui/notice.js";
import { Orb } from "../ui/orb.js";
import { enabledPages, enabledTools, startShell, visitor } from "../ui/shell.js";
import { setText } from "../ui/text.js";

/** Rows of the comparison: text key, then one key for each mode in the order of PAGES. */
const COMPARISON = ["turns", "interrupt", "input", "output", "best"];

/** A made-up conversation for the two shapes in the hero: who is heard, for how long, s. @type {["you"|"ai", number][]} */
const SCENE = [["you", 3.2], ["ai", 4.2], ["you", 1.8], ["ai", 2.6]];

function hero() {
  const you = new Orb("hero-orb hero-you");
  const ai = new Orb("hero-orb hero-ai");
  playScene(you, ai);
  return h("section", { class: "hero" },
    h("div", { class: "hero-words" },
      h("p", { class: "eyebrow", t: "home.eyebrow" }),
      h("h1", { t: "home.headline" }),
      h("p", { class: "lead", t: "home.lead" }),
      h("div", { class: "hero-buttons" },
        h("a", { class: "button primary large", icon: "mic", t: "home.talk", attrs: { href: "/audio_duplex" } }),
        h("a", { class: "button large", icon: "chat", t: "home.write", attrs: { href: "/turnbased" } })),
      h("p", { class: "hero-note", icon: "info", t: "home.headphones" }),
    ),
    h("div", { class: "hero-art", attrs: { "aria-hidden": "true" } }, you.element, ai.element),
  );
}

/** @param {Orb} you @param {Orb} ai */
function playScene(you, ai) {
  const totalS = SCENE.reduce((sum, [, seconds]) => sum + seconds, 0);
  setInterval(() => {
    let at = (performance.now() / 1000) % totalS;
    const [who] = SCENE.find(([, seconds]) => (at -= seconds) < 0) ?? SCENE[0];
    const speech = Math.max(0, Math.sin(performance.now() / 130) * Math.sin(performance.now() / 610));
    you.setMood("listening");
    you.setLevel(who === "you" ? 0.4 * speech : 0);
    ai.setMood(who === "ai" ? "speaking" : "waiting");
    ai.setLevel(who === "ai" ? 0.5 * speech : 0);
  }, 60);
}

/** @param {import("../lib/protocol.js").FrontendDefaults} defaults */
function engineCard(defaults) {
  const isKnown = Boolean(defaults.engine || defaults.model_name);
  const name = h("strong", {}, defaults.model_name || defaults.engine || "");
  if (!isKnown) setText(name, "home.engine_unknown");
  const notice = h("p", { class: "engine-notice" });
  showNotice(notice, defaults);
  return h("section", { class: "engine-card", label: "home.answering" },
    h("div", { class: "engine-icon", icon: "chip" }),
    h("div", { class: "engine-words" },
      h("p", { class: "eyebrow", t: "home.answering" }),
      h("p", { class: "engine-name" }, name, defaults.engine ? h("span", { class: "tag" }, defaults.engine) : null),
      notice),
  );
}

/** @param {readonly import("../ui/shell.js").PageLink[]} pages */
function modeCards(pages) {
  return h("div", { class: "mode-cards" }, ...pages.map(({ route, icon, name, appId }) =>
    h("a", { class: `mode-card mode-${appId}`, attrs: { href: route } },
      h("span", { class: "mode-picture" }, modeArt(appId)),
      h("h3", { t: name, icon }),
      h("p", { t: `home.${appId}` }),
      h("span", { class: "mode-go", t: "home.open", icon: "arrow" }))));
}

/** @param {readonly import("../ui/shell.js").PageLink[]} pages */
function comparison(pages) {
  return h("div", { class: "table-scroll", label: "home.compare", attrs: { role: "region", tabindex: "0" } },
    h("table", { class: "comparison" },
      h("thead", {}, h("tr", {}, h("td", {}), ...pages.map(({ name }) => h("th", { t: name, attrs: { scope: "col" } })))),
      h("tbody", {}, ...COMPARISON.map((row) =>
        h("tr", {}, h("th", { t: `compare.${row}`, attrs: { scope: "row" } }), ...pages.map(({ appId }) => h("td", { t: `compare.${row}.${appId}` })))))));
}

/** What programmers and operators come for. @param {readonly import("../ui/shell.js").PageLink[]} tools @param {boolean} isAdmin */
function toolLinks(tools, isAdmin) {
  const links = [...tools, { route: "/docs", icon: "chip", name: "home.api" }, ...(isAdmin ? [{ route: "/admin", icon: "gauge", name: "nav.admin" }] : [])];
  return h("div", { class: "tool-links" }, ...links.map(({ route, icon, name }) =>
    h("a", { class: "tool-link", icon, attrs: { href: route } }, h("span", { class: "tool-words" }, h("strong", { t: name }), h("span", { t: `home.tool${route.replace("/", ".")}` })))));
}

async function main() {
  await startShell("home.title");
  const root = /** @type {HTMLElement} */ (document.getElementById("main"));
  const engine = h("div", { class: "engine-slot" });
  root.append(hero(), engine);
  const [pages, tools, defaults, found] = await Promise.all([enabledPages(), enabledTools(), getDefaults(), visitor()]);
  engine.append(engineCard(defaults));
  for (const link of root.querySelectorAll(".hero-buttons > a")) {
    if (!pages.some(({ route }) => route === link.getAttribute("href"))) link.remove();
  }
  const omni = pages.find(({ appId }) => appId === "omni");
  if (omni) root.querySelector(".hero-buttons")?.insertBefore(h("a", { class: "button large", icon: omni.icon, t: omni.name, attrs: { href: omni.route } }), root.querySelector(".hero-buttons > a[href='/turnbased']"));
  root.append(
    h("section", { class: "section" }, h("h2", { t: "home.modes" }), modeCards(pages)),
    h("section", { class: "section" }, h("h2", { t: "home.compare" }), comparison(pages)),
    h("section", { class: "section" }, h("h2", { t: "home.tools" }), toolLinks(tools, found?.is_admin ?? false)),
    h("footer", { class: "footer" }, h("p", { t: "home.privacy" }), defaults.recording && h("p", { t: "home.recorded" })),
  );
}

void main();
