// The dashboard's front end: one anywidget view, no build step, no request to any host.
//
// The kernel sends rows as custom messages, never as traits, whose sync can stall while a cell awaits.
// They are kept in a map; a frame draws only the rows that can be seen, and a row's element stays with
// its task, so that focus and a half-made click never end up on another task.
// Names, answers and errors are hostile text: they pass `plain` and reach the page by textContent only.

const SILENCE_MS = 5_000; // a question without an answer is shown as such after this long
const IDLE_MS = 60_000; // after this long without a word, ask: a kernel that died says nothing
const BUSY_MS = 3_000; // the same while something runs or is due, of which a kernel that lives tells every second
const RESORT_MS = 1_000; // changed values move rows at most this often
const HOLD_MS = 5_000; // and not while the pointer is on its way to a button
const ANNOUNCE_MS = 10_000; // a screen reader hears of changes at most this often
const OVERSCAN = 5; // rows drawn beyond each edge, so that Tab and fast scrolling find them there

const STATUSES = ["running", "failed", "pending", "scheduled", "completed", "disabled"];
const DOING = { run: "starting …", cancel: "cancelling …", pause: "pausing …", resume: "resuming …" };
const LABELS = { run: "Run now", cancel: "Cancel", pause: "Pause", resume: "Resume" };
const EXAMPLE = '%%car_task hello --every 10s\nprint("hello")';

// A column is: its name, its heading, what it is sorted by (names have a rank of their own).
const COLUMNS = [
  ["status", "Status", (row) => STATUSES.indexOf(row.status)],
  ["name", "Name", null],
  ["runner", "Runner", (row) => row.runner],
  ["trigger", "Trigger", (row) => row.trigger],
  ["next", "Next fire", (row) => (row.enabled && row.armed ? row.next_at_us : null)],
  ["last", "Last result", (row) => row.last?.finished_at_us],
  ["served", "Served", (row) => row.served],
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
  cancel: "M4 4h8v8H4z",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  resume: "M4 3v10M7.5 3.5L14 8l-6.5 4.5z",
  warn: "M8 2l6.5 11.5h-13zM8 6.5v3M8 11.5v.1",
};

// ---- text -------------------------------------------------------------------------------------

// Controls, soft hyphen, bidi and other invisible formatting, tags. ZWJ and ZWNJ stay: scripts need them.
const INVISIBLE =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

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

const number = new Intl.NumberFormat().format;
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }).format;
const instant = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" }).format;
const word = (state) => plain(state).replaceAll("_", " ");

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

// ---- elements ---------------------------------------------------------------------------------

// Without this attribute on the element that has the focus, JupyterLab takes Enter from a button, and "d d" there deletes the cell.
const OWN_KEYS = "data-lm-suppress-shortcuts";

function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (tag === "button" || tag === "select" || attributes.tabindex) node.setAttribute(OWN_KEYS, "true");
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

const setIcon = (svg, name) => setAttribute(svg.firstChild, "d", ICONS[name] ?? ICONS.pending);
const setHidden = (node, hidden) => node.hidden !== hidden && (node.hidden = hidden);

function rowButton(verb) {
  return h("button", { type: "button", class: "car-button", "data-verb": verb }, icon(verb), h("span", { class: "car-label" }));
}

