// Markdown to DOM nodes: what models write, nothing more. Text becomes text nodes and never HTML.
//
// Time grows with the length of the text, whatever it holds: every search goes forward and is bounded.

const LONGEST_LINK = 2000; // characters between a link's brackets
const DEEPEST = 24; // emphasis and quotes within one another

/** A Markdown text as nodes. */
export function markdown(text) {
  const out = document.createDocumentFragment();
  blocks(text.replace(/\r\n?/g, "\n").split("\n"), out, 0);
  return out;
}

// ── blocks ──────────────────────────────────────────────────────────────────────────────────────────────────────

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^\s`]{0,40})[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:\s+|$)(.*)$/;
const QUOTE = /^ {0,3}> ?(.*)$/;
const TABLE_LINE = /^ {0,3}\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function blocks(lines, out, depth) {
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    let found;
    if (!line.trim()) {
      at += 1;
    } else if ((found = FENCE.exec(line))) {
      at = fence(lines, at, found, out);
    } else if ((found = HEADING.exec(line))) {
      // The page has headings of its own: an answer's begin below them.
      const heading = element(`h${Math.min(6, found[1].length + 2)}`, out);
      inline(found[2].replace(/\s+#+\s*$/, ""), heading);
      at += 1;
    } else if (RULE.test(line)) {
      element("hr", out);
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const inner = [];
      for (; at < lines.length && (found = QUOTE.exec(lines[at])); at += 1) inner.push(found[1]);
      blocks(inner, element("blockquote", out), depth + 1);
    } else if (ITEM.test(line) && depth < DEEPEST) {
      at = list(lines, at, out, depth);
    } else if (line.includes("|") && at + 1 < lines.length && TABLE_LINE.test(lines[at + 1])) {
      at = table(lines, at, out);
    } else {
      at = paragraph(lines, at, out);
    }
  }
}

function fence(lines, at, [, mark, language], out) {
  const inner = [];
  for (at += 1; at < lines.length; at += 1) {
    const line = lines[at].trim();
    if (line.startsWith(mark) && line === mark[0].repeat(line.length)) break;
    inner.push(lines[at]);
  }
  const pre = element("pre", out);
  pre.tabIndex = 0; // a long line is scrolled by keys
  if (language) pre.dataset.language = language;
  element("code", pre).textContent = inner.join("\n");
  return at + 1;
}

function list(lines, at, out, depth) {
  const [, indent, mark] = ITEM.exec(lines[at]);
  const numbered = /\d/.test(mark);
  const container = element(numbered ? "ol" : "ul", out);
  if (numbered) container.start = parseInt(mark, 10);
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || found[1].length > indent.length + 3 || found[1].length < indent.length) break;
    if (/\d/.test(found[2]) !== numbered) break;
    const inner = [found[3]];
    const inside = found[1].length + 2;
    for (at += 1; at < lines.length; at += 1) {
      const line = lines[at];
      const next = line.trim() ? line : lines[at + 1] ?? "";
      const deeper = next.search(/\S/) >= inside;
      if (!deeper && (!line.trim() || ITEM.test(line) || startsBlock(line))) break;
      inner.push(line.slice(0, inside).trim() ? line.trimStart() : line.slice(inside));
    }
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) at += 1;
    blocks(inner, element("li", container), depth + 1);
  }
  return at;
}

function startsBlock(line) {
  return HEADING.test(line) || RULE.test(line) || FENCE.test(line) || QUOTE.test(line);
}

function table(lines, at, out) {
  const body = element("table", element("div", out, "wide"));
  const head = cells(lines[at]);
  row(head, "th", element("thead", body), head.length);
  const rest = element("tbody", body);
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1) row(cells(lines[at]), "td", rest, head.length);
  return at;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split("|");
}

function row(texts, name, out, width) {
  const line = element("tr", out);
  for (let i = 0; i < width; i += 1) inline((texts[i] ?? "").trim(), element(name, line));
}

function paragraph(lines, at, out) {
  const inner = [lines[at]];
  for (at += 1; at < lines.length && lines[at].trim() && !startsBlock(lines[at]); at += 1) {
    if (ITEM.test(lines[at])) break;
    inner.push(lines[at]);
  }
  inline(inner.join("\n").trim(), element("p", out));
  return at;
}

// ── within a line ───────────────────────────────────────────────────────────────────────────────────────────────

const SPECIAL = /[\\`*_~[\n!h]/g;
const ADDRESS = /^https?:\/\/[^\s<>"'`]{1,2000}/;
const EMPHASIS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };

