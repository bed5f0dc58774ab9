// A spoken conversation: the microphone goes to the server, what it hears and answers comes back. Knows no page.

import { Refused, WORDS, tell } from "./api.js";
import { RATE, clip, microphone } from "./media.js";

const PIECE = RATE / 10; // samples in a message
const BEFORE = 0.2; // seconds that are kept from before a turn

/**
 * Talk until `close()`; `end()` listens no more, and closes when what was said is answered.
 * `body`: an OpenAI chat request of what was said before, with the `text` that is told before each turn.
 * `on` gets `{listening}`, by what turns end; for each turn `{speech}`, `{turn}`, a medium, then the pieces of its answer
 * and `{over}`, "done" or "stopped"; at last `{closed}`, an Error or null. Throws an Error in words for people.
 */
export async function talk(body, key, on) {
  let samples = []; // pieces that were recorded, from sample number `first` on
  let first = 0;
  let unsent = []; // pieces
  let speaking = false;
  let answering = false;
  let ending = false; // what was said is still answered
  let closed = false;
  let failure = null;
  let calls = [];
  let last = Promise.resolve(); // events are taken one after another
  let socket = null;
  const off = await microphone((piece) => {
    samples.push(piece);
    unsent.push(piece);
    if (unsent.length * piece.length < PIECE || socket?.readyState !== WebSocket.OPEN) return;
    socket.send(joined(unsent));
    unsent = [];
  });
  const protocols = ["gemma4gguf", ...(key ? [`gemma4gguf.key.${base64url(key)}`] : [])];
  socket = new WebSocket(new URL("/v1/listen", location).href.replace(/^http/, "ws"), protocols);
  let opened = false;
  socket.onopen = () => {
    opened = true;
    const options = { rate: RATE, format: "f32", stream_options: { include_usage: true } };
    socket.send(JSON.stringify({ ...body, ...options }));
  };
  socket.onmessage = ({ data }) => (last = last.then(() => take(JSON.parse(data))));
  socket.onclose = () =>
    (last = last.then(async () => {
      await off();
      if (!ending && !closed && !failure) failure = new Refused(0, opened ? "The server listens no more." : WORDS[0]);
      await on({ closed: failure });
    }));

  /** What was recorded from one second to another. What lies before is not needed any more. */
  function cut(start, end) {
    const whole = joined(samples);
    const to = Math.min(whole.length, Math.round(end * RATE) - first);
    const found = whole.slice(Math.max(0, Math.round((start - BEFORE) * RATE) - first), to);
    samples = [whole.slice(to)];
    first += to;
    return found;
  }

  async function take(event) {
    if (closed) return;
    if (event.error) failure = new Refused(0, event.error.message);
    else if (event.type === "listening") await on({ listening: event.turns });
    else if (event.type === "speech") {
      speaking = true;
      await on({ speech: true });
    } else if (event.type === "turn") {
      speaking = false;
      answering = true;
      calls = [];
      await on({ turn: await clip([cut(event.start, event.end)]) });
    } else if (event.type) {
      answering = false;
      await on({ over: event.type });
      if (ending) socket.close();
    } else tell(event, calls, on);
  }

  function close() {
    closed = true;
    off();
    socket.close();
  }

  function end() {
    if (!speaking && !answering) return close();
    ending = true;
    off();
    if (speaking) socket.send(JSON.stringify({ type: "end" }));
  }

  return { close, end };
}

function joined(pieces) {
  const whole = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}

function base64url(text) {
  const bytes = String.fromCharCode(...new TextEncoder().encode(text));
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
