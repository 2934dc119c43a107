/** The same call as a program: short, whole, and ready to run. */

import { Route } from "./protocol.js";

/** @typedef {"javascript"|"python"} Language */
/** @typedef {{dialect: import("./realtime-dialects.js").DialectName, mode: "audio"|"video", instructions: string, origin: string, needsKey: boolean}} Wanted */

export const LANGUAGES = /** @type {readonly Language[]} */ (["javascript", "python"]);

/** @param {Language} language @param {Wanted} wanted */
export function snippet(language, wanted) {
  const write = { javascript: { r1: scriptR1, r2: scriptR2, openai: scriptOpenAI }, python: { r1: pythonR1, r2: pythonR2, openai: pythonOpenAI } };
  return write[language][wanted.dialect](wanted);
}

/** @param {Wanted} wanted */
function socketOf({ origin, dialect, mode, needsKey }) {
  const url = origin.replace(/^http/, "ws") + Route.realtime(dialect, mode);
  return `new WebSocket(${JSON.stringify(url)}${needsKey ? ', ["realtime", "omni-key.YOUR_KEY"]' : ""})`;
}

/** @param {Wanted} wanted */
function scriptR1(wanted) {
  return `// One second of sound in each event: base64 of float32, 16 kHz. Here it is silence.
const second = btoa("\\0".repeat(4 * 16000));
const socket = ${socketOf(wanted)};
const send = (event) => socket.send(JSON.stringify(event));
let talking;

socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  console.log(event.type, event.text ?? "");
  if (event.type === "session.queue_done")
    send({ type: "session.update", session: { instructions: ${JSON.stringify(wanted.instructions)} } });
  if (event.type === "session.created")
    talking = setInterval(() => send({ type: "input_audio_buffer.append", audio: second }), 1000);
  if (event.type === "response.output_audio.delta" && event.audio) {
    // event.audio: base64 of float32, 24 kHz
  }
};
socket.onclose = ({ code, reason }) => {
  clearInterval(talking);
  console.log("closed", code, reason);
};
// send({ type: "session.close" }) ends the session
`;
}

/** @param {Wanted} wanted */
function scriptR2(wanted) {
  return `// One second of sound in each event: base64 of float32, 16 kHz. Here it is silence.
const second = btoa("\\0".repeat(4 * 16000));
const socket = ${socketOf(wanted)};
const send = (event) => socket.send(JSON.stringify(event));
let talking;

socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  console.log(event.type, event.kind ?? "", event.text ?? "");
  if (event.type === "session.queue_done")
    send({ type: "session.init", payload: { system_prompt: ${JSON.stringify(wanted.instructions)} } });
  if (event.type === "session.created")
    talking = setInterval(() => send({ type: "input.append", input: { audio: second } }), 1000);
  if (event.kind === "audio") {
    // event.audio: base64 of float32, 24 kHz
  }
};
socket.onclose = ({ code, reason }) => {
  clearInterval(talking);
  console.log("closed", code, reason);
};
// send({ type: "session.close" }) ends the session
`;
}

/** @param {Wanted} wanted */
function scriptOpenAI(wanted) {
  return `const socket = ${socketOf(wanted)};
const send = (event) => socket.send(JSON.stringify(event));

socket.onmessage = ({ data }) => {
  const event = JSON.parse(data);
  if (event.type === "session.created") {
    send({ type: "session.update", session: { type: "realtime", instructions: ${JSON.stringify(wanted.instructions)} } });
    const content = [{ type: "input_text", text: "Hello, who are you?" }];
    send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
    send({ type: "response.create" });
  }
  if (event.type === "response.output_audio_transcript.delta") console.log(event.delta);
  // event.delta of "response.output_audio.delta": base64 of 16-bit PCM, 24 kHz
  if (event.type === "response.done") socket.close();
};
`;
}

/** @param {Wanted} wanted */
function certificateNote({ origin }) {
  return origin.startsWith("https") ? "# for the server's own certificate: SSL_CERT_FILE=data/certs/cert.pem\n" : "";
}

/** @param {Wanted} wanted */
function pythonR1(wanted) {
  const { origin, mode, instructions, needsKey } = wanted;
  return `# pip install aiohttp
${certificateNote(wanted)}import asyncio
import base64

import aiohttp

URL = ${JSON.stringify(origin + Route.realtime("r1", mode))}
SECOND = base64.b64encode(bytes(4 * 16_000)).decode()  # silence: float32, 16 kHz


async def main():
    async with (
        aiohttp.ClientSession(${needsKey ? 'headers={"Authorization": "Bearer YOUR_KEY"}' : ""}) as http,
        http.ws_connect(URL) as socket,
    ):
        num_units = 0
        async for message in socket:
            event = message.json()
            print(event["type"], event.get("text", ""))
            if event["type"] == "session.queue_done":
                session = {"instructions": ${JSON.stringify(instructions)}}
                await socket.send_json({"type": "session.update", "session": session})
            elif event["type"] == "session.created" or event["type"].startswith("response."):
                # event.get("audio") of a delta: base64 of float32, 24 kHz
                if (num_units := num_units + 1) > 5:
                    await socket.send_json({"type": "session.close"})
                else:
                    append = {"type": "input_audio_buffer.append", "audio": SECOND}
                    await socket.send_json(append)


asyncio.run(main())
`;
}

/** @param {Wanted} wanted */
function pythonR2(wanted) {
  const { origin, mode, instructions, needsKey } = wanted;
  return `# pip install openbmb-realtime
${certificateNote(wanted)}import asyncio

from openbmb_realtime import AudioDelta, RealtimeClient, TextDelta, TurnCompleted

SECOND = bytes(4 * 16_000)  # silence: float32, 16 kHz


async def talk(session):
    while True:
        await session.send_audio(SECOND)
        await asyncio.sleep(1)


async def main():
    client = RealtimeClient(
        api_key=${needsKey ? '"YOUR_KEY"' : '"any"'}, base_url=${JSON.stringify(origin)}, connect_timeout=300
    )
    session = await client.${mode}.connect(model="any", system_prompt=${JSON.stringify(instructions)})
    talking = asyncio.create_task(talk(session))
    async for event in session:
        if isinstance(event, TextDelta):
            print(event.text, end="", flush=True)
        elif isinstance(event, AudioDelta):
            print(f"[{len(event.audio) // 4 / 24_000:.1f} s of sound]")
        elif isinstance(event, TurnCompleted):
            break
    talking.cancel()
    await session.close()


asyncio.run(main())
`;
}

/** @param {Wanted} wanted */
function pythonOpenAI(wanted) {
  const { origin, instructions, needsKey } = wanted;
  return `# pip install openai
${certificateNote(wanted)}import asyncio

from openai import AsyncOpenAI


async def main():
    client = AsyncOpenAI(base_url=${JSON.stringify(`${origin}/v1`)}, api_key=${needsKey ? '"YOUR_KEY"' : '"any"'})
    async with client.realtime.connect(model="any") as connection:
        await connection.session.update(
            session={"type": "realtime", "instructions": ${JSON.stringify(instructions)}}
        )
        content = [{"type": "input_text", "text": "Hello, who are you?"}]
        message = {"type": "message", "role": "user", "content": content}
        await connection.conversation.item.create(item=message)
        await connection.response.create()
        async for event in connection:
            if event.type == "response.output_audio_transcript.delta":
                print(event.delta, end="", flush=True)
            elif event.type == "response.done":
                print(f"\\n{event.response.status}")
                break


asyncio.run(main())
`;
}
