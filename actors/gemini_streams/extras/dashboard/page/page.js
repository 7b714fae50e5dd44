"use strict";
// The page of the dashboard. Whatever comes from the server is put into the document as text (textContent) and never as
// markup. Rows and nodes are kept by their keys, so that focus, selection and open parts stay where they are.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PAGE = 100;
const ENDED = new Set(["completed", "error", "stopped"]);
const COLUMNS = [
  // name, label, kind; the places in a row follow NAMES
  ["stream_id", "Stream", "id"], ["tag", "Tag", "tag"], ["model", "Model", "model"], ["status", "Status", "status"],
  ["age", "Age", "number"], ["events", "Events", "number"], ["rate", "Events/s", "number"], ["attempt", "Attempt", "number"],
  ["subscribers", "Subscribers", "number"], ["waiting", "Waiting", "number"], ["paused", "Paused", "number paused"],
  ["error", "Last error", "error"],
];
const NAMES = ["run", "stream_id", "tag", "model", "status", "started_at", "lasted", "events", "rate", "attempt",
  "subscribers", "waiting", "paused", "error", "manager"];
const FIGURES = [
  ["running", "Running"], ["queued", "Queued"], ["restarting", "Restarting"], ["paused", "Paused"],
  ["subscribers", "Subscribers"], ["waiting", "Events waiting"], ["events", "Events/s"], ["failures", "Failures/s"],
];
const state = { rows: new Map(), histories: {}, figures: {}, counts: {}, tree: [], failures: [], minutes: [],
  offset: 0, sort: "", down: false, page: 0, heard: 0, live: false };

// -- helpers

