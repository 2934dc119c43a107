/** What the operator keeps on the server's disk: uploaded voices, recorded conversations. */

import { api } from "../lib/admin.js";
import { clock } from "../lib/clock.js";
import { formatBytes, formatCount } from "../lib/format.js";
import { ask } from "../ui/dialog.js";
import { h, iconButton } from "../ui/h.js";
import { keyedList, put } from "../ui/keyed-list.js";
import { currentLang, setLabel, setPlaceholder, setText } from "../ui/text.js";
import { toast } from "../ui/toast.js";
import { panel, rowList, tell } from "./admin-parts.js";

/** Rows of the recordings that are drawn at first, and with each further press. */
const PAGE_ROWS = 20;
/** The server's own bound for an uploaded voice, bytes. */
const MAX_VOICE_BYTES = 64 * 2 ** 20;

/** @typedef {import("./admin-control.js").SlowPart} SlowPart */
/** @typedef {{id: string, name: string, duration_ms: number, created_at: string}} Voice */
/** @typedef {{session_id: string, app_type: string, title: string, created_at: string, duration_s: number|null, size_bytes: number, live: boolean}} Recorded */

/** @returns {SlowPart} */
export function voicesPanel() {
  const file = h("input", { class: "file-input", id: "voice-file", attrs: { type: "file", accept: "audio/*,video/*" } });
  const upload = h("label", { class: "button", icon: "upload", t: "admin.voice.upload", attrs: { for: file.id } });
  const { element, body, count } = panel("admin.voices", file, upload);
  const { list, none } = rowList("admin.voices.none");
  const player = h("audio", { attrs: { preload: "none" } });
  body.append(list, none, player);
  const draw = keyedList(list, { key: ({ id }) => id, make: (/** @type {Voice} */ voice) => voiceRow(voice, player, refresh), empty: none });
  async function refresh() {
    const { value } = await api.voices();
    if (!value?.ref_audios) return;
    draw(value.ref_audios);
    count(value.total);
  }
  file.addEventListener("change", async () => {
    const [chosen] = file.files ?? [];
    file.value = "";
    if (!chosen) return;
    if (chosen.size > MAX_VOICE_BYTES) return toast("admin.voice.too_large", { kind: "bad" });
    upload.classList.add("is-busy");
    const sound = await asBase64(chosen);
    if (sound === null) toast("admin.voice.unreadable", { kind: "bad" });
    else tell(await api.addVoice(chosen.name.replace(/\.[^.]+$/, "").slice(0, 200), sound), "admin.voice.added");
    upload.classList.remove("is-busy");
    await refresh();
  });
  return { element, refresh };
}

/** null for a file that is gone, or that may not be read. @param {File} file @returns {Promise<string|null>} */
function asBase64(file) {
  return new Promise((resolve) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result).split(",")[1] ?? "");
    reader.onerror = () => resolve(null);
    reader.readAsDataURL(file);
  });
}

/** @param {Voice} voice @param {HTMLAudioElement} player one for all: two at once would be noise @param {() => Promise<void>} refresh */
function voiceRow(voice, player, refresh) {
  const path = new URL(api.voicePath(voice.id), location.origin).href;
  const play = iconButton("play", "admin.voice.play", () => {
    if (player.src === path && !player.paused) return player.pause();
    player.src = path;
    player.play().catch(() => toast("admin.voice.silent", { kind: "bad" }));
  }, "small voice-play");
  const showPlaying = () => {
    const isPlaying = player.src === path && !player.paused && !player.ended;
    play.setAttribute("aria-pressed", String(isPlaying));
    setLabel(play, isPlaying ? "admin.voice.stop" : "admin.voice.play");
  };
  for (const type of ["play", "pause", "ended"]) player.addEventListener(type, showPlaying);
  const drop = async () => {
    if (!(await confirm("admin.voice.delete.title", "admin.voice.delete.text", { name: voice.name }))) return;
    if (player.src === path) player.pause();
    tell(await api.deleteVoice(voice.id), "admin.deleted");
    await refresh();
  };
  const note = h("span", { class: "row-note" });
  const row = h("li", { class: "row" },
    play,
    h("div", { class: "row-main" }, h("span", { class: "row-name" }, voice.name), note),
    h("div", { class: "row-buttons" }, iconButton("trash", "admin.voice.delete", () => void drop(), "small danger")));
  return { element: row, update: () => put(note, `${clock(voice.duration_ms)} · ${when(voice.created_at)}`) };
}

