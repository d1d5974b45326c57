// The dashboard's front end: one anywidget, no build step, no request to any host.
//
// The kernel speaks in custom messages, never in traits, whose sync can stall while a cell awaits. One `Feed` a model
// keeps what it says; the views of that model in this page draw from it, each by itself, in animation frames.
// A frame draws only the rows that can be seen, and a row's element stays with its task, so that focus and a
// half-made click never end up on another one.
// Names, answers, errors and output are hostile text: they pass `plain` or `plainLines` and reach the page by
// textContent only. What a task displayed is shown as an image, or in a frame that may run and load nothing.

const SILENCE_MS = 5_000; // a question without an answer is shown as such after this long
const PING_MS = 3_000; // after this long without a word say again what is looked at, which is always answered
const SETTLE_MS = 2_000; // an accepted click keeps its word at most this long
const RESORT_MS = 1_000; // changed values move rows at most this often
const HOLD_MS = 5_000; // and not while the pointer is on its way to a button
const ANNOUNCE_MS = 10_000; // a screen reader hears of changes at most this often
const LOOK_MS = 100; // the kernel is told this long after a view has come to rest
const LOOK_AGAIN_MS = 30_000; // and reminded, else it forgets the view
const OVERSCAN = 5; // rows drawn beyond each edge, so that fast scrolling finds them there
const MOST_LOOKED_AT = 60; // rows
const PAGE = 30; // executions of a task that are asked for at first
const MORE = [100, 300, 500]; // and then; the kernel tells no more
const NOTICES = 3; // shown without being asked
const NOISE_US = 10_000; // a duration is not called long for so little
const KEPT_STATES = 8; // views whose search, filters and so on a page remembers
const KEPT_SELECTION = 500;

const STATUSES = ["running", "failed", "pending", "scheduled", "completed", "disabled"];
const KINDS = { interval: "every …", cron: "cron", once: "once", file_watch: "file watch", after: "after a task", manual: "by hand" };
const VERBS = {
  run: ["Run now", "Run", "starting …"],
  cancel: ["Cancel", "Cancel", "cancelling …"],
  cancel_all: ["Cancel all", "Cancel all", "cancelling …"],
  pause: ["Pause", "Pause", "pausing …"],
  resume: ["Resume", "Resume", "resuming …"],
  delete: ["Delete", "Delete", "deleting …"],
  retry: ["Retry", "Retry", "retrying …"],
  run_slot: ["Run this slot", "Run", "starting …"],
  dismiss: ["Dismiss", "Dismiss", "dismissing …"],
};
const WAITS = {
  "kernel busy": "waits for the kernel: a cell is running",
  limit: "waits for a free place",
  queue: "waits for the run before it",
  "retry delay": "waits before it tries again",
  jitter: "waits a moment, so that not all start at once",
};
const CAUSES = { slot: "its slot came", hand: "by hand", retry: "a retry", backfill: "a backfill" };
const EXAMPLE = '%%car_task hello --every 10s\nprint("hello")';

// A column is: its name, its heading, what it is sorted by (names have a rank of their own).
const COLUMNS = [
  ["status", "Status", (row) => STATUSES.indexOf(row.status)],
  ["name", "Name", null],
  ["runner", "Runner", (row) => row.runner],
  ["trigger", "Trigger", (row) => row.trigger],
  ["next", "Next fire", (row) => (row.enabled && row.armed ? row.next_at_us : null)],
  ["last", "Last result", (row) => row.last?.finished_at_us],
  ["took", "Duration", (row) => row.last?.duration_us],
  ["history", "History", (row) => row.failed], // what failed most
];

const CIRCLE = "M8 2a6 6 0 1 0 0 12A6 6 0 1 0 8 2z";
const ICONS = {
  running: "M8 2a6 6 0 1 1-6 6",
  cancelling: "M8 2a6 6 0 1 1-6 6M6 6h4v4H6z",
  waiting: "M4.5 2h7M4.5 14h7M5.5 2c0 3 5 4 5 6s-5 3-5 6M10.5 2c0 3-5 4-5 6s5 3 5 6",
  completed: "M2.5 8.5L6 12l7.5-8",
  failed: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  scheduled: CIRCLE + "M8 4.8V8l2.2 1.7",
  pending: CIRCLE,
  disabled: "M5.5 3.5v9M10.5 3.5v9",
  cancelled: CIRCLE + "M3.8 12.2l8.4-8.4",
  timed_out: "M8 4a5 5 0 1 0 0 10A5 5 0 1 0 8 4zM8 6.5V9M6.2 1.5h3.6",
  interrupted: "M9 1.5L3.5 9H8l-1 5.5L12.5 7H8z",
  missed: "M8 2a6 6 0 0 1 6 6M8 14a6 6 0 0 1-6-6",
  skipped: "M3.5 4l4 4-4 4M9 4l4 4-4 4",
  run: "M5 3l8 5-8 5z",
  run_slot: "M5 3l8 5-8 5z",
  cancel: "M4 4h8v8H4z",
  cancel_all: "M4 4h8v8H4z",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  resume: "M4 3v10M7.5 3.5L14 8l-6.5 4.5z",
  retry: "M13 8a5 5 0 1 1-1.6-3.7M13 2v3.2H9.8",
  delete: "M3 4.5h10M6.5 4.5V3h3v1.5M4.5 4.5l.6 9h5.8l.6-9",
  source: "M5.5 4.5L2 8l3.5 3.5M10.5 4.5L14 8l-3.5 3.5",
  more: "M3.5 8h.01M8 8h.01M12.5 8h.01",
  close: "M4 4l8 8M12 4l-8 8",
  up: "M3.5 10L8 5.5l4.5 4.5",
  down: "M3.5 6L8 10.5 12.5 6",
  open: "M6 3.5L10.5 8 6 12.5",
  bell: "M4 11.5c1-1 1-2 1-4a3 3 0 0 1 6 0c0 2 0 3 1 4zM7 14h2M8 3V2",
  warn: "M8 2l6.5 11.5h-13zM8 6.5v3M8 11.5v.1",
  recovered: "M2.5 8.5L6 12l7.5-8",
  delivery: "M2 4h12v8H2zM2 4.5l6 4.5 6-4.5",
};

// ---- text -------------------------------------------------------------------------------------