function text(element, value) {
  const said = value === null || value === undefined ? "" : String(value);
  if (element.textContent !== said) element.textContent = said;
}
function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
function make(tag, kind, said) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (said !== undefined) made.textContent = said;
  return made;
}
function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
// Make the children of a parent those of the items, in their order; what has the same key stays the same element.
function keep(parent, items, keyOf, build, update) {
  const held = parent.kept || (parent.kept = new Map());
  const wanted = new Set();
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    if (wanted.has(key)) continue;
    wanted.add(key);
    let element = held.get(key);
    if (!element) { element = build(item); held.set(key, element); }
    update(element, item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const [key, element] of held) if (!wanted.has(key)) { element.remove(); held.delete(key); }
}
function number(value) {
  if (value === null || value === undefined) return "";
  if (Math.abs(value) >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (Math.abs(value) >= 1e5) return Math.round(value / 1e3) + " k";
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}
function seconds(value) {
  if (value < 10) return value.toFixed(1) + " s";
  if (value < 120) return Math.floor(value) + " s";
  if (value < 7200) return Math.floor(value / 60) + " min";
  return value < 172800 ? Math.floor(value / 3600) + " h" : Math.floor(value / 86400) + " d";
}
function clock(at, exact) {
  const date = new Date(at * 1000);
  const pad = (part, size = 2) => String(part).padStart(size, "0");
  const said = `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
  return exact ? `${said}.${pad(date.getMilliseconds(), 3)}` : said;
}
const now = () => Date.now() / 1000 + state.offset;
const age = (row) => (row.lasted === null ? Math.max(0, now() - row.started_at) : row.lasted);
const tagOf = (tag) => (tag === null || tag === undefined ? "" : String(tag));

// -- what the server sends

function take(data) {
  state.offset = data.at - Date.now() / 1000;
  state.heard = Date.now();
  if (data.whole) { state.rows.clear(); state.histories = data.histories; }
  else for (const [name, value] of Object.entries(data.histories)) {
    const history = state.histories[name] || (state.histories[name] = []);
    history.push(value);
    if (history.length > 180) history.shift();
  }
  for (const values of data.rows) {
    const row = {};
    NAMES.forEach((name, place) => { row[name] = values[place]; });
    state.rows.set(row.run, row);
  }
  for (const run of data.gone) state.rows.delete(run);
  for (const name of ["figures", "counts", "tree", "failures", "minutes"]) state[name] = data[name];
}

let source = null;
let again = null;
function connect() {
  clearTimeout(again);
  if (source) source.close();
  source = new EventSource("events");
  source.onmessage = (message) => {
    take(JSON.parse(message.data));
    link("live", "live");
    show();
  };
  source.onerror = async () => {
    if (source.readyState !== EventSource.CLOSED) { link("lost", "lost; trying again"); return; }
    // The browser has given up: the server has answered, but not with events.
    link("lost", "all places for viewers are taken; trying again");
    again = setTimeout(connect, 5000);
  };
}
function link(kind, said) {
  mark($("link"), "data-state", kind);
  text($("link"), said);
}

// -- figures

function showFigures() {
  keep($("figures"), FIGURES, ([name]) => name, ([name, label]) => {
    const made = make("li");
    made.dataset.name = name;
    made.append(make("span", "name", label), make("span", "value"), make("span", "of"));
    const picture = drawn("svg", { viewBox: "0 0 179 26", preserveAspectRatio: "none", "aria-hidden": "true" });
    picture.append(drawn("path", { d: "" }));
    made.append(picture);
    return made;
  }, (element, [name]) => {
    text(element.children[1], number(state.figures[name] ?? 0));
    text(element.children[2], name === "running" && state.counts.slots ? `of ${state.counts.slots}` : "");
    const history = state.histories[name] || [];
    const most = Math.max(1, ...history);
    const first = 180 - history.length;
    const line = history.map((value, place) =>
      `${place ? "L" : "M"}${first + place} ${(24.5 - (value / most) * 23).toFixed(1)}`).join("");
    mark(element.querySelector("path"), "d", line);
  });
  const c = state.counts;
  text($("counts"), `${number(c.started)} started, ${number(c.completed)} completed, ${number(c.failed)} failed, ` +
    `${number(c.stopped)} stopped, ${number(c.restarts)} restarts; ${c.managers} manager${c.managers === 1 ? "" : "s"}` +
    (c.lost ? `; ${number(c.lost)} records lost to slow observers` : ""));
}

// -- the table of streams

function heads() {
  const first = make("option", "", "running first");
  first.value = " up";
  $("sort").append(first);
  const row = $("streams").tHead.rows[0];
  for (const [name, label, kind] of COLUMNS) {
    const head = make("th", kind.startsWith("number") ? "number" : "");
    head.scope = "col";
    head.setAttribute("role", "columnheader");
    const button = make("button", "", label);
    button.type = "button";
    button.addEventListener("click", () => {
      if (state.sort === name) state.down = !state.down;
      else { state.sort = name; state.down = ["events", "rate", "attempt", "subscribers", "waiting", "paused", "error"].includes(name); }
      state.page = 0;
      show();
    });
    head.dataset.name = name;
    head.append(button);
    row.append(head);
    for (const down of [false, true]) {
      const option = make("option", "", `${label} ${down ? "\u2193" : "\u2191"}`);
      option.value = `${name} ${down ? "down" : "up"}`;
      $("sort").append(option);
    }
  }
}
function valueOf(row, name) {
  if (name === "age") return age(row);
  const value = row[name];
  return name === "tag" ? tagOf(value) : value;
}
function compare(one, two) {
  if (!state.sort) {
    const ended = ENDED.has(one.status) - ENDED.has(two.status);
    return ended || two.started_at - one.started_at || (one.run < two.run ? -1 : 1);
  }
  const a = valueOf(one, state.sort), b = valueOf(two, state.sort);
  const none = (value) => value === null || value === undefined || value === "";
  if (none(a) || none(b)) { if (none(a) !== none(b)) return none(a) ? 1 : -1; }
  else if (a !== b) {
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    if (order) return state.down ? -order : order;
  }
  return two.started_at - one.started_at || (one.run < two.run ? -1 : 1);
}
function chosen() {
  const wanted = $("filter").value.trim().toLowerCase();
  const status = $("status").value;
  const found = [];
  for (const row of state.rows.values()) {
    if (status && row.status !== status) continue;
    if (wanted && ![row.stream_id, tagOf(row.tag), row.model, row.error || "", row.manager]
      .some((value) => value.toLowerCase().includes(wanted))) continue;
    found.push(row);
  }
  return found.sort(compare);
}
let order = [];
function showStreams() {
  const body = $("streams").tBodies[0];
  let rows = chosen();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const total = rows.length;
  rows = rows.slice(state.page * PAGE, (state.page + 1) * PAGE);
  if (body.contains(document.activeElement)) {
    // The keyboard's focus is on a row: rows keep their places, or the focus would be lost.
    const there = new Set(rows.map((row) => row.run));
    const held = order.filter((run) => there.has(run));
    const byRun = new Map(rows.map((row) => [row.run, row]));
    rows = [...held.map((run) => byRun.get(run)), ...rows.filter((row) => !held.includes(row.run))];
  }
  order = rows.map((row) => row.run);
  keep(body, rows, (row) => row.run, () => {
    const made = make("tr");
    made.setAttribute("role", "row");
    for (const [, label, kind] of COLUMNS) {
      const cell = make("td", kind === "status" ? "" : kind);
      cell.setAttribute("role", "cell");
      cell.dataset.label = label;
      if (kind === "id") cell.append(make("a"));
      if (kind === "status") cell.append(make("span", "status"));
      made.append(cell);
    }
    return made;
  }, (element, row) => {
    const cells = element.children;
    const anchor = cells[0].firstChild;
    text(anchor, row.manager ? `${row.stream_id} (${row.manager})` : row.stream_id);
    mark(anchor, "href", `#/stream/${encodeURIComponent(row.run)}`);
    mark(cells[0], "title", row.stream_id);
    text(cells[1], tagOf(row.tag));
    text(cells[2], row.model);
    text(cells[3].firstChild, row.status);
    mark(cells[3].firstChild, "data-status", row.status);
    text(cells[4], seconds(age(row)));
    text(cells[5], number(row.events));
    text(cells[6], ENDED.has(row.status) ? "" : number(row.rate));
    text(cells[7], row.attempt);
    text(cells[8], row.subscribers);
    text(cells[9], row.waiting || "");
    text(cells[10], row.paused === null ? "" : seconds(row.paused));
    text(cells[11], row.error);
    mark(cells[11], "title", row.error || "");
  });
  for (const head of $("streams").tHead.rows[0].cells) {
    if (head.dataset.name === state.sort) mark(head, "aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  $("sort").value = `${state.sort} ${state.down ? "down" : "up"}`;
  text($("shown"), total === state.rows.size ? `${total}` : `${total} of ${state.rows.size}`);
  $("none").hidden = total > 0;
  text($("none"), state.rows.size ? "No stream matches." : "No stream runs or lingers.");
  $("streams").parentElement.hidden = total === 0;
  $("previous").parentElement.hidden = pages === 1;
  $("previous").disabled = state.page === 0;
  $("next").disabled = state.page >= pages - 1;
  text($("place"), `${state.page + 1} of ${pages}`);
}

// -- the tree

function showTree() { nodes($("tree"), state.tree); }
function nodes(list, children) {
  const named = new Map();
  const keyed = children.map((node) => {
    const times = named.get(node.id) || 0;
    named.set(node.id, times + 1);
    return [`${node.id} ${times}`, node];
  });
  keep(list, keyed, ([key]) => key, () => {
    const made = make("li");
    const line = make("div", "node");
    line.append(make("span", "id"), make("span", "status"), make("span", "fact"), make("span", "restarts"),
      make("span", "fact"), make("span", "trouble"));
    made.append(line, make("ul"), make("div", "rest"));
    return made;
  }, (element, [, node]) => {
    const [line, below, rest] = element.children;
    const [id, status, kind, restarts, reason, trouble] = line.children;
    text(id, node.name && node.name !== node.id ? `${node.id} (${node.name})` : node.id);
    text(status, node.status);
    mark(status, "data-status", node.status);
    text(kind, node.class);
    text(restarts, node.restarts ? `${node.restarts} restart${node.restarts === 1 ? "" : "s"}` : "");
    text(reason, node.last_reason && node.last_reason !== "Normal" ? `last end: ${node.last_reason}` : "");
    const said = [];
    if (node.inbox > 100) said.push(`${number(node.inbox)} messages wait`);
    if (node.running_for > 5 && node.class !== "StreamActor") said.push(`at one message for ${seconds(node.running_for)}`);
    if (node.dead_letters) said.push(`${number(node.dead_letters)} dead letters`);
    if (node.abandoned) said.push(`${node.abandoned} threads left behind`);
    text(trouble, said.join(", "));
    for (const part of line.children) part.hidden = !part.textContent;
    below.hidden = !node.children.length;
    nodes(below, node.children);
    rest.hidden = !node.left_out;
    text(rest, node.left_out ? `and ${node.left_out} more` : "");
  });
}

// -- failures

function showFailures() {
  const minutes = state.minutes;
  const failed = minutes.reduce((sum, minute) => sum + minute.failed, 0);
  const restarted = minutes.reduce((sum, minute) => sum + minute.restarted, 0);
  const said = `${failed} failed, ${restarted} restarted`;
  text($("sum"), said);
  const most = 2 * Math.ceil(Math.max(4, ...minutes.map((minute) => minute.failed + minute.restarted)) / 2);
  const wide = Math.max(240, $("chart").clientWidth - 16), high = 170, left = 34, low = 148;
  const picture = drawn("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img" });
  const title = drawn("title", {});
  title.textContent = `Failures a minute over the last hour: ${said}; at most ${most} in a minute`;
  picture.append(title);
  const step = (wide - left) / Math.max(1, minutes.length);
  const y = (value) => low - (value / most) * (low - 10);
  for (const part of [0, 0.5, 1]) {
    picture.append(drawn("line", { x1: left, x2: wide, y1: y(most * part), y2: y(most * part) }));
    const label = drawn("text", { x: left - 6, y: y(most * part) + 4, "text-anchor": "end" });
    label.textContent = number(most * part);
    picture.append(label);
  }
  minutes.forEach((minute, place) => {
    const x = left + place * step + 1;
    let base = 0;
    for (const name of ["failed", "restarted"]) {
      if (!minute[name]) continue;
      const bar = drawn("rect", { x, width: Math.max(1, step - 2), y: y(base + minute[name]),
        height: y(base) - y(base + minute[name]), class: name });
      const hint = drawn("title", {});
      hint.textContent = `${clock(minute.at).slice(0, 5)}: ${minute[name]} ${name}`;
      bar.append(hint);
      picture.append(bar);
      base += minute[name];
    }
    if (place % (wide < 600 ? 20 : 10) === 0) {
      const label = drawn("text", { x, y: high - 6 });
      label.textContent = clock(minute.at).slice(0, 5);
      picture.append(label);
    }
  });
  $("chart").replaceChildren(picture);
  const causes = new Map();
  for (const minute of minutes) for (const [cause, count] of Object.entries(minute.causes)) {
    causes.set(cause, (causes.get(cause) || 0) + count);
  }
  keep($("causes"), [...causes].sort((one, two) => two[1] - one[1]), ([cause]) => cause, () => {
    const made = make("li");
    made.append(make("span"), make("b"));
    return made;
  }, (element, [cause, count]) => { text(element.children[0], cause); text(element.children[1], count); });
  $("no-causes").hidden = causes.size > 0;
  $("failures").parentElement.hidden = !state.failures.length;
  keep($("failures").tBodies[0], state.failures, (one) => `${one.at} ${one.run} ${one.what}`, (one) => {
    const made = make("tr");
    made.setAttribute("role", "row");
    const kinds = [["Time", ""], ["What", ""], ["Stream", "id"], ["Model", "model"], ["Error", "error"]];
    for (const [label, kind] of kinds) {
      const cell = make("td", kind);
      cell.dataset.label = label;
      cell.setAttribute("role", "cell");
      made.append(cell);
    }
    const what = make("span", "status", one.what);
    what.dataset.status = one.what;
    const anchor = make("a", "", one.stream_id);
    anchor.href = `#/stream/${encodeURIComponent(one.run)}`;
    made.children[0].textContent = clock(one.at);
    made.children[1].append(what);
    made.children[2].append(anchor);
    made.children[3].textContent = one.model;
    made.children[4].textContent = one.error;
    made.children[4].title = one.error;
    return made;
  }, () => {});
}

