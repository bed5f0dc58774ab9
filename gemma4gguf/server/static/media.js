// Files and the microphone to media: `{kind: "image" | "audio", url, name}`, the url a data: URL.

const MOST_BYTES = 64 << 20;
export const RATE = 16_000; // samples a second: what the model hears
const LONGEST = 30; // seconds of sound the model hears at once

/** A file as a medium. Throws an Error in words for people. */
export async function medium(file) {
  const kind = file.type.startsWith("image/") ? "image" : /^(audio|video)\//.test(file.type) ? "audio" : null;
  if (!kind) throw new Error(`${file.name}: is neither a picture nor sound.`);
  if (file.size > MOST_BYTES) throw new Error(`${file.name}: is larger than 64 MB.`);
  return { kind, name: file.name || kind, url: await dataUrl(file) };
}

/** Hand the microphone's samples to `on`, RATE a second, until the function that it returns is called. */
export async function microphone(on) {
  if (!navigator.mediaDevices) throw new Error("The browser gives the microphone to localhost and https pages only.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    const none = error.name === "NotFoundError";
    throw new Error(none ? "There is no microphone." : "The browser does not allow the microphone for this page.");
  }
  const context = new AudioContext({ sampleRate: RATE });
  await context.audioWorklet.addModule("recorder.js");
  const source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "recorder");
  node.port.onmessage = ({ data }) => on(data);
  source.connect(node);
  let off = null; // a context can be closed but once
  return () => {
    node.port.onmessage = null;
    for (const track of stream.getTracks()) track.stop();
    return (off ??= context.close());
  };
}

/** Record from the microphone until `stop()`, at most 30 seconds; `done` resolves to a medium. */
export async function record() {
  const pieces = [];
  const off = await microphone((piece) => pieces.push(piece));
  let stop;
  const stopped = new Promise((resolve) => (stop = resolve));
  const late = setTimeout(stop, LONGEST * 1000);
  const done = stopped.then(async () => {
    clearTimeout(late);
    await off();
    return clip(pieces);
  });
  return { stop, done };
}

/** Recorded samples as a medium. */
export async function clip(pieces) {
  const name = `recording-${new Date().toTimeString().slice(0, 8).replaceAll(":", "")}.wav`;
  return { kind: "audio", name, url: await dataUrl(new Blob([wav(pieces)], { type: "audio/wav" })) };
}

/** 16-bit mono WAV of float samples, -1 to 1. */
function wav(pieces) {
  const samples = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = 44;
  for (const piece of pieces) {
    for (const sample of piece) {
      view.setInt16(at, Math.max(-1, Math.min(1, sample)) * 0x7fff, true);
      at += 2;
    }
  }
  return view.buffer;
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${blob.name ?? "The file"}: cannot be read.`));
    reader.readAsDataURL(blob);
  });
}