// Controls, soft hyphen, bidi and other invisible formatting, tags. ZWJ and ZWNJ stay: scripts need them.
const INVISIBLE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const INVISIBLE_IN_LINES =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
const COLOURS = /\x1b\[[0-9;:]*[mK]/g; // the escapes that every traceback and progress bar is full of

/** `^[` for Escape as a terminal shows it, `‹U+202E›` for what has no such name; both are in every font. */
function visible(character) {
  const code = character.codePointAt(0);
  if (code < 128) return "^" + String.fromCharCode(code ^ 64);
  return `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
}

function plain(text, limit = 300) {
  text = String(text ?? "");
  return (text.length > limit ? text.slice(0, limit) + "…" : text).replace(INVISIBLE, visible);
}

/** The same for a text of many lines; colours are left out, as they would only be noise. */
function plainLines(text, limit = 200_000) {
  text = String(text ?? "");
  if (text.length > limit) text = text.slice(0, limit) + "\n…";
  return text.replace(COLOURS, "").replace(/\r\n?/g, "\n").replace(INVISIBLE_IN_LINES, visible);
}

const formats = new Map();

/** An Intl format, made once for each set of options; a zone that the browser does not know is left out. */
function format(options) {
  const key = JSON.stringify(options);
  if (!formats.has(key)) {
    try {
      formats.set(key, new Intl.DateTimeFormat(undefined, options).format);
    } catch {
      formats.set(key, new Intl.DateTimeFormat(undefined, { ...options, timeZone: undefined }).format);
    }
  }
  return formats.get(key);
}

const number = new Intl.NumberFormat().format;
const short = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 }).format;
const clock = (ms) => format({ timeStyle: "medium" })(ms);
const word = (state) => plain(state).replaceAll("_", " ");
const counted = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

/** An instant in full, in the zone of the task when it has one. */
function instant(us, tz) {
  const text = format({ dateStyle: "medium", timeStyle: "long", ...(tz ? { timeZone: tz } : {}) })(us / 1000);
  return tz ? `${text} (${plain(tz)})` : text;
}

/** An instant as short as it can be: the time alone when it is today's. */
function moment(us, timeStyle = "medium") {
  const ms = us / 1000;
  const today = new Date(ms).toDateString() === new Date().toDateString();
  return format(today ? { timeStyle } : { dateStyle: "medium", timeStyle: "short" })(ms);
}

/** A length of time in at most two units; below 10 s with a tenth, unless it ticks. */
function span(ms, ticking = false) {
  if (ms < 1 && !ticking) return "<1 ms";
  if (ms < 1000 && !ticking) return `${Math.floor(ms)} ms`;
  if (ms < 10_000 && !ticking) return `${(Math.floor(ms / 100) / 10).toFixed(1)} s`;
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** How long ago, in minutes or more: a text that changes every second is never calm. */
function ago(ms) {
  if (ms < 60_000) return "just now";
  return span(ms, true).split(" ").slice(0, 2).join(" ") + " ago";
}

/** A path's end says more than its beginning: as many of its last parts as fit, at least the very last. */
function tail(path) {
  if (path.length <= 40) return path;
  const cut = path.slice(-38);
  const at = cut.search(/[\/\\]/);
  return "…" + (at < 0 ? cut : cut.slice(at));
}

const costWords = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 4 }).format;
const joined = (parts, between = " · ") => parts.filter(Boolean).join(between);
const unique = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;

// ---- elements ---------------------------------------------------------------------------------

// Without this attribute on the element that has the focus, JupyterLab takes Enter from a button, and "d d" there deletes the cell.
const OWN_KEYS = "data-lm-suppress-shortcuts";

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (tag === "button" || tag === "select" || tag === "input" || attributes.tabindex) node.setAttribute(OWN_KEYS, "true");
  if (tag === "button") node.type = "button";
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.append(document.createElementNS(svg.namespaceURI, "path"));
  for (const [key, value] of [["class", "car-icon"], ["viewBox", "0 0 16 16"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  setIcon(svg, name);
  return svg;
}

// Only what differs is written: an untouched node costs no layout and keeps the user's selection.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

const setIcon = (svg, name) => setAttribute(svg.firstChild, "d", Object.hasOwn(ICONS, name) ? ICONS[name] : ICONS.pending);
const setHidden = (node, hidden) => node.hidden !== hidden && (node.hidden = hidden);
const setTitle = (node, text) => (text ? setAttribute(node, "title", text) : node.removeAttribute("title"));

/** A button with a picture and a word; which of both is seen is the style sheet's. */
function button(verb, label, { className = "", picture = verb, text = label } = {}) {
  const attributes = { class: `car-button ${className}`.trim(), "aria-label": label };
  if (Object.hasOwn(VERBS, verb) || verb === "source") attributes["data-verb"] = verb;
  return h("button", attributes, icon(picture), h("span", { class: "car-label" }, text));
}

const wordy = (label, className = "") => h("button", { class: `car-button car-framed ${className}`.trim() }, label);

// aria-disabled, not disabled: a button that is switched off while it has the focus would lose it.
const setEnabled = (node, enabled) => setAttribute(node, "aria-disabled", String(!enabled));
const isEnabled = (node) => node.getAttribute("aria-disabled") !== "true";

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard without a secure origin; the older way needs a selection.
    const area = h("textarea", { style: "position:fixed;opacity:0" });
    const before = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus({ preventScroll: true });
    return done;
  }
}

/** Copy, and let the button say so for a moment. */
async function copyFrom(node, text) {
  const done = await copyText(text);
  node.before_ ??= node.textContent;
  node.textContent = done ? "Copied" : "Not copied";
  clearTimeout(node.timer_);
  node.timer_ = setTimeout(() => (node.textContent = node.before_), 2000);
}

/** The state of a task's or execution's row as icon and word, in one element that keeps its size. */
function stateMark(className) {
  const mark = { icon: icon(), word: h("span") };
  mark.el = h("span", { class: className }, mark.icon, mark.word);
  return mark;
}

function setMark(mark, state, text = word(state)) {
  setIcon(mark.icon, state);
  setText(mark.word, text);
}

// ---- what the page remembers ------------------------------------------------------------------

let remembered = {}; // where the browser has no storage for us: by place, the newest state first

function recall(place) {
  try {
    return JSON.parse(sessionStorage.getItem(place)) ?? [];
  } catch {
    return remembered[place] ?? [];
  }
}

function remember(place, state) {
  const states = [state, ...recall(place).filter(({ view }) => view !== state.view)].slice(0, KEPT_STATES);
  remembered[place] = states;
  try {
    sessionStorage.setItem(place, JSON.stringify(states));
  } catch {
    // no storage here: this page's memory has to do
  }
}

// ---- the feed: what the kernel said, once for all views of a model ------------------------------

const NOTHING = 0, VALUES = 1, MEMBERS = 2, USER = 3; // what made the order of the rows out of date

class Feed {
  constructor(model) {
    this.model = model;
    this.still = String(model.get?.("still") ?? "");
    this.views = new Set();
    this.entries = new Map(); // task id -> entry
    this.byName = null; // all entries by name; null when tasks came or went
    this.numberOf = { runner: new Map(), kind: new Map() }; // how many tasks have each, for the filters
    this.notices = [];
    this.dismissed = new Set();
    this.heardOf = null; // notices that were there before; null until the first snapshot
    this.sent = new Map(); // command id -> command
    this.pending = new Set(); // entries whose click is not settled
    this.asked = new Map(); // execution id -> command
    this.sources = new Map(); // question id -> what to do with the answer
    this.changes = new Map(); // task id -> state, to be announced
    this.kept = null; // what the view that was closed last had opened
    this.head = null;
    this.seq = null;
    this.offsetMs = 0; // the kernel's clock minus ours
    this.heardAt = this.tickedAt = performance.now();
    this.announcedAt = -Infinity;
    this.helloAt = null; // when the unanswered question was asked
    this.pingAt = null; // when it was said again what is looked at, after a while without a word
    this.broken = false; // sending itself failed
    this.notify = false;
    this.receive = this.receive.bind(this);
    this.wake = () => !document.hidden && this.tick();
    // JupyterLab says so when a kernel restarts, and when it is there again: then a question tells what is true.
    this.reconnect = () => this.views.size && this.hello();
    model.on("msg:custom", this.receive);
    model.on("comm_live_update", this.reconnect);
  }

  close() {
    for (const view of [...this.views]) view.close();
    this.model.off("msg:custom", this.receive);
    this.model.off("comm_live_update", this.reconnect);
  }

  join(view) {
    this.views.add(view);
    if (this.views.size === 1) {
      this.timer = setInterval(() => this.tick(), 1000);
      this.tickedAt = performance.now();
      document.addEventListener("visibilitychange", this.wake);
      this.hideStill();
      try {
        this.notify = canNotify() && Notification.permission === "granted" && sessionStorage.getItem("car_sched_nb notify") === "yes";
      } catch {
        // not remembered, then
      }
    }
    // What is fresh is drawn as it is; else a question tells.
    if (this.seq === null || performance.now() - this.heardAt > PING_MS) this.hello();
  }

  leave(view) {
    this.views.delete(view);
    if (this.views.size) return;
    clearInterval(this.timer);
    document.removeEventListener("visibilitychange", this.wake);
    this.styles?.remove();
  }

  /** Hide the table that the saved notebook keeps, for as long as a live view shows the same. */
  hideStill() {
    if (!this.still) return;
    const name = CSS.escape(`car-still-${this.still}`);
    this.styles = h("style");
    this.styles.textContent = `.${name} { display: none; }
      .jp-OutputArea-child:has(.${name}), .output_area:has(.${name}) { display: none; }`;
    document.head.append(this.styles);
  }

  schedule() {
    for (const view of this.views) view.schedule();
  }

  touched(level) {
    for (const view of this.views) view.touched(level);
  }

  /** The kernel's time. Without an answer it stands still: a run that went on counting would pretend to be alive. */
  nowMs(now) {
    return Date.now() + this.offsetMs - (this.isSilent(now) ? now - this.heardAt : 0);
  }

  // -- talking with the kernel

  send(message) {
    try {
      this.model.send(message);
      return true;
    } catch {
      this.broken = true; // shown by the banner
      return false;
    } finally {
      this.schedule();
    }
  }

  hello() {
    this.broken = false;
    this.helloAt = performance.now();
    this.send({ type: "hello" });
  }

  receive(message) {
    if (message?.type === "ack") this.acknowledge(message);
    else if (message?.type === "source") this.takeSource(message);
    else if (message?.type === "snapshot") this.takeSnapshot(message);
    else if (message?.type === "update" && this.seq !== null) this.takeUpdate(message);
    else return;
    this.heardAt = performance.now();
    this.pingAt = null;
    this.broken = false;
    this.schedule();
  }

  takeSnapshot({ seq, now_us, head, rows, notices }) {
    this.takeHead(seq, now_us, head);
    const ids = new Set(rows.map((row) => row.id));
    this.forget([...this.entries.keys()].filter((id) => !ids.has(id)));
    this.putAll(rows);
    this.takeNotices(notices ?? []);
    // It answers for the clicks whose own answer was lost, too.
    for (const command of this.sent.values()) if (performance.now() - command.sentAt > SILENCE_MS) this.drop(command);
    this.helloAt = null;
    for (const view of this.views) view.restore();
  }

  takeUpdate({ seq, now_us, head, rows, gone, stats, notices, views }) {
    const lost = seq !== this.seq + 1;
    // Rows are whole, so they are right even after a gap; only what the lost message held is missing, and a snapshot brings it.
    this.takeHead(seq, now_us, head);
    this.forget(gone ?? []);
    this.putAll(rows ?? []);
    for (const [id, of] of Object.entries(stats ?? {})) this.putStats(id, of);
    if (notices) this.takeNotices(notices);
    for (const view of this.views) if (views?.[view.id]) view.pane.take(views[view.id]);
    const asked = this.helloAt !== null && performance.now() - this.helloAt < SILENCE_MS;
    if ((lost || this.helloAt !== null) && !asked) this.hello();
  }

  takeHead(seq, now_us, head) {
    this.seq = seq;
    this.offsetMs = now_us / 1000 - Date.now();
    this.head = head;
  }

  put(row) {
    let entry = this.entries.get(row.id);
    if (!entry) {
      entry = { row, lower: "", key: "", rank: 0, value: null, pending: null, notice: null, stats: null };
      this.entries.set(row.id, entry);
      this.tally(row, 1);
      this.rename(entry, row);
    } else {
      const before = entry.row;
      if (before.name !== row.name) this.rename(entry, row);
      if (before.status !== row.status || before.enabled !== row.enabled) this.changes.set(row.id, row.status);
      else if (row.last && before.last?.finished_at_us !== row.last.finished_at_us) this.changes.set(row.id, row.last.status);
      if (before.runner !== row.runner || before.kind !== row.kind) {
        this.tally(before, -1);
        this.tally(row, 1);
      }
      entry.row = row;
    }
    if (entry.pending && (entry.pending.command.acked || settled(entry))) this.release(entry);
  }

  putAll(rows) {
    for (const row of rows) this.put(row);
    if (rows.length) this.touched(this.byName ? VALUES : MEMBERS);
  }

  rename(entry, row) {
    // Natural order (load-2 before load-10) by a plain comparison, 10 times faster than a collator.
    entry.lower = row.name.toLowerCase();
    entry.key = DIGITS.test(entry.lower) ? entry.lower.replace(NUMBERS, (digits) => digits.padStart(12, "0")) : entry.lower;
    this.byName = null;
  }

  tally(row, step) {
    count(this.numberOf.runner, row.runner, step);
    count(this.numberOf.kind, row.kind, step);
  }

  putStats(id, stats) {
    const entry = this.entries.get(id);
    if (entry) entry.stats = stats;
  }

  forget(ids) {
    let any = false;
    for (const id of ids) {
      const entry = this.entries.get(id);
      if (!entry) continue;
      this.release(entry);
      this.entries.delete(id);
      this.tally(entry.row, -1);
      this.changes.delete(id);
      any = true;
    }
    if (!any) return;
    this.byName = null;
    for (const view of this.views) view.forget();
  }

  sorted() {
    if (!this.byName) {
      this.byName = [...this.entries.values()].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
      this.byName.forEach((entry, rank) => (entry.rank = rank));
    }
    return this.byName;
  }

  // -- commands

  /** Ask for something to be done; the rows of `entries` say so at once. */
  command(verb, entries, execution) {
    const command = { id: unique(), verb, sentAt: performance.now(), acked: false, tasks: entries.map(({ row }) => row.id), execution };
    for (const entry of entries) {
      entry.notice = null;
      entry.pending = { command, before: entry.row.run?.execution_id, last: entry.row.last?.finished_at_us };
      this.pending.add(entry);
    }
    if (execution) this.asked.set(execution, command);
    this.sent.set(command.id, command);
    const message = { type: "command", id: command.id, verb, tasks: command.tasks };
    if (this.send(execution ? { ...message, execution } : message)) return;
    this.drop(command);
    this.refuse(entries, `${VERBS[verb][0]} was not sent: no answer from the kernel`);
  }

  acknowledge({ id, ok, text, failed }) {
    const command = this.sent.get(id);
    if (!command) return; // another page's click
    this.sent.delete(id);
    // An accepted click keeps its word until the row has changed, else "running" would flash up again.
    command.acked = true;
    command.sentAt = performance.now();
    if (command.execution) this.asked.delete(command.execution);
    const entries = command.tasks.map((task) => this.entries.get(task)).filter(Boolean);
    for (const entry of entries) if (entry.pending?.command === command && (!ok || settled(entry))) this.release(entry);
    if (failed?.length) {
      for (const { task, text: why } of failed)
        this.refuse(entries.filter(({ row }) => row.id === task || row.name === task), why || text);
    } else if (!ok) this.refuse(entries.length === 1 ? entries : [], text || "refused, without a reason");
    else if (text) this.say(plain(text));
  }

  refuse(entries, why) {
    for (const entry of entries) entry.notice = why;
    this.say(entries.length === 1 ? `${plain(entries[0].row.name)}: ${plain(why)}` : plain(why));
  }

  release(entry) {
    entry.pending = null;
    this.pending.delete(entry);
  }

  drop(command) {
    this.sent.delete(command.id);
    if (command.execution) this.asked.delete(command.execution);
    for (const entry of this.pending) if (entry.pending.command === command) this.release(entry);
  }

  /** Ask for a task's cell; `take` gets its text, or null and why there is none. */
  source(entry, take) {
    const id = unique();
    this.sources.set(id, take);
    const give = (text, why) => this.sources.delete(id) && take(text, why);
    setTimeout(() => give(null, "no answer from the kernel"), SILENCE_MS);
    if (!this.send({ type: "source", id, task: entry.row.id })) give(null, "no answer from the kernel");
  }

  takeSource({ id, ok, text }) {
    const take = this.sources.get(id);
    this.sources.delete(id);
    take?.(ok ? text : null, ok ? "" : text);
  }

  // -- notices

  takeNotices(notices) {
    const fresh = this.heardOf && notices.filter(({ id }) => !this.heardOf.has(id));
    this.heardOf = new Set(notices.map(({ id }) => id));
    for (const id of this.dismissed) if (!this.heardOf.has(id)) this.dismissed.delete(id);
    this.notices = notices.filter(({ id }) => !this.dismissed.has(id));
    if (fresh?.length && this.notify && this.views.size) for (const notice of fresh.slice(0, NOTICES)) this.showNotification(notice);
  }

  dismiss(ids) {
    for (const id of ids) this.dismissed.add(id);
    const all = ids.length > 1 && this.notices.length === ids.length;
    this.notices = this.notices.filter(({ id }) => !this.dismissed.has(id));
    if (all) this.command("dismiss", []);
    else for (const id of ids) this.command("dismiss", [], id);
  }

  showNotification(notice) {
    try {
      // The tag keeps several pages of one dashboard from saying it several times.
      const said = new Notification(plain(`${notice.task} ${NOTICE_WORDS[notice.kind] ?? notice.kind}`), { body: plain(notice.text), tag: String(notice.id) });
      said.onclick = () => {
        window.focus();
        this.views.values().next().value?.openExecution(notice.task_id, notice.execution_id);
      };
    } catch {
      // some browsers allow them in workers only
    }
  }

  async toggleNotify() {
    if (!this.notify && Notification.permission !== "granted" && (await Notification.requestPermission()) !== "granted")
      return this.say("The browser does not allow notifications here");
    this.notify = !this.notify;
    try {
      sessionStorage.setItem("car_sched_nb notify", this.notify ? "yes" : "no");
    } catch {
      // not remembered, then
    }
    this.schedule();
  }

  // -- time passes

  /** Since when a question is without an answer; null when there is none. */
  silentSince() {
    let since = this.helloAt ?? this.pingAt;
    for (const command of this.sent.values()) since = since === null ? command.sentAt : Math.min(since, command.sentAt);
    return since;
  }

  isSilent(now) {
    const since = this.silentSince();
    return this.broken || (since !== null && now - since > SILENCE_MS);
  }

  tick() {
    if (document.hidden) return;
    const now = performance.now();
    const slept = now - this.tickedAt > 10_000; // asleep or hidden: messages may be lost
    this.tickedAt = now;
    if (this.helloAt === null && slept) this.hello();
    for (const entry of this.pending)
      if (entry.pending.command.acked && now - entry.pending.command.sentAt > SETTLE_MS) this.release(entry); // nothing changed: nothing to wait for
    if (this.changes.size && now - this.announcedAt > ANNOUNCE_MS) this.announceChanges();
    const quiet = this.pingAt === null && this.helloAt === null && now - this.heardAt > PING_MS;
    if (quiet) this.pingAt = now;
    for (const view of this.views) view.lookSoon(slept || quiet);
    this.schedule();
  }

  announceChanges() {
    const counts = new Map();
    for (const state of this.changes.values()) counts.set(state, (counts.get(state) ?? 0) + 1);
    const named = ([id, state]) => `${plain(this.entries.get(id).row.name, 60)} ${word(state)}`;
    const told = ([state, n]) => `${number(n)} ${word(state)}`;
    this.announce((this.changes.size <= 3 ? [...this.changes].map(named) : [...counts].map(told)).join(", "));
    this.changes.clear();
  }

  /** Tell a screen reader; one view is enough. */
  announce(text) {
    this.announcedAt = performance.now();
    const view = this.views.values().next().value;
    if (view) setText(view.live, text);
  }

  /** The same, and seen for a moment. */
  say(text) {
    this.announce(text);
    for (const view of this.views) view.showSaid(text);
  }
}

const DIGITS = /\d/;
const NUMBERS = /\d+/g;

function count(numbers, value, step) {
  const n = (numbers.get(value) ?? 0) + step;
  if (n > 0) numbers.set(value, n);
  else numbers.delete(value);
}

const canNotify = () => "Notification" in window && window.isSecureContext;
const NOTICE_WORDS = { failed: "failed", recovered: "works again", completed: "completed", delivery: "notice not delivered" };

/** Whether the kernel's row shows that what was asked has come true. */
function settled({ row, pending }) {
  const { verb } = pending.command;
  if (verb === "run") return row.run?.execution_id !== pending.before || row.last?.finished_at_us !== pending.last;
  if (verb === "cancel" || verb === "cancel_all") return row.run?.state === "cancelling" || row.run?.execution_id !== pending.before;
  if (verb === "delete") return false; // it goes
  return row.enabled === (verb === "resume");
}

const isCancel = (pending) => pending?.command.verb.startsWith("cancel") ?? false;

/** The state in a row's first cell: a click's own word until the kernel has answered it. */
function stateOf({ row, pending }) {
  if (pending) return { icon: isCancel(pending) ? "cancelling" : "running", text: VERBS[pending.command.verb][2] };
  const state = row.run?.state ?? row.status;
  return { icon: state, text: word(state) };
}

function statusOf({ row, pending }) {
  return isCancel(pending) || row.run?.state === "cancelling" ? "cancelling" : row.status;
}

const waitWords = (reason) => (reason ? (WAITS[reason] ?? `waits: ${plain(reason)}`) : "");

// ---- rows of which only those that can be seen are drawn -----------------------------------------

/** A scroller's rows. One of them, the current one, can be reached by Tab; arrow keys lead to the others. */
class Rows {
  /**
   * @param scroller what scrolls, with a role; gets the focus when the row that had it is gone
   * @param body holds the rows; its first child measures what the style sheet calls a row
   * @param make returns a row's elements: {el, controls()}, each control with a `data-at` by which another row's is found
   */
  constructor(scroller, body, make) {
    Object.assign(this, { scroller, body, make, probe: body.firstChild, order: [], views: [], current: null, top: 0, height: 48, room: 480 });
    scroller.addEventListener("keydown", (event) => this.moveFocus(event));
    scroller.addEventListener("focusin", (event) => this.follow(event.target));
  }

  /** Make the row that has the focus the current one, at once: the next Tab must not lead into another row. */
  follow(target) {
    const view = this.viewOf(target);
    if (!view || view.item === this.current) return;
    const before = this.views.find(({ item }) => item === this.current);
    this.current = view.item;
    for (const control of before?.controls() ?? []) setAttribute(control, "tabindex", "-1");
    for (const control of view.controls()) setAttribute(control, "tabindex", "0");
  }

  measure() {
    this.height = this.probe.offsetHeight || this.height; // 0 while the cell is hidden
    // The most that can be seen, not what is: a table of one row must not start the next one with holes.
    this.room = parseFloat(getComputedStyle(this.scroller).maxHeight) || this.room;
  }

  /** Read before anything is written, so that nothing is laid out twice. */
  read() {
    this.top = this.scroller.scrollTop;
  }

  viewOf(node) {
    return this.views.find((view) => view.el.contains(node));
  }

  draw(paint) {
    const { order, height } = this;
    const top = Math.max(0, Math.min(this.top, order.length * height - this.room));
    const first = Math.max(0, Math.floor(top / height) - OVERSCAN);
    const wanted = order.slice(first, Math.ceil((top + this.room) / height) + OVERSCAN);
    const focused = this.viewOf(this.scroller.getRootNode().activeElement);
    // The row that has the focus stays, wherever it is scrolled to.
    let kept = -1;
    if (focused && !wanted.includes(focused.item)) {
      kept = order.indexOf(focused.item);
      if (kept < 0) this.scroller.focus({ preventScroll: true });
      else wanted[kept < first ? "unshift" : "push"](focused.item);
    }
    const had = new Map(this.views.map((view) => [view.item, view]));
    const next = wanted.map((item) => had.get(item) ?? null);
    for (const item of wanted) had.delete(item);
    const spare = [...had.values()];
    this.views = next.map((view, at) => {
      view ??= spare.pop() ?? this.make();
      view.item = wanted[at];
      view.index = kept < 0 ? first + at : kept < first ? (at === 0 ? kept : first + at - 1) : at === wanted.length - 1 ? kept : first + at;
      return view;
    });
    for (const view of spare) view.el.remove();
    this.arrange(focused);
    if (focused && (kept >= 0 || wanted.includes(focused.item))) this.current = focused.item;
    else if (!wanted.includes(this.current)) this.current = order[Math.ceil(top / height)] ?? null;
    for (const view of this.views) {
      view.el.style.transform = `translateY(${view.index * height}px)`;
      setAttribute(view.el, "aria-rowindex", String(view.index + 2));
      paint(view);
      const tab = view.item === this.current ? "0" : "-1";
      for (const control of view.controls()) setAttribute(control, "tabindex", tab);
    }
    setAttribute(this.scroller, "aria-rowcount", String(order.length + 1));
    const total = `${order.length * height}px`;
    if (this.body.style.height !== total) this.body.style.height = total;
  }

  /** Bring the elements into the order in which they are seen and read; the focused one is never moved, which would blur it. */
  arrange(focused) {
    let at = this.probe.nextSibling;
    for (const { el } of this.views) {
      while (el === focused?.el && at !== el) {
        const next = at.nextSibling;
        this.body.append(at);
        at = next;
      }
      if (at === el) at = at.nextSibling;
      else this.body.insertBefore(el, at);
    }
  }

  moveFocus(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, input[type=search]")) return;
    const view = this.viewOf(event.target);
    if (!view && event.target !== this.scroller) return;
    const page = Math.max(1, Math.floor(this.room / this.height) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !this.order.length) return;
    const from = view ? this.order.indexOf(view.item) : -1;
    const to = Math.max(0, Math.min(this.order.length - 1, from + step));
    event.preventDefault();
    this.focus(to, event.target.closest("[data-at]")?.dataset.at ?? "open");
  }

  /** Give the focus to a control of a row, which is scrolled to. */
  focus(index, at) {
    const y = index * this.height;
    const head = this.body.offsetTop;
    const { scrollTop, clientHeight } = this.scroller;
    if (y < scrollTop) this.scroller.scrollTop = y;
    else if (y + this.height + head > scrollTop + clientHeight) this.scroller.scrollTop = y + this.height + head - clientHeight;
    this.read();
    const item = this.order[index];
    this.redraw();
    const view = this.views.find((view) => view.item === item);
    const controls = view?.controls().filter((control) => !control.hidden && control.offsetParent !== null) ?? [];
    const place = (control) => control.closest("[data-at]").dataset.at;
    (controls.find((control) => place(control) === at) ?? controls.find((control) => place(control) === "open"))?.focus({ preventScroll: true });
  }
}

// ---- the strip of a task's last executions --------------------------------------------------------

/** Bars as high as each execution was long; one tab stop, arrow keys inside. */
class Strip {
  constructor() {
    this.el = h("span", { class: "car-strip", role: "group", "data-at": "strip" });
    this.items = null;
    this.at = null; // the bar that Tab reaches
    this.el.addEventListener("keydown", (event) => this.move(event));
    this.el.addEventListener("focusin", (event) => (this.at = event.target));
  }

  paint(items, name) {
    setAttribute(this.el, "aria-label", `Last executions of ${name}`);
    if (this.items === items) return;
    this.items = items;
    const had = new Map([...this.el.children].map((bar) => [bar.dataset.execution, bar]));
    const most = Math.max(1, ...items.map(([, , duration]) => duration ?? 0));
    const bars = items.map((item) => {
      const bar = had.get(String(item[0])) ?? this.make(item);
      had.delete(String(item[0]));
      if (bar.dataset.status !== item[1]) this.name(bar, item);
      bar.style.setProperty("--car-share", (0.25 + (0.75 * (item[2] ?? 0)) / most).toFixed(2));
      return bar;
    });
    const lost = [...had.values()].some((bar) => bar === bar.getRootNode().activeElement);
    for (const bar of had.values()) bar.remove();
    bars.forEach((bar, index) => this.el.children[index] !== bar && this.el.insertBefore(bar, this.el.children[index] ?? null));
    if (!bars.includes(this.at)) this.at = bars.at(-1) ?? null;
    if (lost) this.at?.focus({ preventScroll: true });
  }

  make(item) {
    const bar = h("button", { class: "car-bit", tabindex: "-1", "data-execution": item[0] });
    this.name(bar, item);
    return bar;
  }

  name(bar, [, status, duration, at]) {
    const text = joined([word(status), at == null ? "" : moment(at, "short"), duration == null ? "" : span(duration / 1000)], ", ");
    bar.dataset.status = status;
    setAttribute(bar, "aria-label", text);
    setAttribute(bar, "title", text);
  }

  move(event) {
    const bars = [...this.el.children];
    const at = bars.indexOf(event.target);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: bars.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const bar = bars[Math.max(0, Math.min(bars.length - 1, to))];
    setAttribute(event.target, "tabindex", "-1");
    setAttribute(bar, "tabindex", "0");
    bar.focus({ preventScroll: true });
  }
}

// ---- one row of the table of tasks ----------------------------------------------------------------

function cell(name, ...children) {
  return h("div", { class: `car-cell car-${name}-cell`, role: "cell" }, ...children);
}

/** The elements of one row; `paintTask` fills them. */
function makeTask() {
  const v = { item: null, index: 0 };
  const part = (name, tag = "span") => (v[name] = h(tag, { class: `car-${name}` }));
  v.select = h("input", { type: "checkbox", class: "car-select", "data-at": "select" });
  v.open = h("button", { class: "car-open", "data-at": "open", "aria-expanded": "false" });
  v.name = h("span", { class: "car-name" }, v.open);
  v.status = stateMark("car-status");
  v.lastStatus = stateMark("car-last-status");
  v.bar = h("span", { class: "car-bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, h("span"));
  v.progress = h("span", { class: "car-progress" }, v.bar, (v.done = h("span", { class: "car-done" }, part("figures"), part("note"))));
  v.last = h("span", { class: "car-last" }, v.lastStatus.el, part("when"), part("text"));
  v.dismiss = h("button", { class: "car-button car-dismiss", "data-at": "dismiss" }, icon("close"));
  v.notice = h("span", { class: "car-notice" }, icon("warn"), part("noticeText"), v.dismiss);
  v.strip = new Strip();
  v.buttons = ["run", "cancel", "pause"].map((verb) => button(verb, ""));
  for (const [i, at] of ["run", "cancel", "pause"].entries()) v.buttons[i].dataset.at = at;
  v.more = button("more", "", { className: "car-more" });
  v.more.dataset.at = "more";
  setAttribute(v.more, "aria-expanded", "false");
  v.el = h("div", { class: "car-row", role: "row" },
    cell("select", v.select), cell("status", v.status.el, part("since")), cell("name", v.name, part("how"), part("waits")),
    cell("runner", part("runner")), cell("trigger", part("trigger")), cell("next", part("next", "time")),
    cell("last", v.progress, v.last, v.notice), cell("took", part("took"), part("median")),
    cell("history", v.strip.el, h("span", { class: "car-rate-line" }, part("rate"), part("served"), h("span", { class: "car-unit" }, "×"), part("failures"))),
    cell("actions", ...v.buttons, v.more));
  const fixed = [v.select, v.open, ...v.buttons, v.more, v.dismiss];
  v.controls = () => (v.strip.at ? [...fixed, v.strip.at] : fixed);
  return v;
}

function paintTask(v, nowMs, { selected, opened }) {
  const { row, pending, notice, stats } = v.item;
  const state = stateOf(v.item);
  const name = plain(row.name);
  setAttribute(v.el, "data-task", row.name);
  setAttribute(v.el, "data-status", statusOf(v.item));
  setAttribute(v.el, "data-state", pending ? "asked" : state.icon);
  v.el.classList.toggle("car-selected", selected);
  v.el.classList.toggle("car-opened", opened);
  if (v.select.checked !== selected) v.select.checked = selected;
  setAttribute(v.select, "aria-label", `Select ${name}`);
  setMark(v.status, state.icon, state.text);
  const run = row.run && row.run.state !== "waiting" ? row.run : null;
  setText(v.since, joined([run?.started_at_us != null && span(Math.max(0, nowMs - run.started_at_us / 1000), true), row.run?.count > 1 && `${number(row.run.count)} runs`]));
  setText(v.open, name);
  setAttribute(v.open, "title", plain(row.name, 2000));
  setAttribute(v.open, "aria-expanded", String(opened));
  setText(v.runner, plain(row.runner));
  setText(v.trigger, plain(row.trigger));
  setAttribute(v.trigger, "title", plain(row.trigger, 2000));
  setText(v.how, `${plain(row.runner)} · ${plain(row.trigger)}`);
  setTitle(v.how, plain(row.trigger, 2000));
  const waits = waitWords(row.waits) || waitWords(row.run?.wait_reason);
  setText(v.waits, waits);
  setTitle(v.waits, plain(waits, 2000));
  setHidden(v.waits, !waits);
  setHidden(v.how, Boolean(waits));
  paintNext(v, row, nowMs);
  paintProgress(v, row, run);
  paintLast(v, row, nowMs);
  paintHistory(v, row, stats, name);
  setHidden(v.notice, !notice);
  setText(v.noticeText, plain(notice));
  setTitle(v.notice, plain(notice, 2000));
  setAttribute(v.dismiss, "aria-label", `Dismiss the message about ${name}`);
  paintButton(v.buttons[0], "run", name, !pending);
  paintButton(v.buttons[1], "cancel", name, Boolean(row.run) && row.run.state !== "cancelling" && !isCancel(pending));
  paintButton(v.buttons[2], row.enabled ? "pause" : "resume", name, !pending);
  setAttribute(v.more, "aria-label", `More for ${name}`);
  setAttribute(v.more, "title", "More");
}

function paintNext(v, row, nowMs) {
  const at = row.next_at_us;
  let text = "–", title = "";
  if (row.enabled && row.armed_in) {
    text = `armed in ${plain(row.armed_in)}`;
    title = `${plain(row.armed_in, 2000)} plans it; run its cell here, or %car arm, to have it here`;
  } else if (row.enabled && !row.armed) {
    text = "not armed";
    title = "stored, and planned by no owner: run its cell, or %car arm";
  } else if (row.enabled && at != null) {
    const left = at / 1000 - nowMs;
    text = left > 0 ? `in ${span(Math.ceil(left / 1000) * 1000, true)}` : "due";
  }
  setText(v.next, text);
  if (title || at == null || text === "–") setTitle(v.next, title);
  else if (v.nextAt !== at || v.nextTz !== row.tz || !v.next.title) {
    setTitle(v.next, instant(at, row.tz));
    setAttribute(v.next, "datetime", new Date(at / 1000).toISOString());
  }
  [v.nextAt, v.nextTz] = [at, row.tz];
}

/** Done of how much, how fast, how long still. */
function progressWords({ done, total, rate, left_us } = {}) {
  return joined([
    total > 0 ? `${number(done ?? 0)} of ${number(total)}` : done > 0 && number(done),
    rate > 0 && (rate < 0.1 ? `${short(rate * 60)}/min` : `${short(rate)}/s`),
    left_us > 0 && `${span(Math.max(1000, left_us / 1000), true)} left`,
  ]);
}

function paintBar(bar, progress, name) {
  const { done, total } = progress ?? {};
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : null;
  bar.classList.toggle("car-endless", share === null);
  bar.firstChild.style.transform = share === null ? "" : `scaleX(${share})`;
  setAttribute(bar, "aria-label", `Progress of ${name}`);
  if (share === null) bar.removeAttribute("aria-valuenow");
  else setAttribute(bar, "aria-valuenow", String(Math.round(share * 100)));
}

function paintProgress(v, row, run) {
  setHidden(v.progress, !run);
  v.el.classList.toggle("car-refused", Boolean(v.item.notice));
  v.last.classList.toggle("car-beside", Boolean(run));
  if (!run) return;
  const { progress } = run;
  paintBar(v.bar, progress, plain(row.name));
  setText(v.figures, progressWords(progress ?? {}));
  setText(v.note, progress?.note ? joined([v.figures.textContent && " ", plain(progress.note)], "· ") : "");
  setHidden(v.done, !v.figures.textContent && !progress?.note);
  setTitle(v.note, plain(progress?.note, 2000));
  v.last.classList.toggle("car-hushed", Boolean(v.figures.textContent || progress?.note));
}

function paintLast(v, row, nowMs) {
  const last = row.last;
  setHidden(v.last, !last);
  setAttribute(v.el, "data-last-status", last?.status ?? "");
  if (!last) return;
  setMark(v.lastStatus, last.status);
  const finishedMs = last.finished_at_us == null ? null : last.finished_at_us / 1000;
  setText(v.when, finishedMs === null ? "" : ago(nowMs - finishedMs));
  const text = [last.reason, last.text].filter(Boolean).join(": ");
  setText(v.text, plain(text));
  setTitle(v.last, joined([last.finished_at_us == null ? "" : instant(last.finished_at_us), plain(text, 2000)], "\n"));
}

function paintHistory(v, row, stats, name) {
  const took = row.last?.duration_us;
  const median = stats?.median_us;
  const slow = took != null && median != null && took > 2 * median && took - median > NOISE_US;
  setText(v.took, took == null ? "" : span(took / 1000));
  setText(v.median, median == null ? "" : `median ${span(median / 1000)}`);
  v.took.classList.toggle("car-slow", slow);
  setTitle(v.took, slow && median ? `${short(took / median)} times the median` : "");
  v.strip.paint(stats?.strip ?? [], name);
  setTitle(v.served.parentNode, `served ${number(row.served ?? 0)} times, of which ${number(row.failed ?? 0)} failed`);
  setText(v.rate, stats?.ok == null ? "" : `${Math.floor(stats.ok * 100)} % ok · `);
  setTitle(v.rate, stats?.ok == null ? "" : `${Math.round(stats.ok * stats.of)} of the newest ${number(stats.of)} completed`);
  setText(v.served, number(row.served ?? 0));
  setText(v.failures, row.failed ? ` · ${number(row.failed)} failed` : "");
}

function paintButton(node, verb, name, enabled) {
  if (node.dataset.verb !== verb) setIcon(node.firstChild, verb);
  setAttribute(node, "data-verb", verb);
  setText(node.lastChild, VERBS[verb][0]);
  setAttribute(node, "aria-label", `${VERBS[verb][0]} ${name}`);
  setAttribute(node, "title", VERBS[verb][0]);
  setEnabled(node, enabled);
}

// ---- the live output of an execution --------------------------------------------------------------

const MOST_KEPT = 1_000_000; // characters of output in the page
const BLOCK = 4_000; // characters of a block, of which the browser lays out only those in sight
const BLOCK_LINES = 100;
const MOST_FOUND = 10_000;
const PAIRS = /[\ud800-\udbff][\udc00-\udfff]/g;
const HELD_BACK = /\r$|\x1b(?:\[[0-9;:]*)?$/; // half of a line's end or of an escape: the other half comes

/** Characters as Python counts them. */
const characters = (text) => text.length - (text.match(PAIRS)?.length ?? 0);

/** Output as a terminal without colours would show it: it follows the end, can be paused, searched and copied. */
class Output {
  constructor(execution) {
    this.execution = execution;
    this.blocks = []; // {text, lines, el}
    this.kept = 0; // characters in blocks
    this.lost = 0; // characters let go at the beginning
    this.position = 0; // characters of the task's output that have come
    this.size = 0;
    this.held = "";
    this.later = []; // what came while paused
    this.laterSize = 0;
    this.following = true;
    this.again = 0; // characters to be shown again, though paused
    this.found = [];
    this.at = -1;
    this.foundAt = -Infinity;
    this.stale = false; // whether what is shown or found is behind the text
    this.build();
  }

  build() {
    this.about = h("span", { class: "car-quiet" });
    this.search = h("input", { type: "search", class: "car-find", placeholder: "Search", "aria-label": "Search the output", spellcheck: "false" });
    this.matches = h("span", { class: "car-found", role: "status" });
    this.previous = button("up", "Previous match");
    this.next = button("down", "Next match");
    this.follow = wordy("Pause", "car-follow");
    this.copy = wordy("Copy", "car-copy");
    this.text = h("div", { class: "car-lines" });
    this.cut = h("p", { class: "car-skipped", hidden: "" });
    this.line = h("div", { class: "car-lines", hidden: "" }); // what a progress bar may still take back
    this.box = h("div", { class: "car-output", tabindex: "0", role: "region", "aria-label": "Output" }, this.cut, this.text, this.line);
    this.el = h("div", { class: "car-part car-output-part" },
      h("div", { class: "car-bar-line" }, h("h4", {}, "Output"), this.about, h("span", { class: "car-finder" }, this.search, this.matches, this.previous, this.next), this.follow, this.copy),
      this.box);
    this.search.addEventListener("input", () => this.find(0));
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.step(event.shiftKey ? -1 : 1);
      else if (event.key === "Escape" && this.search.value) {
        event.stopPropagation();
        this.search.value = "";
        this.find(0);
      }
    });
    this.previous.addEventListener("click", () => this.step(-1));
    this.next.addEventListener("click", () => this.step(1));
    this.follow.addEventListener("click", () => this.setFollowing(!this.following));
    this.copy.addEventListener("click", () => copyFrom(this.copy, this.blocks.map(({ text }) => text).join("") + this.later.join("")));
    // Whoever scrolls up wants to read: nothing moves until the end is reached again.
    this.box.addEventListener("wheel", (event) => event.deltaY < 0 && this.box.scrollHeight > this.box.clientHeight && this.setFollowing(false), { passive: true });
    this.box.addEventListener("keydown", (event) => ["ArrowUp", "PageUp", "Home"].includes(event.key) && this.setFollowing(false));
  }

  take({ at, text, size, reset, line }) {
    if (reset) this.clear();
    if (reset || line !== undefined) {
      setText(this.line, (line ?? "").replace(COLOURS, "").replace(INVISIBLE_IN_LINES, visible));
      setHidden(this.line, !line);
    }
    this.size = size ?? this.size;
    const length = characters(text);
    if (at > this.position) this.write(`\n… ${number(at - this.position)} characters skipped …\n`);
    else if (at + length <= this.position && !reset) return this.paint();
    else if (at < this.position) text = [...text].slice(this.position - at).join("");
    this.position = at + length;
    text = this.held + text;
    this.held = text.match(HELD_BACK)?.[0] ?? "";
    if (this.held) text = text.slice(0, -this.held.length);
    text = text.replace(COLOURS, "").replace(/\r+\n/g, "\n");
    if (text) this.write(text);
    this.paint();
  }

  clear() {
    this.again = this.following ? 0 : Math.max(this.again, this.kept); // what a reader had in view comes back
    for (const { el } of this.blocks) el.remove();
    Object.assign(this, { stale: true, blocks: [], kept: 0, lost: 0, position: 0, held: "", later: [], laterSize: 0 });
  }

  write(text) {
    if (this.following || this.kept < this.again) return this.append(text);
    this.later.push(text);
    this.laterSize += text.length;
    while (this.laterSize > MOST_KEPT) {
      this.laterSize -= this.later[0].length;
      this.lost += this.later.shift().length;
    }
  }

  /** Add text at the end; a carriage return goes back to the start of the line, as progress bars want it. */
  append(text) {
    if (text.length > MOST_KEPT) {
      this.lost += text.length - MOST_KEPT;
      text = text.slice(-MOST_KEPT);
    }
    const lines = text.split("\n");
    lines.forEach((line, i) => {
      const back = line.lastIndexOf("\r");
      if (back >= 0) {
        this.takeBack();
        line = line.slice(back + 1);
      }
      this.put(line.replace(INVISIBLE_IN_LINES, visible) + (i < lines.length - 1 ? "\n" : ""));
    });
    this.flush();
    while (this.kept > MOST_KEPT && this.blocks.length > 1) {
      const block = this.blocks.shift();
      this.kept -= block.text.length;
      this.lost += block.text.length;
      block.el.remove();
    }
    this.stale = true;
    setHidden(this.cut, !this.lost);
    if (this.lost) setText(this.cut, `… ${number(this.lost)} earlier characters are not kept in this page …`);
  }

  put(piece) {
    for (let from = 0; from < piece.length; from += BLOCK) {
      const part = piece.length > BLOCK ? piece.slice(from, from + BLOCK) : piece;
      let block = this.blocks.at(-1);
      if (!block || block.text.length + part.length > BLOCK || block.lines >= BLOCK_LINES) {
        block = { text: "", lines: 0, el: h("div", { class: "car-block" }, "") };
        block.el.append(document.createTextNode(""));
        this.blocks.push(block);
        this.text.append(block.el);
      }
      block.text += part;
      block.lines += part.endsWith("\n") ? 1 : 0;
      this.kept += part.length;
      block.dirty = true;
    }
  }

  takeBack() {
    const block = this.blocks.at(-1);
    if (!block || block.text.endsWith("\n")) return;
    const start = block.text.lastIndexOf("\n") + 1;
    this.kept -= block.text.length - start;
    block.text = block.text.slice(0, start);
    block.dirty = true;
  }

  flush() {
    for (let i = this.blocks.length - 1; i >= 0 && this.blocks[i].dirty; i--) {
      // Each block ends its last line by being a block.
      this.blocks[i].el.firstChild.data = this.blocks[i].text.replace(/\n$/, "") || "\u200a";
      this.blocks[i].dirty = false;
    }
  }

  setFollowing(following) {
    if (this.following === following) return;
    this.following = following;
    if (following) for (const text of this.later.splice(0)) this.append(text);
    if (following) this.laterSize = 0;
    this.paint();
  }

  paint() {
    setText(this.follow, this.following ? "Pause" : "Follow");
    setAttribute(this.follow, "title", this.following ? "Stop moving while you read" : "Show what came meanwhile, and follow the end");
    const waiting = this.laterSize ? `${number(this.laterSize)} more characters came` : "";
    setText(this.about, this.size ? joined([counted(this.size, "character"), waiting]) : "nothing printed yet");
    setHidden(this.box, !this.blocks.length && this.line.hidden);
    if (!this.stale) return;
    if (this.following) this.box.scrollTop = this.box.scrollHeight;
    if (!this.search.value) this.stale = false;
    else if (performance.now() - this.foundAt > 500) this.find(null);
  }

  /** Look for what is typed; `at` is the match to go to, null to stay where we are. */
  find(at) {
    const needle = this.search.value;
    this.foundAt = performance.now();
    this.stale = false;
    this.found = [];
    if (needle) {
      const pattern = new RegExp(needle.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu");
      search: for (const block of this.blocks)
        for (const match of block.text.matchAll(pattern)) {
          if (this.found.push([block, match.index, match[0].length]) >= MOST_FOUND) break search;
        }
    }
    this.at = Math.min(at ?? Math.max(0, this.at), this.found.length - 1);
    this.mark();
    if (at !== null && this.found.length) this.reveal();
  }

  step(by) {
    if (!this.found.length) return;
    this.at = (this.at + by + this.found.length) % this.found.length;
    this.mark();
    this.reveal();
  }

  range([block, start, length]) {
    const range = document.createRange();
    const node = block.el.firstChild;
    range.setStart(node, Math.min(start, node.length));
    range.setEnd(node, Math.min(start + length, node.length));
    return range;
  }

  mark() {
    const n = this.found.length;
    setText(this.matches, !this.search.value ? "" : n ? `${number(this.at + 1)} of ${number(n)}${n >= MOST_FOUND ? "+" : ""}` : "no match");
    if (!globalThis.CSS?.highlights) return;
    this.unmark();
    const near = this.found.slice(Math.max(0, this.at - 500), this.at + 500);
    this.marked = near.map((match) => this.range(match));
    for (const range of this.marked) highlight("car-found").add(range);
    if (n) highlight("car-found-now").add((this.markedNow = this.range(this.found[this.at])));
  }

  unmark() {
    for (const range of this.marked ?? []) highlight("car-found").delete(range);
    if (this.markedNow) highlight("car-found-now").delete(this.markedNow);
    this.marked = this.markedNow = null;
  }

  reveal() {
    this.setFollowing(false);
    const match = this.found[this.at];
    this.box.scrollTop = match[0].el.offsetTop - this.box.clientHeight / 2; // the browser has to lay it out first
    const range = this.range(match);
    const middle = range.getBoundingClientRect().top - this.box.getBoundingClientRect().top - this.box.clientHeight / 2;
    this.box.scrollTop += middle;
    if (globalThis.CSS?.highlights) return;
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
}

function highlight(name) {
  if (!CSS.highlights.has(name)) CSS.highlights.set(name, new Highlight());
  return CSS.highlights.get(name);
}

// ---- what a task displayed ------------------------------------------------------------------------

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const BASE64 = /^[A-Za-z0-9+/]+={0,2}$/;
const MOST_SHOWN = 5_000_000; // characters of one picture or table
const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

const dataOf = (value) => (Array.isArray(value) ? value.join("") : typeof value === "string" ? value : JSON.stringify(value, null, 1));

/** One captured output: as an image, as a table in a frame that may do nothing, or as text. */
function display(bundle, label, colours) {
  const has = (mime) => bundle[mime] != null && dataOf(bundle[mime]).length <= MOST_SHOWN;
  const image = IMAGES.find(has);
  const coded = image && dataOf(bundle[image]).replace(/\s/g, "");
  if (image && BASE64.test(coded)) return h("img", { alt: label, src: `data:${image};base64,${coded}` });
  // As an image, an SVG can neither run nor load anything.
  if (has("image/svg+xml")) return h("img", { alt: label, src: `data:image/svg+xml,${encodeURIComponent(dataOf(bundle["image/svg+xml"]))}` });
  const page = has("text/html") && tamed(dataOf(bundle["text/html"]));
  if (page && (page.body.textContent.trim() || page.querySelector("img, svg"))) return frame(page, label, colours);
  const mime = has("text/plain") ? "text/plain" : Object.keys(bundle).find((name) => name.startsWith("text/") && name !== "text/html" && has(name));
  const text = mime ? dataOf(bundle[mime]) : `${plain(Object.keys(bundle).join(", ")) || "nothing"}: not shown here`;
  return h("pre", { class: "car-answer", tabindex: "0", role: "region", "aria-label": label }, plainLines(text));
}

const LEADS_AWAY = /^(on.*|href|xlink:href|action|formaction|target|ping|poster|data|srcdoc|srcset|autofocus|background)$/i;
const LOADS = /url\s*\(|@import|image-set|\\/i; // in a style

/**
 * A page without what runs, loads or leads anywhere; it is shown where nothing of that could happen either.
 * What is read from its own text must be the same page: some markup becomes another when it is written and read again.
 * Null when it does not come to rest.
 */
function tamed(html) {
  for (let turn = 0; turn < 6; turn++) {
    const page = cleaned(html);
    if (page.body.innerHTML === html) return page;
    html = page.body.innerHTML;
  }
  return null;
}

function cleaned(html) {
  const page = new DOMParser().parseFromString(`<!doctype html><body>${html}`, "text/html");
  for (const node of page.querySelectorAll("script, meta, base, link, iframe, frame, object, embed, form, template, noscript")) node.remove();
  for (const node of page.querySelectorAll("style")) if (LOADS.test(node.textContent)) node.remove();
  for (const node of page.querySelectorAll("*"))
    for (const { name, value } of [...node.attributes])
      if (LEADS_AWAY.test(name) || (name === "src" && !/^data:image\//i.test(value)) || (name === "style" && LOADS.test(value))) node.removeAttribute(name);
  return page;
}

function frame(page, label, { ink, surface, line }) {
  const rows = page.querySelectorAll("tr").length;
  const height = Math.min(420, rows ? 30 + rows * 25 : Math.max(60, (page.body.textContent.length / 80) * 20));
  const style = `body{margin:6px;font:13px system-ui,sans-serif;color:${ink};background:${surface}}table{border-collapse:collapse}
    td,th{padding:2px 10px;border:0 solid ${line};border-bottom-width:1px;text-align:right;white-space:nowrap}caption{text-align:left}img{max-width:100%}`;
  const source = `<!doctype html><html lang="en"><head><meta http-equiv="Content-Security-Policy" content="${POLICY}"><title>output</title><style>${style}</style></head>` +
    `<body>${page.body.innerHTML}</body></html>`;
  const node = h("iframe", { class: "car-frame", sandbox: "", referrerpolicy: "no-referrer", title: label, tabindex: "0" });
  node.style.height = `${Math.round(height)}px`;
  node.srcdoc = source;
  return node;
}

// ---- an opened task, and an opened execution of it ------------------------------------------------

const EXECUTION_COLUMNS = [
  ["state", "State"], ["slot", "Slot"], ["attempt", "Attempt"], ["started", "Started"], ["lasted", "Duration"],
  ["late", "Late"], ["cause", "Cause"], ["said", "Answer or error"], ["do", "Actions"],
];

function makeExecution() {
  const v = { item: null, index: 0 };
  const part = (name) => (v[name] = h("span", { class: `car-x-${name}` }));
  v.state = stateMark("car-x-state");
  v.open = h("button", { class: "car-open", "data-at": "open", "aria-expanded": "false" }, v.state.el);
  v.buttons = ["retry", "run_slot", "cancel"].map((verb) => button(verb, "", { text: VERBS[verb][0] }));
  for (const node of v.buttons) node.dataset.at = "do";
  v.el = h("div", { class: "car-xrow", role: "row" },
    cell("x-state", v.open), cell("x-slot", part("slot")), cell("x-attempt", part("attempt")), cell("x-started", part("started")),
    cell("x-lasted", part("lasted")), cell("x-late", part("late")), cell("x-cause", part("cause")), cell("x-said", part("said")),
    cell("x-do", ...v.buttons));
  v.controls = () => [v.open, ...v.buttons];
  return v;
}

/** How long it took, or has been taking. */
function lasted(row, nowMs) {
  if (row.duration_us != null) return span(row.duration_us / 1000);
  if (row.started_at_us == null || row.finished_at_us != null || row.state === "waiting") return "";
  return span(Math.max(0, nowMs - row.started_at_us / 1000), true);
}

const slotWords = (row) => (row.scheduled_at_us == null ? plain(row.slot) : moment(row.scheduled_at_us)) + (row.slots > 1 ? ` + ${number(row.slots - 1)} more` : "");

function paintExecution(v, nowMs, asked, opened, now) {
  const { row } = v.item;
  const state = asked?.verb === "cancel" ? "cancelling" : (row.state ?? row.status);
  setAttribute(v.el, "data-execution", row.execution_id);
  setAttribute(v.el, "data-status", state);
  setMark(v.state, state, asked ? VERBS[asked.verb][2] : word(state));
  v.el.classList.toggle("car-opened", opened);
  setAttribute(v.open, "aria-expanded", String(opened));
  const started = row.started_at_us == null ? "" : moment(row.started_at_us);
  setText(v.slot, slotWords(row));
  setTitle(v.slot, joined([row.scheduled_at_us == null ? "" : instant(row.scheduled_at_us), `slot ${plain(row.slot)}`], "\n"));
  setText(v.attempt, row.attempt == null ? "" : String(row.attempt));
  setText(v.started, started || "–");
  setText(v.lasted, lasted(row, nowMs) || "–");
  setText(v.late, row.late_us == null ? "–" : span(Math.max(0, row.late_us / 1000)));
  setText(v.cause, CAUSES[row.cause] ?? word(row.cause));
  const progress = row.state === "running" && row.progress ? joined([progressWords(row.progress), plain(row.progress.note)]) : "";
  const said = joined([progress || waitWords(row.wait_reason) || plain(row.reason), plain(row.text)], ": ");
  setText(v.said, said);
  setTitle(v.said, said);
  setAttribute(v.open, "aria-label", joined([word(state), started, lasted(row, nowMs)], ", "));
  for (const node of v.buttons) {
    const verb = node.dataset.verb;
    setHidden(node, !(row.can ?? []).includes(verb));
    setAttribute(node, "aria-label", `${VERBS[verb][0]}: ${slotWords(row)}`);
    setAttribute(node, "title", VERBS[verb][0]);
    setEnabled(node, !asked && now.alive);
  }
}

/** Below the table: an opened task's executions, and beside or below them an opened execution. */
class Pane {
  constructor(view) {
    this.view = view;
    this.data = { task: null, executions: new Map(), order: [], more: false, loaded: false, execution: null, detail: null, output: null };
    this.build();
  }

  build() {
    this.title = h("h3", { class: "car-pane-title" });
    this.summary = h("span", { class: "car-quiet" });
    this.close = button("close", "Close the task", { className: "car-close" });
    this.header = h("div", { class: "car-xheader", role: "row", "aria-rowindex": "1" }, ...EXECUTION_COLUMNS.map(([name, label]) =>
      h("div", { class: `car-cell car-x-${name}-cell`, role: "columnheader" }, h("span", name === "do" ? { class: "car-live" } : {}, label))));
    this.body = h("div", { class: "car-body", role: "rowgroup" }, h("div", { class: "car-xrow car-probe", "aria-hidden": "true" }));
    this.list = h("div", { class: "car-executions", role: "table", tabindex: "-1" }, h("div", { role: "rowgroup", class: "car-headgroup" }, this.header), this.body);
    this.none = h("p", { class: "car-none" });
    this.more = wordy("Show more", "car-show-more");
    this.listBox = h("div", { class: "car-list" }, this.list, this.none, this.more);
    this.detail = new Detail(this);
    this.el = h("section", { class: "car-pane", hidden: "" },
      h("div", { class: "car-bar-line car-pane-head" }, this.title, this.summary, this.close), h("div", { class: "car-split" }, this.listBox, this.detail.el));
    this.rows = new Rows(this.list, this.body, makeExecution);
    this.rows.redraw = () => this.draw(performance.now());
    this.list.addEventListener("scroll", () => this.view.schedule(), { passive: true });
    this.more.addEventListener("click", () => this.askForMore());
    this.close.addEventListener("click", () => this.view.openTask(null));
    this.body.addEventListener("click", (event) => this.clicked(event.target));
    this.el.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      event.preventDefault();
      event.stopPropagation();
      if (this.data.execution) this.view.openExecution(this.data.task, null);
      else this.view.openTask(null);
    });
  }

  get task() {
    return this.view.feed.entries.get(this.data.task);
  }

  /** What is open now; what is known of it already stays. */
  show(task, execution) {
    if (this.data.task !== task || this.data.execution !== execution) {
      this.view.forgot = true;
      this.view.looked = "";
    }
    if (this.data.task !== task) this.data = { ...this.data, task, executions: new Map(), order: [], more: false, loaded: false };
    if (this.data.execution === execution) return;
    this.data.output?.unmark();
    this.data = { ...this.data, execution, detail: null, output: execution ? new Output(execution) : null };
  }

  take({ task, executions, whole, more, detail, output }) {
    const { data } = this;
    if (executions && (task ?? data.task) === data.task) {
      const before = data.executions; // the same entry for the same execution: its element and the focus stay
      if (whole) data.executions = new Map();
      for (const row of executions) {
        const entry = before.get(row.execution_id) ?? {};
        entry.row = row;
        data.executions.set(row.execution_id, entry);
      }
      data.order = [...data.executions.values()].sort((a, b) => (b.row.seq ?? 0) - (a.row.seq ?? 0));
      // The kernel tells no more of what new ones have pushed out.
      for (const { row } of whole ? [] : data.order.splice(this.view.state.limit)) {
        data.executions.delete(row.execution_id);
        data.more = true;
      }
      data.loaded = true;
    }
    if (more !== undefined && (task ?? data.task) === data.task) data.more = more;
    if (detail && detail.execution_id === data.execution) data.detail = detail;
    if (output && output.execution === data.execution) data.output?.take(output);
  }

  clicked(target) {
    const view = this.rows.viewOf(target);
    if (!view) return;
    const { row } = view.item;
    const pressed = target.closest("[data-verb]");
    if (pressed) {
      if (isEnabled(pressed)) this.view.act(pressed.dataset.verb, row.execution_id, this.data.task);
    } else if (target.closest(".car-open") || !String(getSelection())) {
      this.view.openExecution(this.data.task, this.data.execution === row.execution_id ? null : row.execution_id);
    }
  }

  askForMore() {
    const { state } = this.view;
    state.limit = MORE.find((limit) => limit > state.limit) ?? state.limit;
    this.view.changed();
  }

  draw(now) {
    const { data, view, task } = this;
    setHidden(this.el, !task);
    if (!task) return;
    const { feed } = view;
    const nowMs = feed.nowMs(now);
    const name = plain(task.row.name);
    setText(this.title, name);
    setAttribute(this.el, "aria-label", `Executions of ${name}`);
    setAttribute(this.list, "aria-label", `Executions of ${name}`);
    setAttribute(this.close, "aria-label", `Close ${name}`);
    setText(this.summary, joined([plain(task.row.runner), plain(task.row.trigger), data.loaded && `${counted(data.order.length, "execution")}${data.more ? ", and older ones" : ""}`]));
    setHidden(this.list, !data.order.length);
    setHidden(this.none, data.order.length > 0);
    setText(this.none, data.loaded ? "It has not run yet." : "Asking for its executions …");
    setHidden(this.more, !data.more || data.order.length >= MORE.at(-1));
    this.el.classList.toggle("car-with-detail", Boolean(data.execution));
    this.rows.order = data.order;
    const alive = { alive: !feed.isSilent(now) };
    this.rows.draw((v) => paintExecution(v, nowMs, feed.asked.get(v.item.row.execution_id), v.item.row.execution_id === data.execution, alive));
    this.detail.draw(data, nowMs, alive);
  }
}

/** One execution in full. */
class Detail {
  constructor(pane) {
    this.pane = pane;
    this.facts = new Map(); // label -> {dt, dd}
    this.drawn = {};
    this.build();
  }

  build() {
    this.state = stateMark("car-x-state");
    this.title = h("h4", { class: "car-detail-title", tabindex: "-1" }, this.state.el);
    this.buttons = ["retry", "run_slot", "cancel"].map((verb) => button(verb, VERBS[verb][0], { className: "car-framed car-full", text: VERBS[verb][0] }));
    this.close = button("close", "Close the execution", { className: "car-close" });
    this.list = h("dl", { class: "car-facts" });
    this.bar = h("span", { class: "car-bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, h("span"));
    this.figures = h("span", { class: "car-quiet" });
    this.progress = h("div", { class: "car-progress" }, this.bar, this.figures);
    const part = (name, label) => {
      const text = h("pre", { class: `car-${name}`, tabindex: "0", role: "region", "aria-label": label });
      return (this[name] = { text, el: h("div", { class: "car-part" }, h("h4", {}, label), text) });
    };
    this.displays = h("div", { class: "car-displays" });
    this.cut = h("p", { class: "car-quiet" });
    this.displayPart = h("div", { class: "car-part" }, h("h4", {}, "Displayed"), this.displays, this.cut);
    this.outputSlot = h("div");
    this.loading = h("p", { class: "car-none" }, "Asking for the execution …");
    this.parts = h("div", {}, this.progress, part("error", "Error").el, part("answer", "Answer").el, this.outputSlot, this.displayPart,
      part("traceback", "Traceback").el, part("params", "Parameters").el, this.list);
    this.el = h("section", { class: "car-detail", "aria-label": "Execution", hidden: "" },
      h("div", { class: "car-bar-line" }, this.title, ...this.buttons, this.close), this.loading, this.parts);
    for (const node of this.buttons)
      node.addEventListener("click", () => isEnabled(node) && this.pane.view.act(node.dataset.verb, this.pane.data.execution, this.pane.data.task));
    this.close.addEventListener("click", () => this.pane.view.openExecution(this.pane.data.task, null));
  }

  draw({ execution, detail, output, executions }, nowMs, now) {
    setHidden(this.el, !execution);
    setAttribute(this.el, "data-execution", execution ?? "");
    if (!execution) return this.outputSlot.replaceChildren();
    const row = { ...executions.get(execution)?.row, ...detail };
    // The list's row is as new as the detail or newer: it tells of progress too.
    if (executions.has(execution)) Object.assign(row, executions.get(execution).row);
    const known = row.execution_id !== undefined;
    setHidden(this.loading, Boolean(detail));
    setHidden(this.title, !known);
    const asked = this.pane.view.feed.asked.get(execution);
    const state = row.state ?? row.status ?? "pending";
    setAttribute(this.el, "data-status", state);
    setMark(this.state, state, asked ? VERBS[asked.verb][2] : word(state));
    for (const node of this.buttons) {
      setHidden(node, !(row.can ?? []).includes(node.dataset.verb));
      setEnabled(node, !asked && now.alive);
    }
    if (output && this.outputSlot.firstChild !== output.el) this.outputSlot.replaceChildren(output.el);
    output?.paint();
    setHidden(this.outputSlot, !output?.size && !["running", "cancelling"].includes(state));
    const { progress } = row;
    setHidden(this.progress, !["running", "cancelling"].includes(state));
    paintBar(this.bar, progress, "the execution");
    setText(this.figures, joined([progressWords(progress ?? {}), plain(progress?.note)]) || lasted(row, nowMs));
    this.drawFacts(row, nowMs);
    if (this.drawn.detail === detail) return;
    this.drawn.detail = detail;
    this.fill(this.error, detail?.error && joined([detail.error_type && !detail.error.startsWith(detail.error_type) && detail.error_type, detail.error], ": "));
    this.fill(this.traceback, detail?.traceback);
    this.fill(this.answer, detail?.answer);
    this.fill(this.params, paramLines(detail?.params));
    this.drawDisplays(detail);
  }

  fill({ el, text }, value) {
    setHidden(el, !value);
    setText(text, value ? plainLines(value) : "");
  }

  drawDisplays(detail) {
    const bundles = detail?.displays ?? [];
    const key = `${detail?.execution_id} ${JSON.stringify(bundles)}`;
    setHidden(this.displayPart, !bundles.length && !detail?.displays_cut);
    setText(this.cut, detail?.displays_cut ? `${counted(detail.displays_cut, "output")} more not kept` : "");
    if (this.drawn.displays === key) return; // a frame that is made anew flickers
    this.drawn.displays = key;
    const style = getComputedStyle(this.pane.view.root);
    const colours = { ink: style.color, surface: style.backgroundColor, line: style.borderTopColor };
    this.displays.replaceChildren(...bundles.map((bundle, i) => display(bundle ?? {}, `Output ${i + 1} of ${plain(detail.task)}`, colours)));
  }

  drawFacts(row, nowMs) {
    const at = (us) => (us == null ? "" : moment(us));
    const titles = { slot: row.scheduled_at_us, started: row.started_at_us, finished: row.finished_at_us };
    const facts = {
      slot: joined([at(row.scheduled_at_us), row.slots > 1 && `and ${counted(row.slots - 1, "slot")} after it`], ", "),
      started: at(row.started_at_us),
      finished: at(row.finished_at_us),
      duration: lasted(row, nowMs),
      late: row.late_us == null ? "" : span(Math.max(0, row.late_us / 1000)),
      attempt: row.attempt > 1 && String(row.attempt),
      cause: joined([CAUSES[row.cause] ?? word(row.cause), waitWords(row.wait_reason) || plain(row.reason)], ": "),
      model: plain(row.model),
      turns: row.turns != null && joined([number(row.turns), row.tool_calls != null && counted(row.tool_calls, "tool call")]),
      tokens: (row.tokens_in != null || row.tokens_out != null) && `${number(row.tokens_in ?? 0)} in · ${number(row.tokens_out ?? 0)} out`,
      cost: row.cost != null && costWords(row.cost),
      runner: joined([plain(row.runner), plain(row.executor)], " on "),
      owner: plain(row.owner),
      version: row.version > 1 && String(row.version),
      follows: row.upstream?.length && plain(row.upstream.join(", ")),
      "all output": row.path && plain(row.path, 2000),
      "executed notebook": row.artifact && plain(row.artifact, 2000),
      transcript: row.transcript && plain(row.transcript, 500),
      id: plain(row.execution_id),
    };
    for (const [label, text] of Object.entries(facts)) {
      let fact = this.facts.get(label);
      if (!fact) {
        fact = { dt: h("dt", {}, label), dd: h("dd") };
        this.list.append(h("div", {}, fact.dt, fact.dd));
        this.facts.set(label, fact);
      }
      setHidden(fact.dt.parentNode, !text);
      setText(fact.dd, text || "");
      if (titles[label] != null) setTitle(fact.dd, instant(titles[label]));
    }
  }
}

function paramLines(params) {
  if (!params || typeof params !== "object") return params;
  return Object.entries(params).map(([name, value]) => `${name} = ${typeof value === "string" ? value : JSON.stringify(value)}`).join("\n");
}

// ---- notices ----------------------------------------------------------------------------------

class Notices {
  constructor(view) {
    this.view = view;
    this.all = false;
    this.drawn = "";
    this.list = h("ul", { class: "car-notice-list" });
    this.more = wordy("", "car-bare");
    this.clear = wordy("Dismiss all", "car-bare");
    this.el = h("section", { class: "car-notices", "aria-label": "Notices", hidden: "" }, this.list, h("div", { class: "car-notice-tools" }, this.more, this.clear));
    this.more.addEventListener("click", () => {
      this.all = !this.all;
      this.view.schedule();
    });
    this.clear.addEventListener("click", () => this.dismiss(this.view.feed.notices.map(({ id }) => id)));
    this.list.addEventListener("click", ({ target }) => {
      const id = target.closest("[data-notice]")?.dataset.notice;
      const notice = this.view.feed.notices.find((notice) => String(notice.id) === id);
      if (!notice) return;
      if (target.closest(".car-dismiss")) this.dismiss([notice.id]);
      else if (target.closest("button")) this.view.openExecution(notice.task_id, notice.execution_id);
    });
  }

  dismiss(ids) {
    this.view.feed.dismiss(ids);
    this.draw();
    (this.list.querySelector(".car-dismiss") ?? this.view.search).focus({ preventScroll: true });
  }

  draw(nowMs = this.nowMs) {
    this.nowMs = nowMs;
    const { notices } = this.view.feed;
    setHidden(this.el, !notices.length);
    const shown = this.all ? notices : notices.slice(0, NOTICES);
    const hidden = notices.length - NOTICES;
    setHidden(this.more, hidden <= 0);
    setText(this.more, this.all ? "Show fewer" : `and ${number(hidden)} more`);
    setHidden(this.clear, notices.length < 2);
    this.el.classList.toggle("car-all", this.all);
    const key = JSON.stringify(shown.map(({ id, text }) => [id, text]));
    if (this.drawn !== key) {
      this.drawn = key;
      const had = new Map([...this.list.children].map((item) => [item.dataset.notice, item]));
      const items = shown.map((notice) => had.get(String(notice.id)) ?? this.make(notice));
      for (const item of had.values()) if (!items.includes(item)) item.remove();
      items.forEach((item, i) => this.list.children[i] !== item && this.list.insertBefore(item, this.list.children[i] ?? null));
    }
    shown.forEach((notice, i) => setText(this.list.children[i].querySelector(".car-when"), ago(nowMs - notice.at_us / 1000)));
  }

  make(notice) {
    const name = plain(notice.task);
    const open = h("button", { class: "car-notice-open", title: plain(notice.text, 2000) },
      icon(notice.kind), h("b", {}, `${name} ${NOTICE_WORDS[notice.kind] ?? word(notice.kind)}`), h("span", { class: "car-notice-text" }, plain(notice.text)));
    const dismiss = h("button", { class: "car-button car-dismiss", "aria-label": `Dismiss the notice about ${name}`, title: "Dismiss" }, icon("close"));
    return h("li", { "data-notice": notice.id, "data-kind": notice.kind }, open, h("span", { class: "car-when" }), dismiss);
  }
}

// ---- the menu of a row ------------------------------------------------------------------------

/** Opens at a row's last button, above everything else; one at a time. */
class Menu {
  constructor(view) {
    this.view = view;
    this.el = h("div", { class: "car-menu", popover: "auto" });
    this.owner = null;
    this.el.addEventListener("toggle", (event) => event.newState === "closed" && this.closed());
    this.el.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
      else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
        const items = [...this.el.querySelectorAll("button")];
        const at = items.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1);
        items[(at + items.length) % items.length]?.focus();
      } else if (event.key !== "Tab") return event.stopPropagation();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.moved = (event) => !this.el.contains(event.target) && this.follow();
  }

  open(owner, entry) {
    const again = this.owner === owner;
    this.close();
    if (again) return;
    Object.assign(this, { owner, entry });
    const name = plain(entry.row.name);
    const source = button("source", `Show the cell of ${name}`, { className: "car-item", text: "Show the cell" });
    const remove = button("delete", `Delete ${name}`, { className: "car-item", text: "Delete …" });
    source.addEventListener("click", () => this.showSource());
    remove.addEventListener("click", () => this.ask());
    this.el.replaceChildren(source, remove);
    owner.after(this.el);
    this.el.showPopover();
    setAttribute(owner, "aria-expanded", "true");
    this.place();
    source.focus();
    window.addEventListener("scroll", this.moved, { capture: true, passive: true });
  }

  /** Something scrolled: stay beside the button as long as that is seen. */
  follow() {
    const at = this.owner.getBoundingClientRect();
    const table = this.owner.closest(".car-table")?.getBoundingClientRect();
    const seen = table && at.bottom > Math.max(0, table.top) && at.top < Math.min(window.innerHeight, table.bottom);
    if (seen) this.place();
    else this.close();
  }

  place() {
    const at = this.owner.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.el;
    const below = at.bottom + 4 + height <= window.innerHeight || at.top < height + 4;
    this.el.style.left = `${Math.max(4, Math.min(at.right - width, window.innerWidth - width - 4))}px`;
    this.el.style.top = `${below ? at.bottom + 4 : at.top - height - 4}px`;
  }

  ask() {
    const name = plain(this.entry.row.name, 60);
    const yes = button("delete", `Delete ${name}`, { className: "car-framed car-full car-grave", text: "Delete" });
    const no = wordy("Keep");
    yes.addEventListener("click", () => {
      const { entry } = this;
      this.close();
      this.view.feed.command("delete", [entry]);
    });
    no.addEventListener("click", () => this.close());
    this.el.replaceChildren(h("p", {}, `Delete ${name} and stop what it runs?`), h("div", { class: "car-choices" }, yes, no));
    this.place();
    no.focus();
  }

  showSource() {
    const { entry } = this;
    const text = h("pre", { class: "car-source", tabindex: "0", role: "region", "aria-label": `The cell of ${plain(entry.row.name)}` }, "…");
    const copy = wordy("Copy");
    const said = h("span", { class: "car-quiet", role: "status" });
    this.el.replaceChildren(text, h("div", { class: "car-choices" }, copy, said));
    this.place();
    copy.focus();
    this.view.feed.source(entry, async (source, why) => {
      if (this.entry !== entry) return;
      text.textContent = source === null ? plain(why) : plainLines(source);
      setHidden(copy, source === null);
      this.place();
      if (source === null) return;
      copy.addEventListener("click", () => copyFrom(copy, source));
      const done = await copyText(source);
      said.textContent = done ? "Copied" : "";
      if (done) this.view.feed.announce("Copied");
    });
  }

  close() {
    if (!this.owner) return;
    const { owner } = this;
    const inside = this.el.contains(this.el.getRootNode().activeElement);
    if (this.el.isConnected && this.el.matches(":popover-open")) this.el.hidePopover();
    this.closed();
    if (inside && owner.isConnected) owner.focus({ preventScroll: true });
  }

  closed() {
    if (this.owner) setAttribute(this.owner, "aria-expanded", "false");
    this.owner = this.entry = null;
    window.removeEventListener("scroll", this.moved, { capture: true });
  }
}

/** A button that asks once, in its own place. */
function asking(node, question, act) {
  const box = h("span", { class: "car-asking" }, node);
  node.addEventListener("click", () => {
    if (!isEnabled(node)) return;
    const yes = button(node.dataset.verb, "", { className: "car-framed car-full car-grave" });
    const no = wordy("Keep");
    const back = () => {
      const inside = box.contains(box.getRootNode().activeElement);
      box.replaceChildren(node);
      if (inside) node.focus({ preventScroll: true });
    };
    const said = question();
    setAttribute(yes, "aria-label", said.replace(/\?$/, ""));
    setText(yes.lastChild, node.lastChild.textContent);
    yes.addEventListener("click", () => {
      back();
      act();
    });
    no.addEventListener("click", back);
    box.replaceChildren(h("span", { class: "car-question" }, said), yes, no);
    no.focus({ preventScroll: true });
  });
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || box.firstChild === node) return;
    event.stopPropagation();
    box.lastChild.click();
  });
  box.reset = () => box.firstChild !== node && box.replaceChildren(node);
  return box;
}

// Which of the selected tasks a button means.
const APPLIES = { run: () => true, cancel: (row) => row.run, pause: (row) => row.enabled, resume: (row) => !row.enabled, delete: () => true };

// ---- one view -----------------------------------------------------------------------------------

class View {
  constructor(feed, el) {
    this.feed = feed;
    this.id = unique();
    // Which of this model's views it is, so that a page that is loaded again finds each one's filters.
    const taken = new Set([...feed.views].map(({ place }) => place));
    this.place = 0;
    while (taken.has(this.place)) this.place += 1;
    this.state = { needle: "", filters: {}, sort: { column: "name", down: false }, task: null, execution: null, limit: PAGE, top: 0 };
    this.selected = new Set(); // task ids
    this.order = []; // entries that match, as sorted
    this.forgot = false; // whether something that was told was let go
    this.dirty = MEMBERS;
    this.orderedAt = this.movedAt = -Infinity;
    this.looked = "";
    this.lookedAt = -Infinity;
    this.anchor = null; // the row from which Shift selects
    this.frame = 0;
    this.build(el);
    this.listen();
    this.restore();
    feed.join(this);
    if (feed.seq !== null) this.draw(); // at once, not in the next frame
    this.schedule();
  }

  get key() {
    const { namespace, store } = this.feed.head;
    return `car_sched_nb ${namespace}\n${store}`;
  }

  get own() {
    return `${this.feed.still}:${this.place}`;
  }

  build(el) {
    this.root = h("section", { class: "car-dashboard", "aria-label": "Tasks", "data-state": "loading", "data-view": this.own });
    this.counts = [["running", "running"], ["waiting", "waiting"], ["scheduled", "scheduled"], ["failed_24h", "failed in 24 h"]].map(([field, label]) => {
      const value = h("b", {}, "–");
      return { field, value, el: h("span", { class: "car-count", "data-count": field }, value, ` ${label}`) };
    });
    this.busy = h("span", { class: "car-busy", hidden: "" });
    this.elsewhere = h("span", { class: "car-elsewhere", hidden: "" });
    this.where = h("span", { class: "car-place" });
    this.again = wordy("Ask again");
    this.bannerText = h("span");
    this.banner = h("div", { class: "car-banner", role: "status", hidden: "" }, icon("warn"), this.bannerText, this.again);
    this.notices = new Notices(this);
    this.buildTools();
    this.buildTable();
    this.buildSelection();
    this.pane = new Pane(this);
    this.menu = new Menu(this);
    this.none = h("p", { class: "car-none", hidden: "" });
    this.copy = wordy("Copy");
    this.empty = h("div", { class: "car-empty", hidden: "" }, h("p", { class: "car-title" }, "No tasks yet"),
      h("p", {}, "Run a cell that starts with %%car_task, for example:"),
      h("div", { class: "car-cellbox" }, h("pre", { class: "car-example" }, EXAMPLE), this.copy));
    this.live = h("div", { class: "car-live", "aria-live": "polite" });
    this.said = h("div", { class: "car-said", "aria-hidden": "true", hidden: "" });
    this.root.append(h("div", { class: "car-head" }, ...this.counts.map((count) => count.el), this.busy, this.elsewhere, this.where),
      this.banner, this.notices.el, this.tools, this.table, this.none, this.selection, this.pane.el, this.empty, this.live, this.said);
    el.append(this.root);
  }

  buildTools() {
    this.search = h("input", { type: "search", class: "car-search", placeholder: "Search by name", "aria-label": "Search tasks by name", spellcheck: "false" });
    const filter = (name, label, all, values) => h("select", { class: "car-filter", "data-filter": name, "aria-label": label }, h("option", { value: "" }, all), ...values);
    this.filters = {
      status: filter("status", "Filter by status", "all states", STATUSES.map((status) => h("option", { value: status }, status))),
      runner: filter("runner", "Filter by runner", "all runners", []),
      kind: filter("kind", "Filter by trigger", "all triggers", []),
    };
    this.matches = h("span", { class: "car-matches" });
    this.bell = button("bell", "Notify me", { className: "car-bell" });
    const all = button("cancel_all", "Cancel all", { className: "car-full" });
    this.cancelAll = asking(all, () => `Cancel all ${number(this.feed.head?.running ?? 0)}?`, () =>
      this.feed.command("cancel_all", [...this.feed.entries.values()].filter(({ row }) => row.run)));
    this.tools = h("div", { class: "car-tools" }, this.search, ...Object.values(this.filters), this.matches, this.cancelAll, this.bell);
  }

  buildTable() {
    const probe = h("div", { class: "car-row car-probe", "aria-hidden": "true" }); // measures what the style sheet calls a row
    this.body = h("div", { class: "car-body", role: "rowgroup" }, probe);
    this.all = h("input", { type: "checkbox", class: "car-select car-select-all", "aria-label": "Select all tasks that match" });
    this.header = h("div", { class: "car-header", role: "row", "aria-rowindex": "1" },
      h("div", { class: "car-cell car-select-cell", role: "columnheader" }, this.all, h("span", { class: "car-live" }, "Selection")),
      ...COLUMNS.map(([id, label]) => h("div", { class: `car-cell car-${id}-cell`, role: "columnheader", "aria-sort": "none" },
        h("button", { class: "car-sort", "data-column": id }, label))),
      h("div", { class: "car-cell car-actions-cell", role: "columnheader" }, h("span", { class: "car-live" }, "Actions")));
    this.table = h("div", { class: "car-table", role: "table", tabindex: "-1", "aria-label": "Tasks", "aria-description": "Arrow keys move between rows" },
      h("div", { role: "rowgroup", class: "car-headgroup" }, this.header), this.body);
    this.rows = new Rows(this.table, this.body, makeTask);
    this.rows.redraw = () => this.drawRows(performance.now());
  }

  buildSelection() {
    this.selectedText = h("span", { class: "car-selected-count" });
    this.bulk = ["run", "cancel", "pause", "resume", "delete"].map((verb) => button(verb, "", { className: "car-full" }));
    const remove = this.bulk.at(-1);
    this.bulkDelete = asking(remove, () => `Delete ${counted(this.applicable("delete").length, "task")}?`, () => this.bulkDo("delete"));
    this.clear = wordy("Clear", "car-bare");
    this.selection = h("div", { class: "car-selection", role: "group", "aria-label": "Selected tasks", hidden: "" },
      this.selectedText, ...this.bulk.slice(0, -1), this.bulkDelete, this.clear);
    for (const node of this.bulk.slice(0, -1)) node.addEventListener("click", ({ detail }) => detail < 2 && isEnabled(node) && this.bulkDo(node.dataset.verb));
    this.clear.addEventListener("click", () => this.select([], false, true));
  }

  listen() {
    // Control+S and the like are the application's all the same: for them the mark is taken away while it looks.
    this.letThrough = (event) => {
      if (!(event.ctrlKey || event.metaKey) || !this.root.contains(event.target)) return;
      const marked = [];
      for (let node = event.target; node !== this.root; node = node.parentElement) if (node.hasAttribute(OWN_KEYS)) marked.push(node);
      for (const node of marked) node.removeAttribute(OWN_KEYS);
      setTimeout(() => marked.forEach((node) => node.setAttribute(OWN_KEYS, "true")));
    };
    this.observer = new ResizeObserver(() => this.measure());
    for (const node of [this.rows.probe, this.table, this.pane.rows.probe, this.pane.list]) this.observer.observe(node);
    this.search.addEventListener("input", () => this.filterBy(() => (this.state.needle = this.search.value)));
    for (const [name, node] of Object.entries(this.filters)) node.addEventListener("change", () => this.filterBy(() => (this.state.filters[name] = node.value)));
    this.header.addEventListener("click", (event) => this.sortBy(event.target.closest("[data-column]")?.dataset.column));
    this.table.addEventListener("scroll", () => this.schedule(), { passive: true });
    this.body.addEventListener("click", (event) => this.clicked(event));
    this.all.addEventListener("click", () => this.select(this.order.map(({ row }) => row.id), this.all.checked));
    this.body.addEventListener("pointermove", () => (this.movedAt = performance.now()), { passive: true });
    this.body.addEventListener("pointerleave", () => (this.movedAt = -Infinity));
    window.addEventListener("keydown", this.letThrough, true);
    this.again.addEventListener("click", () => this.feed.hello());
    this.copy.addEventListener("click", () => copyFrom(this.copy, EXAMPLE));
    this.bell.addEventListener("click", () => this.feed.toggleNotify());
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    this.save();
    clearTimeout(this.looking);
    clearTimeout(this.saving);
    clearTimeout(this.saidUntil);
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    window.removeEventListener("keydown", this.letThrough, true);
    this.menu.close();
    this.pane.data.output?.unmark();
    this.feed.kept = this.pane.data;
    this.feed.send({ type: "look", view: this.id, rows: [], task: null, limit: PAGE, execution: null });
    this.feed.leave(this);
    this.root.remove();
  }

  // -- memory

  /** Take over what this view showed before it was drawn again, or before the page was loaded again. */
  restore() {
    if (this.restored || !this.feed.head) return;
    this.restored = true;
    const isLive = ({ view }) => [...document.querySelectorAll(".car-dashboard")].some((node) => node !== this.root && node.dataset.view === view);
    const states = recall(this.key);
    const found = states.find(({ view }) => view === this.own) ?? states.find((state) => !isLive(state));
    if (!found) return;
    const { view, selected, ...state } = found;
    Object.assign(this.state, state);
    if (!this.feed.entries.has(this.state.task)) this.state.task = this.state.execution = null;
    this.selected = new Set((selected ?? []).filter((id) => this.feed.entries.has(id)));
    this.search.value = this.state.needle;
    this.pane.data = this.feed.kept?.task === this.state.task && this.feed.kept ? this.feed.kept : this.pane.data;
    this.feed.kept = null;
    this.pane.show(this.state.task, this.state.execution);
    this.dirty = USER;
    this.scrollTo = this.state.top;
  }

  save() {
    if (!this.restored || !this.feed.head) return;
    if (this.table.isConnected && !this.table.hidden && this.table.clientHeight) this.state.top = this.table.scrollTop;
    remember(this.key, { view: this.own, ...this.state, selected: [...this.selected].slice(0, KEPT_SELECTION) });
  }

  /** The user changed something that is kept. */
  changed() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), 300);
    this.schedule();
  }

  // -- what this view looks at

  lookSoon(again = false) {
    if (again || performance.now() - this.lookedAt > LOOK_AGAIN_MS) this.looked = "";
    if (this.feed.seq === null || this.closed || this.looking) return;
    const message = JSON.stringify(this.look());
    if (message === this.looked) return;
    this.looking = setTimeout(() => {
      this.looking = 0;
      if (this.closed) return;
      const look = this.look();
      // What was closed and opened again so quickly that the kernel did not hear of it has to be told anew.
      if (this.forgot && (look.task ?? look.execution) && (look.task === this.told?.task || look.execution === this.told?.execution))
        this.feed.send({ ...look, task: null, execution: null });
      this.forgot = false;
      this.told = look;
      this.looked = JSON.stringify(look);
      this.lookedAt = performance.now();
      this.feed.send(look);
    }, LOOK_MS);
  }

  look() {
    const { task, execution, limit } = this.state;
    const rows = this.rows.views.map(({ item }) => item.row.id).sort();
    return { type: "look", view: this.id, rows: rows.slice(0, MOST_LOOKED_AT), task, limit, execution: task ? execution : null };
  }

  // -- the user's hand

  openTask(id) {
    const before = this.state.task;
    this.state.task = id;
    this.state.execution = null;
    if (before !== id) this.state.limit = PAGE;
    this.pane.show(id, null);
    const inside = this.pane.el.contains(this.root.getRootNode().activeElement);
    if (id === null && inside) this.focusTask(before);
    this.reveal = id;
    this.changed();
  }

  openExecution(task, execution) {
    const before = this.state.execution;
    if (!this.feed.entries.has(task)) return this.showSaid("This task is gone");
    if (this.state.task !== task) this.openTask(task);
    this.state.execution = execution;
    this.pane.show(task, execution);
    this.changed();
    this.draw();
    if (execution) {
      this.pane.el.scrollIntoView({ block: "nearest" });
      this.pane.detail.title.focus({ preventScroll: true });
    } else {
      const at = this.pane.data.order.findIndex(({ row }) => row.execution_id === before);
      if (at >= 0) this.pane.rows.focus(at, "open");
    }
  }

  focusTask(id) {
    const at = this.order.findIndex(({ row }) => row.id === id);
    if (at >= 0) this.rows.focus(at, "open");
    else this.table.focus({ preventScroll: true });
  }

  /** What a button of an execution does. */
  act(verb, execution, task) {
    const entry = this.feed.entries.get(task);
    this.feed.command(verb, verb === "cancel" && entry ? [entry] : [], execution);
  }

  clicked(event) {
    const view = this.rows.viewOf(event.target);
    if (!view || this.menu.el.contains(event.target)) return;
    const entry = view.item;
    if (event.target === view.select) return this.selectOne(entry, view.select.checked, event.shiftKey);
    const bit = event.target.closest("[data-execution]");
    if (bit) return this.openExecution(entry.row.id, bit.dataset.execution);
    const pressed = event.target.closest("button");
    if (!pressed || !isEnabled(pressed)) return;
    if (pressed === view.open) return this.openTask(this.state.task === entry.row.id ? null : entry.row.id);
    if (pressed === view.more) return this.menu.open(view.more, entry);
    // The second click of a double click is no second wish.
    if (pressed.dataset.verb) return event.detail > 1 || this.feed.command(pressed.dataset.verb, [entry]);
    entry.notice = null;
    view.buttons[0].focus({ preventScroll: true }); // the dismiss button is about to vanish
    this.schedule();
  }

  filterBy(change) {
    change();
    this.dirty = USER;
    this.table.scrollTop = 0;
    this.changed();
  }

  sortBy(column) {
    if (!column) return;
    const { sort } = this.state;
    this.state.sort = { column, down: sort.column === column && !sort.down };
    this.dirty = USER;
    this.changed();
  }

  // -- selection

  selectOne(entry, on, range) {
    const to = this.order.indexOf(entry);
    const from = range && this.anchor ? this.order.indexOf(this.anchor) : -1;
    const entries = from < 0 ? [entry] : this.order.slice(Math.min(from, to), Math.max(from, to) + 1);
    this.anchor = entry;
    this.select(entries.map(({ row }) => row.id), on);
  }

  select(ids, on, none = false) {
    const inside = this.selection.contains(this.root.getRootNode().activeElement);
    if (none) this.selected.clear();
    for (const id of ids) this.selected[on ? "add" : "delete"](id);
    this.bulkDelete.reset();
    this.recount = true;
    if (inside && !this.selected.size) this.all.focus({ preventScroll: true });
    this.changed();
  }

  /** The selected tasks for which a verb means something. */
  applicable(verb) {
    return [...this.selected].map((id) => this.feed.entries.get(id)).filter((entry) => entry && APPLIES[verb](entry.row));
  }

  bulkDo(verb) {
    const entries = this.applicable(verb);
    if (entries.length) this.feed.command(verb, entries);
  }

  // -- drawing

  schedule() {
    if (!this.closed) this.frame ||= requestAnimationFrame(() => this.draw());
  }

  touched(level) {
    const { sort, filters } = this.state;
    if (level === VALUES && sort.column === "name" && !Object.values(filters).some(Boolean)) return;
    this.dirty = Math.max(this.dirty, level);
  }

  /** Tasks are gone: their rows go at once, the order of the others stays. */
  forget() {
    const { entries } = this.feed;
    this.order = this.order.filter(({ row }) => entries.has(row.id));
    for (const id of this.selected) if (!entries.has(id)) this.selected.delete(id);
    if (this.state.task && !entries.has(this.state.task)) this.openTask(null);
  }

  showSaid(text) {
    setText(this.said, text);
    setHidden(this.said, false);
    clearTimeout(this.saidUntil);
    this.saidUntil = setTimeout(() => setHidden(this.said, true), 5000);
  }

  measure() {
    this.rows.measure();
    this.pane.rows.measure();
    this.schedule();
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const now = performance.now();
    this.rows.read();
    this.pane.rows.read();
    const held = now - this.movedAt < HOLD_MS;
    const due = this.dirty === MEMBERS || (this.dirty === VALUES && now - this.orderedAt >= RESORT_MS);
    if (this.dirty === USER || (due && !held)) this.reorder(now);
    this.drawHead(now);
    this.drawTools();
    this.notices.draw(this.feed.nowMs(now));
    this.drawRows(now);
    this.drawSelection(now);
    this.pane.draw(now);
    if (this.scrollTo && this.order.length) {
      this.table.scrollTop = this.scrollTo;
      this.scrollTo = 0;
      this.schedule();
    } else if (this.reveal) this.revealOpened();
    this.lookSoon();
  }

  /** The table becomes lower when a task is opened: its row is kept in sight. */
  revealOpened() {
    const at = this.order.findIndex(({ row }) => row.id === this.reveal);
    this.reveal = null;
    if (at < 0) return;
    const { height, scroller, body } = this.rows;
    const least = (at + 1) * height + body.offsetTop - scroller.clientHeight;
    if (scroller.scrollTop < least) scroller.scrollTop = least;
    else if (scroller.scrollTop > at * height) scroller.scrollTop = at * height;
  }

  reorder(now) {
    this.dirty = NOTHING;
    this.orderedAt = now;
    const { sort, filters } = this.state;
    const needle = this.state.needle.trim().toLowerCase();
    const { status, runner, kind } = filters;
    const order = this.feed.sorted().filter(({ lower, row }) =>
      lower.includes(needle) && (!status || row.status === status || (status === "running" && row.run)) &&
      (!runner || row.runner === runner) && (!kind || row.kind === kind));
    const valueOf = COLUMNS.find(([id]) => id === sort.column)?.[2];
    if (valueOf) sortByValue(order, valueOf, sort.down);
    else if (sort.down) order.reverse();
    this.order = order;
    this.recount = true;
    for (const cell of this.header.children) {
      const column = cell.firstChild?.dataset?.column;
      if (column) setAttribute(cell, "aria-sort", column !== sort.column ? "none" : sort.down ? "descending" : "ascending");
    }
  }

  drawHead(now) {
    const { feed } = this;
    const { head } = feed;
    const since = feed.silentSince();
    const silent = feed.isSilent(now);
    const loading = feed.seq === null;
    const blank = !loading && !feed.entries.size;
    setAttribute(this.root, "data-state", silent ? "silent" : loading ? "loading" : blank ? "empty" : "live");
    setHidden(this.banner, !silent);
    if (silent) setText(this.bannerText, (feed.broken ? "No answer from the kernel: the message could not be sent."
      : `No answer from the kernel for ${span(now - since, true)}: it is busy or gone.`)
      + " After a restart run this cell again." + (loading ? "" : " What is shown may be out of date."));
    setHidden(this.empty, !blank);
    setHidden(this.tools, loading || blank);
    setHidden(this.table, loading || blank || !this.order.length);
    setHidden(this.none, blank || (loading ? silent : this.order.length > 0));
    setText(this.none, loading ? "Asking the kernel …" : "No task matches.");
    if (!head) return;
    for (const { field, value, el } of this.counts) {
      setText(value, number(head[field] ?? 0));
      el.classList.toggle("car-some", head[field] > 0);
      if (field === "waiting") setHidden(el, !head.waiting);
    }
    setHidden(this.busy, head.blocked_since_us == null);
    if (head.blocked_since_us != null) setText(this.busy, `kernel busy since ${clock(head.blocked_since_us / 1000)}`);
    const elsewhere = head.elsewhere ?? [];
    setHidden(this.elsewhere, !elsewhere.length);
    const where = elsewhere.map(({ owner, tasks }) => `${counted(tasks, "task")} armed in ${plain(owner)}`);
    setText(this.elsewhere, where.length > 2 ? `${where[0]}, and in ${number(where.length - 1)} others` : where.join(", "));
    setTitle(this.elsewhere, where.join("\n"));
    setText(this.where, [head.namespace, head.store].filter(Boolean).map((text) => tail(plain(text))).join("  ·  "));
    setAttribute(this.where, "title", `namespace ${plain(head.namespace, 2000)}\nstore ${plain(head.store, 2000)}\nowner ${plain(head.owner)}`);
  }

  drawTools() {
    const { feed } = this;
    const [shown, all] = [this.order.length, feed.entries.size];
    setText(this.matches, (shown === all ? "" : `${number(shown)} of `) + counted(all, "task"));
    for (const name of ["runner", "kind"]) this.drawOptions(name);
    for (const [name, node] of Object.entries(this.filters)) if (node.value !== (this.state.filters[name] ?? "")) node.value = this.state.filters[name] ?? "";
    const running = (feed.head?.running ?? 0) + (feed.head?.waiting ?? 0) > 0;
    if (!running) this.cancelAll.reset();
    setHidden(this.cancelAll, !running);
    setHidden(this.bell, !canNotify());
    setAttribute(this.bell, "aria-pressed", String(feed.notify));
    setAttribute(this.bell, "title", feed.notify ? "Notices are shown by the browser too" : "Show notices by the browser too");
  }

  drawOptions(name) {
    const values = [...this.feed.numberOf[name].keys()].filter(Boolean);
    const chosen = this.state.filters[name];
    if (chosen && !values.includes(chosen)) values.push(chosen); // it would be another choice without it
    const key = values.sort().join("\n");
    const node = this.filters[name];
    setHidden(node, values.length < 2 && !chosen);
    if (node.drawn_ === key) return;
    node.drawn_ = key;
    const worded = (value) => (name === "kind" && Object.hasOwn(KINDS, value) ? KINDS[value] : plain(value));
    node.replaceChildren(node.firstChild, ...values.map((value) => h("option", { value }, worded(value))));
    node.value = chosen ?? "";
  }

  drawRows(now) {
    const nowMs = this.feed.nowMs(now);
    this.rows.order = this.order;
    this.rows.draw((view) => {
      if (view.item !== view.before) {
        if (this.menu.owner === view.more) this.menu.close();
        view.before = view.item;
      }
      const { id } = view.item.row;
      paintTask(view, nowMs, { selected: this.selected.has(id), opened: this.state.task === id });
    });
    this.root.classList.toggle("car-with-pane", this.state.task !== null);
  }

  drawSelection(now) {
    const n = this.selected.size;
    // Counting many of them takes a while; once a second does when the user has changed nothing.
    if (this.counted === n && !this.recount && now - this.countedAt < RESORT_MS) return;
    Object.assign(this, { counted: n, recount: false, countedAt: now });
    setHidden(this.selection, !n);
    const whole = n > 0 && n >= this.order.length && this.order.every(({ row }) => this.selected.has(row.id));
    if (this.all.checked !== whole) this.all.checked = whole;
    if (this.all.indeterminate !== (n > 0 && !whole)) this.all.indeterminate = n > 0 && !whole;
    this.root.classList.toggle("car-selecting", n > 0);
    if (!n) return;
    setText(this.selectedText, `${number(n)} selected`);
    for (const node of this.bulk) {
      const { verb } = node.dataset;
      const fits = this.applicable(verb).length;
      setText(node.lastChild, `${VERBS[verb][1]} ${number(fits)}`);
      setAttribute(node, "aria-label", `${VERBS[verb][1]} ${number(fits)}`);
      setEnabled(node, fits > 0);
    }
  }
}

/** Sort in place; what has no value comes last either way, equals stand by name. */
function sortByValue(order, valueOf, down) {
  const sign = down ? -1 : 1;
  for (const entry of order) entry.value = valueOf(entry.row) ?? null;
  order.sort((a, b) => {
    if (a.value === b.value) return a.rank - b.rank;
    if (a.value === null) return 1;
    if (b.value === null) return -1;
    return a.value < b.value ? -sign : sign;
  });
}

/** anywidget calls this once for each model: its feed is made here, and outlives its views. */
export default () => {
  let feed = null;
  return {
    initialize({ model }) {
      feed = new Feed(model);
      return () => feed.close();
    },
    render({ el }) {
      const view = new View(feed, el);
      return () => view.close();
    },
  };
};
