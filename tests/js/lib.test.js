import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { decodeF32, encodeF32 } from "../../webroot/lib/audio/pcm.js";
import { EnergyVad } from "../../webroot/lib/audio/vad.js";
import { Captions, visiblePart } from "../../webroot/lib/captions.js";
import { Dictionary, pickLang } from "../../webroot/lib/i18n.js";
import { parseInline, parseMarkdown } from "../../webroot/lib/markdown.js";
import { SessionMetrics, quantile } from "../../webroot/lib/metrics.js";
import { DEFAULTS, openSettings, parseSettings } from "../../webroot/lib/settings.js";
import { Store } from "../../webroot/lib/store.js";
import { FakeClock } from "./fakes.js";

const texts = (lang) => JSON.parse(readFileSync(new URL(`../../webroot/i18n/${lang}.json`, import.meta.url), "utf8"));

test("float32 survives base64, in pieces larger than one slice", () => {
  const samples = Float32Array.from({ length: 30000 }, (_, i) => Math.sin(i));

  assert.deepEqual(decodeF32(encodeF32(samples)), samples);
});

test("bytes that are no whole samples are refused", () => {
  assert.throws(() => decodeF32(btoa("abc")), RangeError);
});

test("the VAD starts on speech, ends after its hangover, and ignores steady noise", () => {
  const vad = new EnergyVad({ onsetMs: 100, hangoverMs: 300 });
  const feed = (rms, count) => Array.from({ length: count }, () => vad.process(rms, 20)).filter(Boolean);

  assert.deepEqual(feed(0.004, 200), []);
  assert.deepEqual(feed(0.1, 10), ["start"]);
  assert.deepEqual(feed(0.004, 14), []);
  assert.deepEqual(feed(0.004, 2), ["end"]);
});

test("captions reveal whole words and single Chinese characters", () => {
  assert.equal(visiblePart("one two three four", 0.5), "one two ");
  assert.equal(visiblePart("你好世界", 0.5), "你好");
  assert.equal(visiblePart("anything", 1), "anything");
});

test("captions keep their order and forget what was not heard", () => {
  const captions = new Captions();
  captions.add("Hello there.", 0, 100);
  captions.add(" And more.", 100, 100);

  assert.equal(captions.advance(100), "Hello there.");
  assert.equal(captions.cut(110), "Hello there. And ");
  assert.equal(captions.advance(1000), "Hello there. And ");
});

test("quantiles interpolate, and nothing gives null", () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(quantile([], 0.5), null);
});

test("reply time runs from the user's last word to the first sound", () => {
  const clock = new FakeClock();
  const metrics = new SessionMetrics(clock.now);
  clock.advance(5000);
  metrics.userStopped(500);
  clock.advance(400);
  metrics.replyHeard();

  assert.equal(metrics.summary().replyP50Ms, 900);
});

test("results answer the oldest open chunk", () => {
  const clock = new FakeClock();
  const metrics = new SessionMetrics(clock.now);
  metrics.chunkSent();
  clock.advance(100);
  metrics.chunkSent();
  clock.advance(50);
  metrics.resultReceived({});

  assert.equal(metrics.summary().unitP50Ms, 150);
  assert.equal(metrics.outstanding, 1);
});

test("a store tells its subscribers only of real changes", () => {
  const store = new Store({ a: 1 });
  let calls = 0;
  store.subscribe(() => (calls += 1));
  store.set({ a: 1 });
  store.set({ a: 2 });

  assert.equal(calls, 2);
});

test("settings come back from storage", () => {
  const kept = new Map();
  const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
  openSettings(storage).set({ theme: "dark", volume: 0.5 });

  const again = openSettings(storage).value;
  assert.deepEqual([again.theme, again.volume], ["dark", 0.5]);
});

test("stored settings that make no sense fall back to the defaults", () => {
  const values = { theme: "pink", volume: 7, chunkMs: "x", stranger: 1, lang: "zh" };

  assert.deepEqual(parseSettings(JSON.stringify({ version: 1, values })), { ...DEFAULTS, lang: "zh" });
  assert.deepEqual(parseSettings("{broken"), { ...DEFAULTS });
  assert.deepEqual(parseSettings(JSON.stringify({ version: 99, values: { lang: "zh" } })), { ...DEFAULTS });
});

test("the language is chosen by address, store, browser, server, then Chinese", () => {
  assert.equal(pickLang({ query: "en", stored: "zh" }), "en");
  assert.equal(pickLang({ query: "fr", stored: "zh" }), "zh");
  assert.equal(pickLang({ browser: ["de-DE", "en-GB"], server: "zh" }), "en");
  assert.equal(pickLang({ browser: ["de"], server: "en" }), "en");
  assert.equal(pickLang({}), "zh");
});

test("texts take their parameters, and an unknown key shows itself", () => {
  const dictionary = new Dictionary("en", { wait: "{n} of {total}" });

  assert.equal(dictionary.t("wait", { n: 2, total: 5 }), "2 of 5");
  assert.equal(dictionary.t("missing.key"), "missing.key");
});

test("zh and en have the same keys and the same parameters", () => {
  const [zh, en] = [texts("zh"), texts("en")];
  const params = (text) => (text.match(/\{\w+\}/g) ?? []).sort();

  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  for (const key of Object.keys(en)) assert.deepEqual(params(zh[key]), params(en[key]), key);
});

test("markdown becomes a tree of known blocks", () => {
  const blocks = parseMarkdown("# T\n\none **two** `x`\n\n- a\n- b\n\n3. c\n\n> q\n\n```js\nlet a;\n```\n\n---");

  assert.deepEqual(blocks.map(({ type }) => type), ["heading", "paragraph", "list", "list", "quote", "pre", "rule"]);
  assert.equal(blocks[3].start, 3);
});

test("markdown knows no HTML and no script links", () => {
  assert.deepEqual(parseInline("<b>x</b>"), [{ type: "text", text: "<b>x</b>" }]);
  assert.deepEqual(parseInline("[x](javascript:alert(1))"), [{ type: "text", text: "[x](javascript:alert(1))" }]);
});

test("an unclosed fence runs to the end while it streams", () => {
  assert.deepEqual(parseMarkdown("```py\nprint("), [{ type: "pre", lang: "py", text: "print(" }]);
});