// -- one stream

let asked = "";
let asking = false;
async function showStream(run) {
  if (asking) return;
  asking = true;
  if (asked !== run) {
    text($("h-stream"), "Stream");
    $("facts").replaceChildren(); $("facts").kept = null;
    $("steps").replaceChildren(); $("steps").kept = null;
  }
  asked = run;
  try {
    const answer = await fetch(`stream.json?run=${encodeURIComponent(run)}`);
    if (place()[1] !== run) return;
    if (answer.ok) fill(await answer.json());
    else { $("gone").hidden = false; text($("gone"), "Nothing is known of this stream any more."); }
  } catch { /* the server is away; the page says so, and asks again */ } finally {
    asking = false;
    if (place()[0] === "stream" && place()[1] !== run) showStream(place()[1]);
  }
}
function fill({ stream, steps }) {
  $("gone").hidden = stream !== null;
  text($("gone"), stream === null ? "This stream has ended and is no longer kept by its manager." : "");
  if (stream !== null) {
    text($("h-stream"), stream.stream_id);
    const facts = [
      ["Status", stream.status], ["Model", stream.model], ["Tag", tagOf(stream.tag)], ["Endpoint", stream.endpoint],
      ["Started", clock(stream.started_at)], ["Age", seconds(stream.age)], ["Attempt", stream.attempt],
      ["Events", number(stream.events)], ["Subscribers", stream.subscribers],
      ["Events waiting", number(stream.waiting)], ["Bytes waiting", number(stream.waiting_bytes)],
      ["Bytes kept for replays", number(stream.kept_bytes)],
      ["Paused", stream.paused === null ? null : seconds(stream.paused)], ["Last error", stream.error],
    ].filter(([, value]) => value !== "" && value !== null);
    keep($("facts"), facts, ([name]) => name, ([name]) => {
      const made = make("div", name === "Last error" ? "wide" : "");
      made.append(make("dt", "", name), make("dd"));
      return made;
    }, (element, [name, value]) => {
      text(element.children[1], value);
      if (name === "Status") { element.children[1].className = "status"; mark(element.children[1], "data-status", value); }
    });
  }
  const first = steps.length ? steps[0].at : 0;
  keep($("steps"), steps, (step) => `${step.at} ${step.kind} ${step.text}`, (step) => {
    const made = make("li");
    made.dataset.kind = step.kind;
    const time = make("time", "", `${clock(step.at, true)}  +${(step.at - first).toFixed(2)} s`);
    time.dateTime = new Date(step.at * 1000).toISOString();
    made.append(time, make("b", "", step.kind), make("span", "", step.text));
    return made;
  }, () => {});
}

