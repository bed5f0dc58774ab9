// Messages to elements. What a person can do with a message comes in as functions.

import { element, markdown } from "./markdown.js";

const WHO = { user: "You", assistant: "Model", tool: "Tool" };

/** The element of a message, and the way to draw it anew. `answerCall(call, text)` gives a tool's result. */
export class MessageView {
  constructor(message, answerCall) {
    this.message = message;
    this.answerCall = answerCall;
    this.item = document.createElement("li");
    this.item.className = `message ${message.role}`;
    element("h2", this.item, "hidden").textContent = WHO[message.role];
    if (message.role === "tool") element("p", this.item, "fine").textContent = `Result of ${message.name}`;
    if (message.media?.length) this.item.append(mediaView(message.media));
    this.body = element("div", this.item, "body");
    this.foot = element("p", this.item, "fine foot");
    this.open = []; // ids of calls that wait for a result
    this.next = 0; // when it may be drawn again, in ms
    this.draw(true);
  }

  /** The calls that wait for a result, and the buttons below the message: {label: function}. */
  update(open, actions) {
    this.open = open;
    this.#calls();
    buttons(this.item, actions);
  }

  /** Show the message as it is now; unless `whole`, as soon as that does not cost too much of the page's time. */
  draw(whole = false) {
    if (!whole && performance.now() < this.next) {
      this.waiting ??= setTimeout(() => this.draw(true), this.next - performance.now());
      return;
    }
    clearTimeout(this.waiting);
    this.waiting = null;
    const begun = performance.now();
    this.#thought();
    this.#text();
    this.#calls();
    this.foot.textContent = this.message.stats ?? "";
    if (this.message.note) element("strong", this.foot, "error").textContent = ` ${this.message.note}`;
    // A long answer is drawn anew less often, so that the page keeps most of the time.
    this.next = performance.now() + Math.max(50, 8 * (performance.now() - begun));
  }

  #thought() {
    if (!this.message.thought) return;
    if (!this.fold) {
      this.fold = document.createElement("details");
      this.fold.className = "thought";
      this.item.insertBefore(this.fold, this.body);
      element("summary", this.fold).textContent = "Thought";
      this.thoughtText = element("div", this.fold);
      this.thoughtText.dir = "auto";
    }
    this.thoughtText.textContent = this.message.thought;
  }

  #text() {
    if (this.message.text === this.drawn) return;
    this.drawn = this.message.text;
    if (this.message.role === "assistant") {
      this.body.replaceChildren(markdown(this.message.text));
      for (const child of this.body.children) child.dir = "auto";
      for (const pre of this.body.querySelectorAll("pre")) copyButton(pre);
    } else {
      this.body.textContent = this.message.text;
      this.body.dir = "auto";
    }
  }

  #calls() {
    const calls = this.message.calls ?? [];
    const now = JSON.stringify([calls, this.open]);
    if (!calls.length || this.shown === now) return;
    this.shown = now;
    this.callList?.remove();
    this.callList = document.createElement("ul");
    this.callList.className = "calls";
    this.item.insertBefore(this.callList, this.foot);
    for (const call of calls) {
      const answered = this.open.includes(call.id) ? this.answerCall : null;
      callView(call, element("li", this.callList), answered);
    }
  }
}

function callView(call, item, answerCall) {
  element("strong", item).textContent = `Calls ${call.name}`;
  element("pre", item).textContent = pretty(call.arguments);
  if (!answerCall) return;
  const form = element("form", item, "line");
  const result = element("input", form);
  result.setAttribute("aria-label", `Result of ${call.name}`);
  result.placeholder = "Its result";
  element("button", form).textContent = "Give result";
  form.onsubmit = (event) => {
    event.preventDefault();
    answerCall(call, result.value);
  };
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

/** Pictures and players of media; with `remove(index)`, each with a button. */
export function mediaView(media, remove = null) {
  const list = document.createElement("ul");
  list.className = "media";
  media.forEach(({ kind, url, name }, index) => {
    const item = element("li", list);
    const shown = element(kind === "image" ? "img" : "audio", item);
    shown.src = url;
    if (kind === "image") shown.alt = name;
    else Object.assign(shown, { controls: true, title: name });
    if (remove) {
      const button = element("button", item, "icon");
      button.type = "button";
      button.textContent = "✕";
      button.setAttribute("aria-label", `Remove ${name}`);
      button.onclick = () => remove(index);
    }
  });
  return list;
}

function buttons(item, actions) {
  item.querySelector(":scope > .actions")?.remove();
  if (!Object.keys(actions).length) return;
  const line = element("div", item, "actions");
  for (const [label, act] of Object.entries(actions)) {
    const button = element("button", line);
    button.type = "button";
    button.textContent = label;
    button.onclick = () => act(button);
  }
}

function copyButton(pre) {
  const around = document.createElement("div");
  around.className = "code";
  pre.replaceWith(around);
  around.append(pre);
  const button = element("button", around, "copy");
  button.type = "button";
  button.textContent = "Copy";
  button.onclick = () => copy(pre.textContent, button);
}

/** Copy a text, and say so on the button for a moment. */
export async function copy(text, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed"; // plain http, or the browser asks and was refused
  }
  setTimeout(() => (button.textContent = label), 1500);
}

/** What an answer has cost, in words. */
export function stats({ usage, timings }) {
  const speed = timings?.predicted_per_second;
  const drafted = timings?.draft_n;
  return [
    usage && `${usage.completion_tokens} tokens`,
    speed && `${speed.toFixed(1)} tokens/s`,
    drafted && `${Math.round((100 * timings.draft_n_accepted) / drafted)} % of ${drafted} drafted tokens accepted`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** How much of a context is left, in words. */
export function room(usage, context) {
  if (!usage || !context) return "";
  return `${Math.max(0, context - usage.total_tokens).toLocaleString()} of ${context.toLocaleString()} positions left`;
}
