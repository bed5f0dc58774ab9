// Chats in the browser's own storage. A chat is plain data:
//   {id, title, updated, system, thinking, temperature, tools, messages}
// and a message {role, text, thought, calls, media, stats, note, cut}: `cut` if there is more to come; media are
// {kind: "image" | "audio", url, name}, calls {id, name, arguments}; a tool's message has the call's id and name.

const STORE = "chats";

/** All chats by id, and the way to change them; every change is written at once. */
export class Store {
  static async open() {
    const database = await promised(
      Object.assign(indexedDB.open("gemma4gguf", 1), {
        onupgradeneeded: (event) => event.target.result.createObjectStore(STORE, { keyPath: "id" }),
      }),
    );
    return new Store(database, await promised(database.transaction(STORE).objectStore(STORE).getAll()));
  }

  constructor(database, chats) {
    this.database = database;
    this.chats = new Map(chats.map((chat) => [chat.id, chat]));
  }

  /** The chats, the latest first. */
  all() {
    return [...this.chats.values()].sort((a, b) => b.updated - a.updated);
  }

  /** Keep a chat as it is now. Throws what the browser says, for instance that its storage is full. */
  async put(chat) {
    this.chats.set(chat.id, chat);
    await promised(this.#writable().put(structuredClone(chat)));
  }

  async remove(id) {
    this.chats.delete(id);
    await promised(this.#writable().delete(id));
  }

  #writable() {
    return this.database.transaction(STORE, "readwrite").objectStore(STORE);
  }
}

export function newChat(before) {
  const { system = "", thinking = false, temperature = null, tools = "" } = before ?? {};
  const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`; // a plain http address has no randomUUID
  return { id, title: "New chat", updated: Date.now(), system, thinking, temperature, tools, messages: [] };
}

/** The request that asks for a chat's next answer, or, with `going`, for the rest of its last one. */
export function request(chat, model, going = false) {
  const messages = chat.messages.filter(saysSomething).map(apiMessage);
  if (chat.system.trim()) messages.unshift({ role: "system", content: chat.system });
  return {
    model,
    messages,
    chat_template_kwargs: { enable_thinking: chat.thinking },
    ...(chat.temperature !== null && { temperature: chat.temperature }),
    ...(chat.tools.trim() && { tools: JSON.parse(chat.tools) }),
    ...(going && { continue_final_message: true }),
  };
}

/** The calls of the last answer that wait for a result: their ids. */
export function openCalls(chat) {
  const answered = [];
  for (const message of chat.messages.toReversed()) {
    if (message.role !== "tool") return (message.calls ?? []).map(({ id }) => id).filter((id) => !answered.includes(id));
    answered.push(message.id);
  }
  return [];
}

/** Not so an answer that was stopped, or failed, before its first word. */
function saysSomething({ role, text, calls }) {
  return role !== "assistant" || text || calls?.length;
}

function apiMessage({ role, text, thought, calls = [], media = [], id }) {
  if (role === "tool") return { role, tool_call_id: id, content: text };
  if (role === "assistant") {
    const tool_calls = calls.map(({ id, name, arguments: given }) => ({
      id,
      type: "function",
      function: { name, arguments: given },
    }));
    return { role, content: text, ...(calls.length && { tool_calls }), ...(thought && { reasoning_content: thought }) };
  }
  if (!media.length) return { role, content: text };
  const seen = media.filter((one) => one.kind === "image");
  const heard = media.filter((one) => one.kind === "audio");
  // The order that the model's card recommends: pictures, text, sound.
  return { role, content: [...seen.map(imagePart), { type: "text", text }, ...heard.map(soundPart)] };
}

function imagePart({ url }) {
  return { type: "image_url", image_url: { url } };
}

function soundPart({ url, name }) {
  const format = name.includes(".") ? name.split(".").pop().toLowerCase() : "wav";
  return { type: "input_audio", input_audio: { data: url.slice(url.indexOf(",") + 1), format } };
}

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
