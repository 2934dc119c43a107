/** The operator's page: what the server does now, and the switches. Who has no admin key is told so. */

import { follow, readLive } from "../lib/admin.js";
import { getDefaults, signOut } from "../lib/api.js";
import { UnitHistory } from "../lib/unit-history.js";
import { h } from "../ui/h.js";
import { put } from "../ui/keyed-list.js";
import { startShell, visitor as whoAsks } from "../ui/shell.js";
import { signInForm } from "../ui/signin-form.js";
import { onLangChange, setText } from "../ui/text.js";
import { appsPanel, etaPanel } from "./admin-control.js";
import { recordingsPanel, voicesPanel } from "./admin-files.js";
import { linePanel, talkingPanel, tiles, unitsPanel, workersPanel } from "./admin-live.js";

const LIVE_EVERY_MS = 2000;
/** Lists that only an operator changes. */
const SLOW_EVERY_MS = 20000;
const TICK_MS = 1000;

/** @typedef {import("../lib/admin.js").Live} Live */

class AdminPage {
  #history = new UnitHistory();
  /** @type {{live: Live, atMs: number}|null} */ #last = null;
  #isLost = false;
  #word = h("span", { t: "admin.connecting" });
  #pill = h("p", { class: "badge connection", id: "connection", attrs: { role: "status" } }, h("span", { class: "dot" }), this.#word);
  #facts = h("p", { class: "admin-facts" });
  #engine = h("span", {});
  #version = h("span", {});
  /** @type {import("./admin-live.js").Part[]} */ #live;
  /** @type {import("./admin-control.js").SlowPart[]} */ #slow;

  constructor() {
    const now = () => void this.#readNow();
    const [talking, line] = [talkingPanel(now), linePanel(now)];
    this.#live = [tiles(this.#history), workersPanel(), talking, line, unitsPanel(this.#history)];
    this.#slow = [appsPanel(), etaPanel(), voicesPanel(), recordingsPanel()];
  }

  /** @param {import("../lib/api.js").Visitor|null} visitor */
  mount(visitor) {
    const [figures, workers, talking, line, units] = this.#live.map(({ element }) => element);
    const [apps, eta, voices, recordings] = this.#slow.map(({ element }) => element);
    this.#facts.append(this.#engine, this.#version, ...access(visitor));
    document.getElementById("main")?.append(
      h("header", { class: "admin-head" }, h("div", {}, h("h1", { t: "admin.headline" }), this.#facts), this.#pill),
      figures,
      h("div", { class: "admin-columns" },
        h("div", { class: "admin-column" }, workers, talking, line, recordings),
        h("div", { class: "admin-column" }, units, apps, eta, voices)));
    onLangChange(() => (this.#draw(), void this.#refreshSlow()));
  }

  run() {
    void follow({ read: readLive, show: (live) => this.#take(live), everyMs: LIVE_EVERY_MS, isWatched: untilVisible });
    void this.#nameEngine();
    void this.#refreshSlow();
    setInterval(() => document.hidden || this.#isLost || void this.#refreshSlow(), SLOW_EVERY_MS);
    setInterval(() => this.#draw(), TICK_MS);
  }

  /** @param {Live|null} live */
  #take(live) {
    const wasLost = this.#isLost;
    this.#isLost = live === null;
    document.body.classList.toggle("is-lost", this.#isLost);
    this.#pill.dataset.state = live ? "ready" : "offline";
    setText(this.#word, live ? "admin.live" : "admin.lost");
    if (!live) return;
    this.#last = { live, atMs: performance.now() };
    this.#history.add(this.#last.atMs, live.metrics);
    put(this.#version, `omni ${live.version}`);
    this.#draw();
    if (wasLost) void this.#nameEngine().then(() => this.#refreshSlow());
  }

  /** The newest reading, moved on by the time since then. */
  #draw() {
    if (!this.#last || this.#isLost) return;
    const ageS = (performance.now() - this.#last.atMs) / 1000;
    for (const { show } of this.#live) show(this.#last.live, ageS);
  }

  async #readNow() {
    this.#take(await readLive());
  }

  async #refreshSlow() {
    await Promise.all(this.#slow.map(({ refresh }) => refresh()));
  }

  async #nameEngine() {
    const { engine, model_name } = await getDefaults();
    if (engine) put(this.#engine, model_name ? `${engine} · ${model_name}` : engine);
    else setText(this.#engine, "admin.no_engine");
  }
}

/** Resolves at once where the page is seen, else when it is seen again. @returns {Promise<void>} */
function untilVisible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", () => resolve(), { once: true }));
}

/** As whom the page is used. @param {import("../lib/api.js").Visitor|null} visitor */
function access(visitor) {
  if (!visitor?.key) return [h("span", { t: "admin.open" })];
  const leave = async () => {
    await signOut();
    location.assign("/signin?next=/admin");
  };
  return [h("span", { t: ["admin.signed_in", { name: visitor.key.name || visitor.key.id }] }), h("button", { class: "text-button", t: "admin.sign_out", on: { click: () => void leave() } })];
}

/** @param {import("../lib/api.js").Visitor} visitor */
function ordinaryKey({ key }) {
  return h("section", { class: "panel needs-admin" },
    h("div", { class: "card-icon", icon: "gauge" }),
    h("h1", { t: "admin.ordinary.title" }),
    h("p", { t: ["admin.ordinary.text", { name: key?.name || key?.id || "" }] }),
    signInForm(() => location.reload()),
    h("p", { class: "panel-note", t: "admin.ordinary.note" }));
}

async function main() {
  await startShell("admin.title");
  const visitor = await whoAsks();
  if (visitor && !visitor.is_admin) return document.getElementById("main")?.append(ordinaryKey(visitor));
  const page = new AdminPage();
  page.mount(visitor);
  page.run();
}

void main();