// -- pages

function place() {
  const [, page = "streams", run = ""] = (location.hash || "#/streams").split("/");
  let plain = run;
  try { plain = decodeURIComponent(run); } catch { /* not ours */ }
  return [["streams", "tree", "failures", "stream"].includes(page) ? page : "streams", plain];
}
function show() {
  const [page, run] = place();
  for (const each of ["streams", "tree", "failures", "stream"]) $(`page-${each}`).hidden = each !== page;
  for (const anchor of document.querySelectorAll("nav a")) {
    if (anchor.dataset.page === page) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
  if (!state.heard) return;
  showFigures();
  if (page === "streams") showStreams();
  else if (page === "tree") showTree();
  else if (page === "failures") showFailures();
  else showStream(run);
}
function theme(chosen) {
  if (chosen === "system") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", chosen);
  text($("theme"), `Theme: ${chosen}`);
  try { localStorage.setItem("theme", chosen); } catch { /* a private window keeps nothing */ }
}

heads();
let kept = "system";
try { kept = localStorage.getItem("theme") || "system"; } catch { /* a private window keeps nothing */ }
const THEMES = ["system", "dark", "light"];
theme(THEMES.includes(kept) ? kept : "system");
$("theme").addEventListener("click", () => {
  const present = document.documentElement.getAttribute("data-theme") || "system";
  theme(THEMES[(THEMES.indexOf(present) + 1) % 3]);
});
for (const id of ["filter", "status"]) $(id).addEventListener("input", () => { state.page = 0; show(); });
$("sort").addEventListener("input", () => {
  const [name, way] = $("sort").value.split(" ");
  state.sort = name;
  state.down = way === "down";
  show();
});
$("previous").addEventListener("click", () => { state.page -= 1; show(); });
$("next").addEventListener("click", () => { state.page += 1; show(); });
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
window.addEventListener("hashchange", () => { show(); $("main").focus({ preventScroll: true }); window.scrollTo(0, 0); });
setInterval(() => {
  // A connection that hangs is noticed here: something comes every few seconds.
  if (state.heard && Date.now() - state.heard > 20000) { state.heard = Date.now(); link("lost", "lost; trying again"); connect(); }
}, 5000);
connect();
show();