/** @returns {SlowPart} */
export function recordingsPanel() {
  const search = h("input", { class: "search", label: "admin.recordings.search", attrs: { type: "search", autocomplete: "off", spellcheck: "false" } });
  setPlaceholder(search, "admin.recordings.search");
  const { element, body, count } = panel("admin.recordings", search);
  const { list, none } = rowList("admin.recordings.none");
  const disk = h("p", { class: "panel-note" });
  const more = h("button", { class: "button quiet", t: "admin.more", attrs: { hidden: true } });
  body.append(disk, list, none, more);
  const draw = keyedList(list, { key: ({ session_id }) => session_id, make: (/** @type {Recorded} */ one) => recordedRow(one, refresh), empty: none });
  /** @type {Recorded[]} */ let all = [];
  let shown = PAGE_ROWS;
  const show = () => {
    const words = search.value.trim().toLowerCase().split(/\s+/);
    const found = all.filter((one) => words.every((word) => `${one.session_id} ${one.app_type} ${one.title}`.toLowerCase().includes(word)));
    setText(none, all.length ? "admin.recordings.no_match" : "admin.recordings.none");
    draw(found.slice(0, shown));
    more.hidden = found.length <= shown;
  };
  async function refresh() {
    const { value } = await api.recordings();
    if (!value?.sessions) return;
    all = value.sessions;
    count(value.total);
    const size = formatBytes(all.reduce((sum, { size_bytes }) => sum + size_bytes, 0), currentLang());
    setText(disk, all.length < value.total ? "admin.recordings.disk_part" : "admin.recordings.disk", { size, count: formatCount(all.length, currentLang()) });
    show();
  }
  search.addEventListener("input", () => ((shown = PAGE_ROWS), show()));
  more.addEventListener("click", () => ((shown += PAGE_ROWS), show()));
  return { element, refresh };
}

/** @param {Recorded} first @param {() => Promise<void>} refresh */
function recordedRow(first, refresh) {
  const id = first.session_id;
  const drop = async () => {
    if (!(await confirm("admin.recording.delete.title", "admin.recording.delete.text", { id }))) return;
    tell(await api.deleteRecording(id), "admin.deleted");
    await refresh();
  };
  const note = h("span", { class: "row-note" }), size = h("span", { class: "row-figure" }), length = h("span", { class: "row-note" });
  const remove = iconButton("trash", "admin.recording.delete", () => void drop(), "small danger");
  const row = h("li", { class: "row" },
    h("div", { class: "row-main" }, h("a", { class: "row-name", t: `admin.kind.${first.app_type}`, attrs: { href: `/s/${encodeURIComponent(id)}` } }), note, h("code", {}, id)),
    h("div", { class: "row-side" }, size, length),
    h("div", { class: "row-buttons" },
      h("a", { class: "icon-button small", icon: "download", label: "admin.recording.export", attrs: { href: api.exportPath(id), download: `${id}.zip` } }), remove));
  const update = (/** @type {Recorded} */ one) => {
    put(note, when(one.created_at));
    put(size, formatBytes(one.size_bytes, currentLang()));
    if (one.live) setText(length, "admin.recording.live");
    else put(length, one.duration_s === null ? "–" : clock(one.duration_s * 1000));
    remove.disabled = one.live;
  };
  return { element: row, update };
}

/** @param {string} title @param {string} text @param {import("../lib/i18n.js").Params} params */
async function confirm(title, text, params) {
  const buttons = [{ value: "", label: "action.cancel" }, { value: "yes", label: "admin.delete", isPrimary: true }];
  return (await ask({ icon: "trash", title, text: [text, params], buttons })) === "yes";
}

/** @param {string} iso */
function when(iso) {
  return new Date(iso).toLocaleString(currentLang(), { dateStyle: "medium", timeStyle: "short" });
}
