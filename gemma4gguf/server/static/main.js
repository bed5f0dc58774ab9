// The page: chats at the left, one chat in the middle, and what a person does with it.

import { Refused, answer, servedModel } from "./api.js";
import { element } from "./markdown.js";
import { medium, record } from "./media.js";
import { Store, newChat, openCalls, request } from "./store.js";
import { talk } from "./talk.js";
import { MessageView, copy, mediaView, room, stats } from "./view.js";

const byId = (id) => document.getElementById(id);
const KEY = "gemma4gguf-key"; // the API key, for as long as the tab is open
const LOOK_AGAIN = 3000; // ms until a server that is gone is asked for again

const store = await Store.open();
let chat = store.all()[0] ?? newChat();
let attached = [];
let asking = null; // an AbortController while an answer comes
let recording = null;
let talking = null; // a spoken conversation, while there is one
let model = null; // {id, context}, or null while no server answers

// ── the server ──────────────────────────────────────────────────────────────────────────────────────────────────

async function look() {
  try {
    model = await servedModel(sessionStorage.getItem(KEY));
    byId("model").textContent = model.id;
    say("");
  } catch (error) {
    model = null;
    byId("model").textContent = "";
    say(error.message);
    if (error.status === 401) await askForKey();
    setTimeout(look, error.status === 401 ? 0 : LOOK_AGAIN);
  }
}

async function askForKey() {
  byId("key").value = "";
  byId("ask-key").showModal();
  await new Promise((resolve) => byId("ask-key").addEventListener("close", resolve, { once: true }));
  sessionStorage.setItem(KEY, byId("key").value);
}

