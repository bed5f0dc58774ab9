// The server's API: a chat in, pieces of the answer out. Knows nothing of the page.

/** What went wrong, in words for people. `status` 0: the server did not answer. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const WORDS = {
  0: "The server does not answer. Start it again with `gemma4gguf serve`; the page goes on by itself.",
  401: "The server wants its API key.",
  413: "This is more than the server takes at once. Leave something out.",
  429: "The model is at work for others. Try again in a moment.",
};

/** The model that is served: `{id, context}`; context in positions, or null. Also how one learns that a server is there. */
export async function servedModel(key) {
  const answer = await asked("/v1/models", { headers: headers(key), signal: AbortSignal.timeout(10_000) });
  const [model] = (await answer.json()).data;
  return { id: model.id, context: model.context_length ?? null };
}

/**
 * Ask, and call `on` with each piece: `{text}`, `{thought}`, `{calls}`, `{reason}`, `{usage}`, `{timings}`.
 * `body`: an OpenAI chat request. Throws Refused; an aborted `signal` ends it without an error.
 */
export async function answer(body, key, signal, on) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const options = { method: "POST", headers: headers(key), body: JSON.stringify(request), signal };
  try {
    const response = await asked("/v1/chat/completions", options);
    const calls = [];
    for await (const event of events(response.body)) {
      if (event === "[DONE]") return;
      const data = JSON.parse(event);
      if (data.error) throw new Refused(response.status, data.error.message);
      tell(data, calls, on);
    }
    throw new Refused(0, "The answer broke off: the server went away.");
  } catch (error) {
    if (signal.aborted) return;
    throw error instanceof Refused ? error : new Refused(0, WORDS[0]);
  }
}

/** Call `on` with what is new in a chunk of a stream. `calls`: those that the chunks before it began. */
export function tell(data, calls, on) {
  const [choice] = data.choices ?? [];
  const delta = choice?.delta ?? {};
  if (delta.content) on({ text: delta.content });
  if (delta.reasoning_content) on({ thought: delta.reasoning_content });
  for (const call of delta.tool_calls ?? []) gather(calls, call);
  if (delta.tool_calls) on({ calls: calls.map((call) => ({ ...call })) });
  if (choice?.finish_reason) on({ reason: choice.finish_reason });
  if (data.usage) on({ usage: data.usage });
  if (data.timings) on({ timings: data.timings });
}

function headers(key) {
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function asked(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (options.signal?.aborted && error.name === "AbortError") throw error;
    throw new Refused(0, WORDS[0]);
  }
  if (response.ok) return response;
  let said = "";
  try {
    said = (await response.json()).error.message;
  } catch {
    // no body, or not the API's: the status has to do
  }
  const known = WORDS[response.status];
  throw new Refused(response.status, known ?? (said || `The server answered with status ${response.status}.`));
}

/** A call comes in pieces that are told apart by `index`. */
function gather(calls, piece) {
  const call = (calls[piece.index ?? calls.length] ??= { id: "", name: "", arguments: "" });
  call.id ||= piece.id ?? "";
  call.name ||= piece.function?.name ?? "";
  call.arguments += piece.function?.arguments ?? "";
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}
