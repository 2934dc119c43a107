/** Audio full duplex: a conversation in which both may speak at any time. */

import { delayText, slider, textArea, toggle } from "../ui/controls.js";
import { settings } from "../ui/shell.js";
import { startLivePage } from "./live.js";

void startLivePage({
  name: "audio",
  loadSession: async () => (await import("../lib/duplex.js")).DuplexSession,
  canPause: true,
  options: () => {
    const { systemPrompt, chunkMs, clientBargeIn } = settings.value;
    return { systemPrompt, chunkMs, clientBargeIn };
  },
  controls: () => [
    slider("volume", { step: 0.05, show: (value) => ["settings.percent", { value: Math.round(value * 100) }] }),
    textArea("systemPrompt"),
    toggle("clientBargeIn"),
    toggle("echoCancellation"),
    slider("playbackDelayMs", { step: 50, show: delayText }),
    slider("chunkMs", { step: 100, show: (value) => ["settings.ms", { value }] }),
    toggle("chimes"),
    toggle("singleKeys"),
  ],
  keys: [
    ["Ctrl Enter", "keys.start"], ["Space", "keys.hold"], ["M", "keys.mute"], ["P", "keys.pause"],
    ["Esc Esc", "keys.end"], ["?", "keys.help"],
  ],
});