function inline(text, out) {
  const open = [{ mark: "", node: out }]; // emphasis that is not closed yet, the innermost last
  const closers = codeRuns(text);
  let plain = "";
  const here = () => open[open.length - 1].node;
  const flush = () => {
    if (plain) here().append(plain);
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    SPECIAL.lastIndex = at;
    const next = SPECIAL.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    if (at === text.length) break;
    const letter = text[at];
    let taken = 0;
    if (letter === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      taken = 2;
    } else if (letter === "\n") {
      flush();
      while (open.length > 1) unwrap(open.pop()); // emphasis ends with its line
      element("br", here());
      taken = 1;
    } else if (letter === "`") {
      const length = run(text, at, "`");
      const end = closers.after(length, at + length);
      if (end < 0) {
        plain += "`".repeat(length);
        taken = length;
      } else {
        flush();
        element("code", here()).textContent = text.slice(at + length, end).replace(/\n/g, " ");
        taken = end + length - at;
      }
    } else if (letter === "[" || (letter === "!" && text[at + 1] === "[")) {
      const found = link(text, at + (letter === "!" ? 1 : 0));
      if (found) {
        flush();
        anchor(found.label, found.address, here());
        taken = found.end - at;
      }
    } else if (letter === "h") {
      const found = /\w/.test(text[at - 1] ?? "") ? null : ADDRESS.exec(text.slice(at, at + LONGEST_LINK));
      if (found) {
        const address = found[0].replace(/[.,:;!?)\]}*_~]+$/, "");
        flush();
        anchor(address, address, here());
        taken = address.length;
      }
    } else if ("*_~".includes(letter)) {
      taken = emphasis(text, at, letter, open, flush);
    }
    if (!taken) {
      plain += letter;
      taken = 1;
    }
    at += taken;
  }
  flush();
  while (open.length > 1) unwrap(open.pop()); // emphasis that was never closed is a mark like any other
}

/** Open or close emphasis; the characters taken, or 0. */
function emphasis(text, at, letter, open, flush) {
  const length = Math.min(2, run(text, at, letter));
  const mark = letter.repeat(length);
  if (!EMPHASIS[mark]) return 0;
  const before = text[at - 1] ?? " ";
  const after = text[at + length] ?? " ";
  const within = letter === "_" && /\w/.test(before) && /\w/.test(after);
  const index = open.findLastIndex((one) => one.mark === mark);
  if (index > 0 && /\S/.test(before) && !within) {
    flush();
    while (open.length - 1 > index) unwrap(open.pop());
    open.pop();
    return length;
  }
  if (!/\S/.test(after) || (letter === "_" && /\w/.test(before)) || open.length > DEEPEST) return 0;
  flush();
  open.push({ mark, node: element(EMPHASIS[mark], open[open.length - 1].node) });
  return length;
}

function unwrap({ mark, node }) {
  node.before(mark);
  while (node.firstChild) node.before(node.firstChild);
  node.remove();
}

function run(text, at, letter) {
  let end = at;
  while (text[end] === letter) end += 1;
  return end - at;
}

/** Where runs of backticks are, by length; each list is walked once, from its front. */
function codeRuns(text) {
  const places = new Map();
  for (const { 0: found, index } of text.matchAll(/`+/g)) {
    if (!places.has(found.length)) places.set(found.length, { list: [], next: 0 });
    places.get(found.length).list.push(index);
  }
  return {
    after(length, at) {
      const known = places.get(length);
      if (!known) return -1;
      while (known.next < known.list.length && known.list[known.next] < at) known.next += 1;
      return known.list[known.next] ?? -1;
    },
  };
}

const LINK = /^\[([^\][]{0,1000})\]\(\s*<?(https?:\/\/[^\s<>)]{1,1500})>?(?:\s+"[^"]{0,200}")?\s*\)/;

function link(text, at) {
  const found = LINK.exec(text.slice(at, at + LONGEST_LINK));
  return found && { label: found[1] || found[2], address: found[2], end: at + found[0].length };
}

/** A link. Pictures from elsewhere are links too: nothing is loaded from another host. */
function anchor(label, address, out) {
  const node = element("a", out);
  node.href = address;
  node.rel = "noopener noreferrer";
  node.target = "_blank";
  node.textContent = label;
}

/** A new element at the end of another. */
export function element(name, parent, kind = "") {
  const node = document.createElement(name);
  if (kind) node.className = kind;
  parent?.append(node);
  return node;
}