/** The elements of one row; `paint` fills them. */
function makeView() {
  const v = { entry: null };
  const cell = (name, ...children) => h("div", { class: `car-cell car-${name}-cell`, role: "cell" }, ...children);
  const span = (name) => (v[name] = h("span", { class: `car-${name}` }));
  v.statusIcon = icon();
  v.statusWord = h("span");
  v.lastIcon = icon();
  v.lastWord = h("span");
  v.status = h("span", { class: "car-status" }, v.statusIcon, v.statusWord);
  v.lastStatus = h("span", { class: "car-last-status" }, v.lastIcon, v.lastWord);
  v.bar = h("span", { class: "car-bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, h("span"));
  v.progress = h("span", { class: "car-progress" }, v.bar, span("done"));
  v.last = h("span", { class: "car-last" }, v.lastStatus, span("when"), span("text"));
  v.dismiss = h("button", { type: "button", class: "car-button car-dismiss" }, icon("failed"));
  v.notice = h("span", { class: "car-notice" }, icon("warn"), span("noticeText"), v.dismiss);
  v.buttons = ["run", "cancel", "pause"].map(rowButton);
  v.nameCell = cell("name", span("name"), span("how"), span("waits"));
  v.lastCell = cell("last", v.progress, v.last, v.notice);
  v.el = h("div", { class: "car-row", role: "row" },
    cell("status", v.status), v.nameCell, cell("runner", span("runner")), cell("trigger", span("trigger")),
    cell("next", span("next")), v.lastCell, cell("served", span("served"), span("failures")), cell("actions", ...v.buttons));
  return v;
}

// ---- one row ----------------------------------------------------------------------------------

/** The state in a row's first cell: a click's own word until the kernel has answered it. */
function stateOf({ row, pending }) {
  if (pending) return { icon: pending.verb === "cancel" ? "cancelling" : "running", text: DOING[pending.verb] };
  const state = row.run?.state ?? row.status;
  return { icon: state, text: word(state) };
}

function statusOf({ row, pending }) {
  return pending?.verb === "cancel" || row.run?.state === "cancelling" ? "cancelling" : row.status;
}

/** Whether the kernel's row shows that what was asked has come true. */
function settled({ row, pending }) {
  if (pending.verb === "run") return row.run?.execution_id !== pending.before || row.last?.finished_at_us !== pending.last;
  if (pending.verb === "cancel") return row.run?.state === "cancelling" || row.run?.execution_id !== pending.before;
  return row.enabled === (pending.verb === "resume");
}

function paint(v, nowMs) {
  const { row, pending, notice } = v.entry;
  const state = stateOf(v.entry);
  const name = plain(row.name);
  setAttribute(v.el, "data-task", row.name);
  setAttribute(v.el, "data-status", statusOf(v.entry));
  setAttribute(v.el, "data-state", pending ? "asked" : state.icon);
  setIcon(v.statusIcon, state.icon);
  setText(v.statusWord, state.text);
  setText(v.name, name);
  setAttribute(v.name, "title", plain(row.name, 2000));
  setText(v.runner, plain(row.runner));
  setText(v.trigger, plain(row.trigger));
  setAttribute(v.trigger, "title", plain(row.trigger, 2000));
  setText(v.how, `${plain(row.runner)} · ${plain(row.trigger)}`);
  const waits = row.waits || (row.run?.state === "waiting" ? row.run.wait_reason : null);
  setText(v.waits, waits ? `waits: ${plain(waits)}` : "");
  setAttribute(v.waits, "title", plain(waits, 2000));
  setHidden(v.waits, !waits);
  setHidden(v.how, Boolean(waits));
  paintNext(v, row, nowMs);
  paintProgress(v, row, nowMs);
  paintLast(v, row, nowMs);
  setText(v.served, number(row.served ?? 0));
  setText(v.failures, row.failed ? `${number(row.failed)} failed` : "");
  setHidden(v.notice, !notice);
  setText(v.noticeText, plain(notice));
  setAttribute(v.notice, "title", plain(notice, 2000));
  setAttribute(v.dismiss, "aria-label", `Dismiss the message about ${name}`);
  paintButton(v.buttons[0], "run", name, !pending);
  paintButton(v.buttons[1], "cancel", name, Boolean(row.run) && row.run.state !== "cancelling" && pending?.verb !== "cancel");
  paintButton(v.buttons[2], row.enabled ? "pause" : "resume", name, !pending);
}

function paintNext(v, row, nowMs) {
  const left = row.next_at_us / 1000 - nowMs;
  let text = "–";
  if (row.enabled && !row.armed) text = "not armed";
  else if (row.enabled && row.next_at_us != null) text = left > 0 ? `in ${span(Math.ceil(left / 1000) * 1000, true)}` : "due";
  setText(v.next, text);
  setAttribute(v.next, "title", text === "not armed" ? "stored, and planned by no owner: run its cell, or %car arm" : plain(row.next_text));
}

function paintProgress(v, row, nowMs) {
  const run = row.run && row.run.state !== "waiting" ? row.run : null;
  setHidden(v.progress, !run);
  v.last.classList.toggle("car-beside", Boolean(run));
  if (!run) return;
  const { done, total, note } = run.progress ?? {};
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : null;
  v.bar.classList.toggle("car-endless", share === null);
  v.bar.firstChild.style.transform = share === null ? "" : `scaleX(${share})`;
  setAttribute(v.bar, "aria-label", `Progress of ${plain(row.name)}`);
  if (share === null) v.bar.removeAttribute("aria-valuenow");
  else setAttribute(v.bar, "aria-valuenow", String(Math.round(share * 100)));
  const parts = [
    share === null ? (done > 0 ? number(done) : null) : `${Math.floor(share * 100)} %`,
    run.started_at_us == null ? null : span(Math.max(0, nowMs - run.started_at_us / 1000), true),
    note ? plain(note) : null,
  ];
  setText(v.done, parts.filter(Boolean).join(" · "));
  setAttribute(v.done, "title", plain(note, 2000));
}

function paintLast(v, row, nowMs) {
  const last = row.last;
  setHidden(v.last, !last);
  setAttribute(v.el, "data-last-status", last?.status ?? "");
  if (!last) return;
  setIcon(v.lastIcon, last.status);
  setText(v.lastWord, word(last.status));
  const finishedMs = last.finished_at_us == null ? null : last.finished_at_us / 1000;
  const took = last.duration_us == null ? null : span(last.duration_us / 1000);
  setText(v.when, [took, finishedMs === null ? null : ago(nowMs - finishedMs)].filter(Boolean).join(" · "));
  const text = [last.reason, last.text].filter(Boolean).join(": ");
  setText(v.text, plain(text));
  setAttribute(v.last, "title", [finishedMs === null ? "" : instant(finishedMs), plain(text, 2000)].filter(Boolean).join("\n"));
}

// aria-disabled, not disabled: a button that is switched off while it has the focus would lose it.
function paintButton(button, verb, name, enabled) {
  if (button.dataset.verb !== verb) setIcon(button.firstChild, verb);
  setAttribute(button, "data-verb", verb);
  setText(button.lastChild, LABELS[verb]);
  setAttribute(button, "aria-label", `${LABELS[verb]} ${name}`);
  setAttribute(button, "title", LABELS[verb]);
  setAttribute(button, "aria-disabled", String(!enabled));
}

// ---- one view ---------------------------------------------------------------------------------

const NOTHING = 0, VALUES = 1, MEMBERS = 2, USER = 3; // what made the order of the rows out of date

class Dashboard {
  constructor(model, el) {
    this.model = model;
    this.entries = new Map(); // task id -> what is known of it, see `put`
    this.byName = null; // all entries by name; null when tasks came or went
    this.order = []; // entries that match, as sorted
    this.sort = { column: "name", down: false };
    this.views = [];
    this.sent = new Map(); // command id -> entry
    this.changes = new Map(); // task id -> state, to be announced
    this.head = null;
    this.seq = null;
    this.offsetMs = 0; // the kernel's clock minus ours
    this.dirty = NOTHING;
    this.orderedAt = this.announcedAt = this.movedAt = -Infinity;
    this.heardAt = this.tickedAt = performance.now();
    this.helloAt = null; // when the unanswered question was asked
    this.broken = false; // sending itself failed
    this.silent = false;
    this.rowHeight = 48;
    this.viewHeight = 480;
    this.build(el);
    this.listen();
    this.hello();
    this.schedule();
  }

  build(el) {
    this.root = h("section", { class: "car-dashboard", "aria-label": "Tasks", "data-state": "loading" });
    this.counts = ["running", "scheduled", "failed in 24 h"].map((label) => {
      const value = h("b", {}, "–");
      return { value, el: h("span", { class: "car-count" }, value, ` ${label}`) };
    });
    this.busy = h("span", { class: "car-busy", hidden: "" });
    this.place = h("span", { class: "car-place" });
    this.again = h("button", { type: "button", class: "car-button car-framed" }, "Ask again");
    this.bannerText = h("span");
    this.banner = h("div", { class: "car-banner", role: "status", hidden: "" }, icon("warn"), this.bannerText, this.again);
    this.search = h("input", { type: "search", class: "car-search", placeholder: "Search by name", "aria-label": "Search tasks by name",
      spellcheck: "false" });
    this.filter = h("select", { class: "car-filter", "aria-label": "Filter by status" }, h("option", { value: "" }, "all states"),
      ...STATUSES.map((status) => h("option", { value: status }, status)));
    this.matches = h("span", { class: "car-matches" });
    this.tools = h("div", { class: "car-tools" }, this.search, this.filter, this.matches);
    this.probe = h("div", { class: "car-row car-probe", "aria-hidden": "true" }); // measures what the style sheet calls a row
    this.body = h("div", { class: "car-body", role: "rowgroup" }, this.probe);
    this.header = h("div", { class: "car-header", role: "row", "aria-rowindex": "1" }, ...COLUMNS.map(([id, label]) =>
      h("div", { class: `car-cell car-${id}-cell`, role: "columnheader", "aria-sort": "none" },
        h("button", { type: "button", class: "car-sort", "data-column": id }, label))),
      h("div", { class: "car-cell car-actions-cell", role: "columnheader", "aria-label": "Actions" }));
    this.table = h("div", { class: "car-table", role: "table", tabindex: "0", "aria-label": "Tasks",
      "aria-description": "Arrow keys move between the buttons of rows" },
      h("div", { role: "rowgroup", class: "car-headgroup" }, this.header), this.body);
    this.none = h("p", { class: "car-none", hidden: "" });
    this.copy = h("button", { type: "button", class: "car-button car-framed" }, "Copy");
    this.example = h("pre", { class: "car-example" }, EXAMPLE);
    this.empty = h("div", { class: "car-empty", hidden: "" }, h("p", { class: "car-title" }, "No tasks yet"),
      h("p", {}, "Run a cell that starts with %%car_task, for example:"), h("div", { class: "car-cellbox" }, this.example, this.copy));
    this.live = h("div", { class: "car-live", "aria-live": "polite" });
    this.root.append(h("div", { class: "car-head" }, ...this.counts.map((count) => count.el), this.busy, this.place),
      this.banner, this.tools, this.table, this.none, this.empty, this.live);
    el.append(this.root);
  }

  listen() {
    this.receive = this.receive.bind(this);
    this.model.on("msg:custom", this.receive);
    // JupyterLab says so when a kernel restarts, and when it is there again: then a question tells what is true.
    this.reconnect = () => this.hello();
    this.model.on("comm_live_update", this.reconnect);
    this.timer = setInterval(() => this.tick(), 1000);
    this.observer = new ResizeObserver(() => this.measure());
    this.observer.observe(this.probe);
    this.observer.observe(this.table);
    this.search.addEventListener("input", () => this.reorderFor("top"));
    this.filter.addEventListener("change", () => this.reorderFor("top"));
    this.header.addEventListener("click", (event) => this.sortBy(event.target.closest("[data-column]")?.dataset.column));
    this.table.addEventListener("scroll", () => this.schedule(), { passive: true });
    this.table.addEventListener("keydown", (event) => this.moveFocus(event));
    this.body.addEventListener("click", (event) => this.clicked(event.target.closest("button")));
    this.body.addEventListener("pointermove", () => (this.movedAt = performance.now()), { passive: true });
    this.body.addEventListener("pointerleave", () => (this.movedAt = -Infinity));
    this.again.addEventListener("click", () => this.hello());
    this.copy.addEventListener("click", () => this.copyExample());
  }

  close() {
    clearInterval(this.timer);
    clearTimeout(this.copied);
    cancelAnimationFrame(this.frame);
    this.observer.disconnect();
    this.model.off("msg:custom", this.receive);
    this.model.off("comm_live_update", this.reconnect);
    this.closed = true;
    this.root.remove();
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
    else if (message?.type === "snapshot") this.takeSnapshot(message);
    else if (message?.type === "update" && this.seq !== null) this.takeUpdate(message);
    else return;
    this.heardAt = performance.now();
    this.broken = false;
    this.schedule();
  }

  takeSnapshot({ seq, now_us, head, rows }) {
    this.takeHead(seq, now_us, head);
    const ids = new Set(rows.map((row) => row.id));
    this.forget([...this.entries.keys()].filter((id) => !ids.has(id)));
    for (const row of rows) this.put(row);
    // It answers for the clicks whose own answer was lost, too.
    for (const entry of this.sent.values()) if (performance.now() - entry.pending?.sentAt > SILENCE_MS) this.release(entry);
    this.helloAt = null;
  }

  takeUpdate({ seq, now_us, head, rows, gone }) {
    const lost = seq !== this.seq + 1;
    // Rows are whole, so they are right even after a gap; only what the lost message held is missing.
    this.takeHead(seq, now_us, head);
    this.forget(gone ?? []);
    for (const row of rows) this.put(row);
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
    if (entry?.row.name !== row.name) {
      entry ??= { row, lower: "", key: "", rank: 0, index: -1, value: null, view: null, pending: null, notice: null };
      this.entries.set(row.id, entry);
      // Natural order (load-2 before load-10) by a plain comparison, 10 times faster than a collator.
      entry.lower = row.name.toLowerCase();
      entry.key = entry.lower.replace(/\d+/g, (digits) => digits.padStart(12, "0"));
      this.byName = null;
      this.dirty = Math.max(this.dirty, MEMBERS);
    }
    if (entry.row.status !== row.status || entry.row.enabled !== row.enabled) this.changes.set(row.id, row.status);
    else if (row.last && entry.row.last?.finished_at_us !== row.last.finished_at_us) this.changes.set(row.id, row.last.status);
    entry.row = row;
    if (entry.pending && (entry.pending.acked || settled(entry))) this.release(entry);
    if (this.sort.column !== "name" || this.filter.value) this.dirty = Math.max(this.dirty, VALUES);
  }

  forget(ids) {
    let shown = false;
    for (const id of ids) {
      const entry = this.entries.get(id);
      if (!entry) continue;
      this.release(entry);
      this.entries.delete(id);
      shown ||= entry.index >= 0;
      entry.index = -1;
      this.changes.delete(id);
      this.byName = null;
    }
    if (shown) this.setOrder(this.order.filter((entry) => this.entries.has(entry.row.id)));
  }

  release(entry) {
    if (entry.pending) this.sent.delete(entry.pending.id);
    entry.pending = null;
  }

  command(entry, verb) {
    const id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
    const { row } = entry;
    this.release(entry);
    entry.notice = null;
    entry.pending = { id, verb, sentAt: performance.now(), acked: false, before: row.run?.execution_id, last: row.last?.finished_at_us };
    this.sent.set(id, entry);
    if (this.send({ type: "command", id, verb, tasks: [row.id] })) return;
    this.release(entry);
    entry.notice = `${LABELS[verb]} was not sent: no answer from the kernel`;
  }

  acknowledge({ id, ok, text }) {
    const entry = this.sent.get(id);
    if (!entry) return; // another view's click
    if (!ok) {
      entry.notice = text || "refused, without a reason";
      this.announce(`${plain(entry.row.name)}: ${plain(entry.notice)}`);
    }
    // An accepted click keeps its word until the row has changed, else "running" would flash up again.
    entry.pending.acked = true;
    entry.pending.sentAt = performance.now();
    if (!ok || settled(entry)) this.release(entry);
  }

  /** Since when a question is without an answer; null when there is none. */
  silentSince() {
    const asked = [...this.sent.values()].filter((entry) => !entry.pending.acked).map((entry) => entry.pending.sentAt);
    if (this.helloAt !== null) asked.push(this.helloAt);
    return asked.length ? Math.min(...asked) : null;
  }

  tick() {
    if (document.hidden) return;
    const now = performance.now();
    const slept = now - this.tickedAt > 10_000; // asleep or hidden: messages may be lost
    this.tickedAt = now;
    if (this.helloAt === null && (slept || now - this.heardAt > (this.expectsNews() ? BUSY_MS : IDLE_MS))) this.hello();
    for (const entry of this.sent.values())
      if (entry.pending.acked && now - entry.pending.sentAt > 2000) this.release(entry); // nothing changed: nothing to wait for
    if (this.changes.size && now - this.announcedAt > ANNOUNCE_MS) this.announceChanges();
    this.schedule();
  }

  expectsNews() {
    const dueUs = (Date.now() + this.offsetMs - BUSY_MS) * 1000;
    const isDue = ({ row }) => row.enabled && row.armed && !row.waits && row.next_at_us != null && row.next_at_us < dueUs;
    return this.head?.running > 0 || [...this.entries.values()].some(isDue);
  }

  announceChanges() {
    const counts = new Map();
    for (const state of this.changes.values()) counts.set(state, (counts.get(state) ?? 0) + 1);
    const named = ([id, state]) => `${plain(this.entries.get(id).row.name, 60)} ${word(state)}`;
    const counted = ([state, n]) => `${number(n)} ${word(state)}`;
    this.announce((this.changes.size <= 3 ? [...this.changes].map(named) : [...counts].map(counted)).join(", "));
    this.changes.clear();
  }

  announce(text) {
    this.announcedAt = performance.now();
    setText(this.live, text);
  }

  // -- the user's hand

  clicked(button) {
    const entry = button && this.views.find((view) => view.el.contains(button))?.entry;
    if (!entry || button.getAttribute("aria-disabled") === "true") return;
    if (button.dataset.verb) return this.command(entry, button.dataset.verb);
    entry.notice = null;
    entry.view.buttons[0].focus({ preventScroll: true }); // the dismiss button is about to vanish
    this.schedule();
  }

  sortBy(column) {
    if (!column) return;
    this.sort = { column, down: this.sort.column === column && !this.sort.down };
    this.reorderFor();
  }

  reorderFor(position) {
    this.dirty = USER;
    if (position === "top") this.table.scrollTop = 0;
    this.schedule();
  }

  moveFocus(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const view = step && this.views.find((view) => view.el.contains(event.target));
    const entry = view && this.order[view.entry.index + step];
    if (!entry) return;
    event.preventDefault();
    const which = Math.max(0, view.buttons.indexOf(event.target));
    if (!entry.view) this.drawRows(entry.index * this.rowHeight); // focus may have been left far outside
    entry.view.buttons[which].focus();
  }

  async copyExample() {
    try {
      await navigator.clipboard.writeText(EXAMPLE);
    } catch {
      // No clipboard without a secure origin; the older way needs a selection, which also serves Ctrl+C.
      getSelection().selectAllChildren(this.example);
      if (!document.execCommand("copy")) return;
    }
    this.copy.textContent = "Copied";
    this.copied = setTimeout(() => (this.copy.textContent = "Copy"), 2000);
  }

  // -- drawing

  schedule() {
    if (!this.closed) this.frame ||= requestAnimationFrame(() => this.draw());
  }

  measure() {
    this.rowHeight = this.probe.offsetHeight || this.rowHeight; // 0 while the cell is hidden
    // The most that can be seen, not what is: a table of one row must not start the next one with holes.
    this.viewHeight = parseFloat(getComputedStyle(this.table).maxHeight) || this.viewHeight;
    this.schedule();
  }

  draw() {
    this.frame = 0;
    const now = performance.now();
    const top = this.table.scrollTop; // read before the first write, so that nothing is laid out twice
    const held = now - this.movedAt < HOLD_MS;
    const due = this.dirty === MEMBERS || (this.dirty === VALUES && now - this.orderedAt >= RESORT_MS);
    if (this.dirty === USER || (due && !held)) this.reorder(now);
    this.drawHead(now);
    this.drawRows(top);
  }

  reorder(now) {
    this.dirty = NOTHING;
    this.orderedAt = now;
    if (!this.byName) {
      this.byName = [...this.entries.values()].sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
      this.byName.forEach((entry, rank) => (entry.rank = rank));
    }
    const needle = this.search.value.trim().toLowerCase();
    const status = this.filter.value;
    const { column, down } = this.sort;
    const order = this.byName.filter(({ lower, row }) =>
      lower.includes(needle) && (!status || row.status === status || (status === "running" && row.run)));
    const valueOf = COLUMNS.find(([id]) => id === column)[2];
    if (valueOf) sortByValue(order, valueOf, down);
    else if (down) order.reverse();
    for (const entry of this.entries.values()) entry.index = -1;
    this.setOrder(order);
    for (const cell of this.header.children)
      if (cell.firstChild) setAttribute(cell, "aria-sort", cell.firstChild.dataset.column !== column ? "none" : down ? "descending" : "ascending");
  }

  setOrder(order) {
    this.order = order;
    order.forEach((entry, index) => (entry.index = index));
  }

  drawHead(now) {
    const { head } = this;
    const since = this.silentSince();
    const silent = (this.silent = this.broken || (since !== null && now - since > SILENCE_MS));
    const loading = this.seq === null;
    const blank = !loading && !this.entries.size;
    setAttribute(this.root, "data-state", silent ? "silent" : loading ? "loading" : blank ? "empty" : "live");
    setHidden(this.banner, !silent);
    if (silent) setText(this.bannerText, (this.broken ? "No answer from the kernel: the message could not be sent."
      : `No answer from the kernel for ${span(now - since, true)}: it is busy or gone.`)
      + " After a restart run this cell again." + (loading ? "" : " What is shown may be out of date."));
    setHidden(this.empty, !blank);
    setHidden(this.tools, loading || blank);
    setHidden(this.table, loading || blank || !this.order.length);
    setHidden(this.none, blank || (loading ? silent : this.order.length > 0));
    setText(this.none, loading ? "Asking the kernel …" : "No task matches.");
    const [shown, all] = [this.order.length, this.entries.size];
    setText(this.matches, (shown === all ? "" : `${number(shown)} of `) + `${number(all)} task${all === 1 ? "" : "s"}`);
    if (!head) return;
    [head.running, head.scheduled, head.failed_24h].forEach((value, i) => {
      setText(this.counts[i].value, number(value));
      this.counts[i].el.classList.toggle("car-some", value > 0);
    });
    setHidden(this.busy, head.blocked_since_us == null);
    if (head.blocked_since_us != null) setText(this.busy, `kernel busy since ${clock(head.blocked_since_us / 1000)}`);
    setText(this.place, [head.namespace, head.store].filter(Boolean).map((text) => tail(plain(text))).join("  ·  "));
    setAttribute(this.place, "title", `namespace ${plain(head.namespace, 2000)}\nstore ${plain(head.store, 2000)}\nowner ${plain(head.owner)}`);
  }

  drawRows(scrollTop) {
    const { order, rowHeight } = this;
    const top = Math.max(0, Math.min(scrollTop, order.length * rowHeight - this.viewHeight));
    const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
    const wanted = order.slice(first, Math.ceil((top + this.viewHeight) / rowHeight) + OVERSCAN);
    const active = this.root.getRootNode().activeElement;
    const focused = this.views.find((view) => view.el.contains(active));
    // The row that has the focus stays, wherever it is scrolled to.
    if (focused && focused.entry.index < 0) this.table.focus({ preventScroll: true });
    else if (focused && !wanted.includes(focused.entry)) wanted[focused.entry.index < first ? "unshift" : "push"](focused.entry);
    const keep = new Set(wanted);
    const spare = this.views.filter((view) => !keep.has(view.entry));
    for (const view of spare) view.entry.view = null;
    this.views = wanted.map((entry) => {
      const view = (entry.view ??= spare.pop() ?? makeView());
      view.entry = entry;
      return view;
    });
    for (const view of spare) view.el.remove();
    this.arrange(focused);
    // Without an answer time stands still: a run that went on counting would pretend to be alive.
    const nowMs = Date.now() + this.offsetMs - (this.silent ? performance.now() - this.heardAt : 0);
    for (const view of this.views) {
      view.el.style.transform = `translateY(${view.entry.index * rowHeight}px)`;
      setAttribute(view.el, "aria-rowindex", String(view.entry.index + 2));
      paint(view, nowMs);
    }
    setAttribute(this.table, "aria-rowcount", String(order.length + 1));
    this.body.style.height = `${order.length * rowHeight}px`;
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

export default {
  render({ model, el }) {
    const dashboard = new Dashboard(model, el);
    return () => dashboard.close();
  },
};