/** Tell the person something; an empty text takes it back. */
function say(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

// ── a chat ──────────────────────────────────────────────────────────────────────────────────────────────────────

function openChat(other) {
  asking?.abort();
  talking?.close();
  chat = other;
  attached = [];
  showMenu(false);
  show();
  toEnd();
  byId("text").focus();
}

const views = new WeakMap(); // of messages, so that what is there is not drawn again

function show() {
  byId("title").textContent = chat.title;
  document.title = `${chat.title} · gemma4gguf`;
  const open = asking ? [] : openCalls(chat);
  byId("messages").replaceChildren(
    ...chat.messages.map((message) => {
      if (!views.has(message)) views.set(message, new MessageView(message, answerCall));
      const view = views.get(message);
      view.update(open, asking ? {} : actionsOf(message));
      growth.observe(view.item);
      return view.item;
    }),
  );
  byId("counts").textContent = chat.room ?? "";
  showAttached();
  showChats();
}

// The end stays in sight while a person is there: a picture that loads and an answer that grows move it.
let atEnd = true;
const growth = new ResizeObserver(() => atEnd && toEnd());

function toEnd() {
  const box = byId("messages");
  atEnd = true;
  box.scrollTop = box.scrollHeight;
}

function actionsOf(message) {
  const last = message === chat.messages.at(-1);
  return {
    ...(message.text && { Copy: (button) => copy(message.text, button) }),
    ...(message.role === "user" && { Edit: () => edit(message) }),
    ...(message.role === "assistant" && { "Try again": () => tryAgain(message) }),
    ...(last && message.cut && { Continue: () => ask(message) }),
  };
}

function showChats() {
  byId("chats").replaceChildren(
    ...store.all().map((one) => {
      const item = document.createElement("li");
      const button = element("button", item);
      button.type = "button";
      button.dir = "auto";
      button.textContent = one.title;
      if (one.id === chat.id) button.setAttribute("aria-current", "true");
      button.onclick = () => openChat(one);
      return item;
    }),
  );
}

async function keep(one) {
  one.updated = Date.now();
  try {
    await store.put(one);
  } catch (error) {
    say(`This chat cannot be kept: ${error.message || error.name}. Export it, or delete others.`);
  }
  showChats();
}

// ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

function send() {
  const text = byId("text").value.trim();
  if ((!text && !attached.length) || asking) return;
  talking?.close();
  if (!chat.messages.length) chat.title = text.slice(0, 60) || attached[0].name;
  chat.messages.push({ role: "user", text, media: attached });
  attached = [];
  byId("text").value = "";
  ask();
}

function answerCall(call, text) {
  chat.messages.push({ role: "tool", id: call.id, name: call.name, text });
  if (openCalls(chat).length) show();
  else ask();
}

function tryAgain(message) {
  chat.messages.splice(chat.messages.indexOf(message));
  ask();
}

function edit(message) {
  byId("text").value = message.text;
  attached = [...message.media];
  chat.messages.splice(chat.messages.indexOf(message));
  show();
  byId("text").focus();
}

/** Ask for the next answer, or for the rest of `started`. */
async function ask(started = null) {
  const mine = chat;
  const body = request(mine, model?.id ?? "", started !== null);
  asking = new AbortController();
  const { signal } = asking;
  const coming = begin(mine, started ?? newAnswer());
  let note = "";
  try {
    await answer(body, sessionStorage.getItem(KEY), signal, coming.take);
    note = signal.aborted ? "Stopped." : "";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    note = error.message;
    if (error.status === 0 || error.status === 401) look();
  } finally {
    await coming.end(note);
  }
}

const newAnswer = () => ({ role: "assistant", text: "", thought: "", calls: [] });

/** Show an answer that comes: `take` is told its pieces, `end` a note. */
function begin(mine, message) {
  Object.assign(message, { stats: "", note: "", cut: false });
  if (!mine.messages.includes(message)) mine.messages.push(message);
  busy(true);
  show();
  toEnd();
  const view = views.get(message);
  view.item.classList.add("working");
  const last = {}; // what comes at the end: why it ended, and counts
  const take = ({ text = "", thought = "", calls, ...rest }) => {
    message.text += text;
    message.thought += thought;
    if (calls) message.calls = calls;
    Object.assign(last, rest);
    view.draw();
  };
  const end = async (note) => {
    message.note = note;
    message.cut = Boolean(message.text) && last.reason !== "stop" && last.reason !== "tool_calls";
    message.stats = stats(last);
    mine.room = room(last.usage, model?.context);
    asking = null;
    busy(false);
    view.item.classList.remove("working");
    view.draw(true);
    await keep(mine);
    show();
  };
  return { take, end };
}

// ── talking ─────────────────────────────────────────────────────────────────────────────────────────────────────

const PAUSE = { silence: "Pause to be answered.", message: "Press Talk again to be answered." };

async function toggleTalk() {
  if (talking) return talking.end();
  asking?.abort();
  const mine = chat;
  const body = { ...request(mine, model?.id ?? ""), text: byId("text").value.trim() };
  let coming = null; // the answer under way
  let listening = ""; // what is said of that
  const over = async (note) => {
    const ended = coming;
    coming = null;
    await ended?.end(note);
  };
  const on = async (event) => {
    if (event.listening) say((listening = `Listening. ${PAUSE[event.listening]}`));
    else if (event.speech) say("Hearing you.");
    else if (event.turn) {
      say(listening);
      if (!mine.messages.length) mine.title = body.text.slice(0, 60) || "Spoken chat";
      mine.messages.push({ role: "user", text: body.text, media: [event.turn] });
      asking = { abort: () => talking?.close() };
      coming = begin(mine, newAnswer());
    } else if (event.over) await over(event.over === "done" ? "" : "Stopped.");
    else if ("closed" in event) {
      talking = null;
      byId("talk").setAttribute("aria-pressed", "false");
      say(event.closed?.message ?? "");
      await over(event.closed?.message ?? "Stopped.");
    } else coming?.take(event);
  };
  byId("talk").disabled = true; // while the browser asks for the microphone
  try {
    talking = await talk(body, sessionStorage.getItem(KEY), on);
    byId("talk").setAttribute("aria-pressed", "true");
    byId("text").value = "";
  } catch (error) {
    say(error.message);
  }
  byId("talk").disabled = false;
}

function busy(now) {
  byId("stop").hidden = !now;
  byId("send").hidden = now;
  byId("messages").setAttribute("aria-busy", String(now));
}

// ── pictures and sound ──────────────────────────────────────────────────────────────────────────────────────────

function showAttached() {
  const remove = (index) => {
    attached.splice(index, 1);
    showAttached();
    byId("text").focus();
  };
  byId("attached").replaceWith(Object.assign(mediaView(attached, remove), { id: "attached" }));
  byId("attached").setAttribute("aria-label", "Attached");
  byId("attached").hidden = !attached.length;
}

async function attach(files) {
  for (const file of files) {
    try {
      attached.push(await medium(file));
    } catch (error) {
      say(error.message);
    }
  }
  showAttached();
}

async function toggleRecording() {
  if (recording) {
    recording.stop();
    return;
  }
  try {
    recording = await record();
    byId("microphone").setAttribute("aria-pressed", "true");
    attached.push(await recording.done);
  } catch (error) {
    say(error.message);
  }
  recording = null;
  byId("microphone").setAttribute("aria-pressed", "false");
  showAttached();
}

// ── what a person does ──────────────────────────────────────────────────────────────────────────────────────────

function showMenu(open) {
  byId("side").classList.toggle("open", open);
  byId("menu").setAttribute("aria-expanded", String(open));
}

function exportChat() {
  const file = new Blob([JSON.stringify(chat, null, 1)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${chat.title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "chat"}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function deleteChat() {
  await store.remove(chat.id);
  openChat(store.all()[0] ?? newChat(chat));
}

function openSettings() {
  byId("system").value = chat.system;
  byId("temperature").value = chat.temperature ?? "";
  byId("thinking").checked = chat.thinking;
  byId("tools").value = chat.tools;
  byId("settings").showModal();
}

function takeSettings(event) {
  const tools = byId("tools").value;
  try {
    if (tools.trim() && !Array.isArray(JSON.parse(tools))) throw new Error("expected a list, [...]");
    byId("tools-error").hidden = true;
  } catch (error) {
    event.preventDefault();
    byId("tools-error").textContent = `Not JSON: ${error.message}`;
    byId("tools-error").hidden = false;
    return;
  }
  const degrees = byId("temperature").valueAsNumber;
  chat.system = byId("system").value;
  chat.temperature = Number.isNaN(degrees) ? null : degrees;
  chat.thinking = byId("thinking").checked;
  chat.tools = tools;
  if (chat.messages.length) keep(chat);
}

const media = (transfer) => [...transfer.files].filter((file) => /^(image|audio|video)\//.test(file.type));

byId("new").onclick = () => openChat(newChat(chat));
byId("menu").onclick = () => showMenu(!byId("side").classList.contains("open"));
byId("export").onclick = exportChat;
byId("delete").onclick = () => byId("confirm").showModal();
byId("confirm").onclose = () => byId("confirm").returnValue === "yes" && deleteChat();
byId("open-settings").onclick = openSettings;
byId("settings").querySelector("form").onsubmit = takeSettings;
byId("attach").onclick = () => byId("files").click();
byId("files").onchange = async () => {
  await attach(byId("files").files);
  byId("files").value = "";
};
byId("microphone").onclick = toggleRecording;
byId("talk").onclick = toggleTalk;
byId("messages").onscroll = ({ target: box }) => {
  atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
};
byId("stop").onclick = () => asking?.abort();
byId("composer").onsubmit = (event) => {
  event.preventDefault();
  send();
};
byId("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
};
document.onkeydown = (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  asking?.abort();
  talking?.close();
};
document.onpaste = (event) => {
  const files = media(event.clipboardData);
  if (files.length) event.preventDefault();
  attach(files);
};
document.ondragover = (event) => {
  event.preventDefault();
  byId("composer").classList.add("dropping");
};
document.ondragleave = (event) => event.relatedTarget || byId("composer").classList.remove("dropping");
document.ondrop = (event) => {
  event.preventDefault();
  byId("composer").classList.remove("dropping");
  attach(event.dataTransfer.files);
};

show();
toEnd();
look();
