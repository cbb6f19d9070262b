// The page: listens to events, and shows what they tell. What guests have written is only ever set as text.

import { area, curveMonotoneX, select } from "./d3.js";
import { Drawing } from "./drawing.js";
import { Matrix } from "./matrix.js";
import { Store } from "./store.js";
import { moment, peer, rate, time } from "./words.js";

const AGAIN = 5000; // ms until a connection that was turned away is tried again
const REDRAW = 500; // ms between two looks at rates, which sink while nothing comes
const ROWS = 200; // of the table
const SPARKS = 60; // points of a fabric's line
const FIND = 12; // fabrics, or peers of the table, from which on they can be searched
const MARKS = { join: "+", leave: "−", refusal: "×", death: "!", resume: "↻", succession: "⇄", fault: "⚡", reload: "⟳", warning: "!" };

const $ = (id) => document.getElementById(id);
const store = new Store();
const drawing = new Drawing($("drawing"), store, choose);
const matrix = new Matrix($("matrix"), $("cell"), $("most"), store);
const sparks = new Map(); // by fabric: its last rates
let chosen = null;
let source = null;
let lost = null; // since when nobody has told anything, in seconds
let current = null; // the fabric whose card was last brought into view

// Listening

function wanted() {
  return named() || store.fabrics.keys().next().value || "";
}

// The fabric that the page's address names, "" for none.
function named() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return ""; // somebody has typed it
  }
}

function listen() {
  source?.close();
  const name = wanted();
  source = new EventSource(`api/v1/events${name ? `?fabric=${encodeURIComponent(name)}` : ""}`);
  const hears = (event, take) => source.addEventListener(event, (message) => take(JSON.parse(message.data)));
  source.onopen = () => connected("live");
  source.onerror = () => {
    connected("reconnecting");
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN);
  };
  hears("state", (told) => {
    store.state(told);
    if (isThere()) return listen();
    return all();
  });
  hears("fabrics", (told) => {
    store.brief(told);
    note(told.changed);
    if (store.fabric && told.gone.includes(store.fabric.name)) return leave();
    if (isThere()) return listen();
    return showFabrics();
  });
  hears("fabric", (told) => {
    store.detail(told);
    showFabric();
  });
  hears("peers", (told) => {
    store.change(told, performance.now() / 1000);
    showFabric();
  });
  hears("rings", (told) => {
    store.ring(told, performance.now() / 1000);
    drawing.ring(told.pairs, chosen);
    soon();
  });
  hears("happened", (told) => {
    store.happen(told);
    showTimeline();
  });
}

// Whether the fabric that is not shown yet can be.
function isThere() {
  return !store.fabric && store.fabrics.has(wanted());
}

// The fabric is there no more.
function leave() {
  history.replaceState(null, "", location.pathname);
  chosen = null;
  listen();
}

function connected(how) {
  $("connection").textContent = how;
  $("connection").className = how;
  lost = how === "live" ? null : (lost ?? Date.now() / 1000);
  document.body.classList.toggle("lost", lost !== null);
  showSummary();
}

function note(briefs) {
  for (const { name, rate: now } of briefs) {
    const line = sparks.get(name) ?? [];
    line.push(now ?? 0);
    sparks.set(name, line.slice(-SPARKS));
  }
}

// Showing

let due = 0;
let rest = 0;

// Where much is to be drawn it is done less often: at most a fifth of the time.
function soon() {
  due ||= requestAnimationFrame(() => {
    due = 0;
    if (performance.now() >= rest) showRates();
  });
}

function all() {
  note([...store.fabrics.values()]);
  $("version").textContent = store.version;
  showFabrics();
  showFabric();
  showTimeline();
}

function showSummary() {
  const unserved = [...store.fabrics.values()].filter((brief) => brief.state !== "serving").length;
  say($("summary"), lost === null ? served(store.fabrics.size, unserved) : `shown as it was at ${time(lost)}`);
  $("summary").classList.toggle("bad", unserved > 0 || lost !== null);
}

function served(many, unserved) {
  if (!many) return "no fabric";
  if (unserved) return `${unserved} of ${many} fabrics ${unserved === 1 ? "does" : "do"} not serve`;
  return many === 1 ? "1 fabric serves" : `all ${many} fabrics serve`;
}

function showFabrics() {
  showSummary();
  const many = store.fabrics.size;
  $("filter").hidden = many < FIND;
  const sought = $("filter").hidden ? "" : $("filter").value.toLowerCase();
  const shown = [...store.fabrics.values()].filter((brief) => brief.name.toLowerCase().includes(sought));
  const items = select($("fabrics"))
    .selectAll("li")
    .data(shown, (brief) => brief.name)
    .join(fabricCard)
    .order();
  items
    .select("a")
    .attr("href", (brief) => `#${encodeURIComponent(brief.name)}`)
    .attr("aria-current", (brief) => (brief.name === store.fabric?.name ? "page" : null));
  items.select(".dot").attr("class", (brief) => `dot ${brief.state}`);
  items.select(".what").text((brief) => brief.name);
  items.select(".state").text((brief) => (brief.state === "serving" ? "" : brief.state));
  items.select(".many").text((brief) => `${brief.peers} of ${brief.limit} peers`);
  items.select(".rate").text((brief) => (brief.rate === null ? "" : `${rate(brief.rate)}/s`));
  items.select("path").attr("d", (brief) => spark(sparks.get(brief.name) ?? []));
  if (current !== store.fabric?.name) {
    current = store.fabric?.name;
    items.filter((brief) => brief.name === current).node()?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  showHead();
}

function fabricCard(enter) {
  const item = enter.append("li");
  const link = item.append("a");
  for (const part of ["dot", "what", "state", "many", "rate"]) link.append("span").attr("class", part);
  const line = link.append("svg").attr("viewBox", "0 0 100 24").attr("aria-hidden", "true");
  line.attr("preserveAspectRatio", "none").append("path");
  return item;
}

function spark(values) {
  const most = Math.max(1, ...values);
  const shape = area()
    .x((_, i) => 100 - (values.length - 1 - i) * (100 / (SPARKS - 1)))
    .y0(24)
    .y1((value) => 23 - (22 * value) / most)
    .curve(curveMonotoneX);
  return shape(values);
}

function showHead() {
  const brief = store.fabrics.get(store.fabric?.name);
  $("name").textContent = brief?.name ?? "No fabric";
  document.title = brief ? `${brief.name} · famezd` : "famezd";
  $("state").textContent = brief?.state ?? "";
  $("state").className = `pill ${brief?.state ?? ""}`;
  say($("failure"), brief?.failure ?? "");
  if (!brief) return say($("facts"), store.fabrics.size ? `There is no fabric ${wanted()}.` : "famezd serves no fabric.");
  const seen = brief.doorbells === "direct" ? "doorbells are direct: only the switch's are seen" : "doorbells relayed";
  const facts = [brief.personality, `${brief.peers} of ${brief.limit} peers`, `${store.fabric.vectors} vectors`, seen];
  if (brief.restarts) facts.push(`${brief.restarts} ${brief.restarts === 1 ? "restart" : "restarts"}`);
  if (brief.busy !== null) facts.push(`loop busy ${Math.round(brief.busy * 100)} %`);
  const faults = store.fabric.faults?.length ?? 0;
  if (faults) facts.push(`${faults} fault ${faults === 1 ? "rule" : "rules"} in force`);
  return say($("facts"), facts.join(" · "));
}

function showFabric() {
  if (chosen !== null && !store.peers.has(chosen)) chosen = null;
  showHead();
  drawing.draw(chosen);
  $("find").hidden = store.others.length < FIND;
  showRates();
}

function showRates() {
  const began = performance.now();
  drawing.rates(chosen);
  matrix.draw();
  showTable();
  showDetail();
  const ended = performance.now();
  rest = ended + 4 * (ended - began);
}

function showTable() {
  const now = performance.now() / 1000;
  const sought = $("find").hidden ? "" : $("find").value.toLowerCase();
  const others = store.others.filter((one) => `${one.id} ${one.name} ${one.user}`.toLowerCase().includes(sought));
  const rows = select($("rows"))
    .selectAll("tr")
    .data(others.slice(0, ROWS), (one) => one.id)
    .join(tableRow)
    .order()
    .classed("chosen", (one) => one.id === chosen);
  const cells = (one) => [
    one.id,
    one.name,
    one.kind,
    one.user,
    one.pid,
    time(one.joined),
    one.link ?? "",
    rate(store.rings.of(one.id, now)),
    rate(store.rung.of(one.id, now)),
  ];
  rows.each(function (one) {
    cells(one).forEach((text, i) => say(i === 1 ? this.cells[i].firstChild : this.cells[i], String(text)));
  });
  const left = others.length - ROWS;
  say($("left-out"), left > 0 ? `${left} more: search for them.` : "");
}

function tableRow(enter) {
  const row = enter.append("tr");
  for (let i = 0; i < 9; i += 1) row.append("td").classed("number", i > 6);
  row
    .select("td:nth-child(2)")
    .append("button")
    .attr("type", "button")
    .on("click", (_, one) => choose(one.id));
  return row;
}

function showDetail() {
  const one = store.peers.get(chosen);
  $("nobody").hidden = Boolean(one);
  $("close").hidden = $("told").hidden = $("bars").hidden = $("bars-title").hidden = !one;
  say($("detail-title"), one ? peer(one.id, one.name) : "Peer");
  if (!one) return;
  const now = performance.now() / 1000;
  const told = [
    ["id", one.id],
    ["name", one.name],
    ["kind", one.kind],
    ["process", one.program ? `${one.program}, pid ${one.pid}` : `pid ${one.pid}`],
    ["user", one.user === undefined ? "" : one.user === String(one.uid) ? one.user : `${one.user} (${one.uid})`],
    ["joined", one.joined ? moment(one.joined) : ""],
    ["link", one.link ?? ""],
    ["rings", `${rate(store.rings.of(one.id, now))} a second`],
    ["is rung", `${rate(store.rung.of(one.id, now))} a second`],
  ].filter(([, value]) => value !== "");
  const entries = select($("told"))
    .selectAll("div")
    .data(told, ([key]) => key)
    .join((enter) => {
      const entry = enter.append("div");
      entry.append("dt");
      entry.append("dd");
      return entry;
    });
  entries.each(function ([key, value]) {
    say(this.firstChild, key);
    say(this.lastChild, String(value));
  });
  showBars(one, now);
}

function showBars(one, now) {
  const rates = Array.from({ length: store.fabric.vectors }, (_, v) => [v, store.vectors.of(`${one.id} ${v}`, now)]);
  const rung = rates.filter(([, value]) => value > 0).slice(0, 32);
  const most = Math.max(1, ...rung.map(([, value]) => value));
  const bars = select($("bars"))
    .selectAll("li")
    .data(rung, ([vector]) => vector)
    .join((enter) => {
      const bar = enter.append("li");
      for (const part of ["vector", "bar", "rate"]) bar.append("span").attr("class", part);
      return bar;
    })
    .order();
  bars.select(".vector").text(([vector]) => vector);
  bars.select(".rate").text(([, value]) => `${rate(value)}/s`);
  bars.select(".bar").style("--part", ([, value]) => (value / most).toFixed(3));
}

function showTimeline() {
  const items = select($("timeline"))
    .selectAll("li")
    .data(
      store.happenings.filter((one) => !one.fabric || !store.fabric || one.fabric === store.fabric.name),
      (one) => one.number,
    )
    .join((enter) => {
      const item = enter.append("li").attr("class", (one) => one.kind);
      item.append("span").attr("class", "mark").attr("aria-hidden", "true").text((one) => MARKS[one.kind]);
      item.append("time").text((one) => time(one.at)).attr("datetime", (one) => new Date(one.at * 1000).toISOString());
      item.append("span").attr("class", "text").text(words);
      return item;
    });
  items.order();
}

function words({ text, peer: id, name }) {
  return id === undefined ? text : `${peer(id, name)}: ${text.replace(/^peer /, "")}`;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// What people do

function choose(id) {
  chosen = chosen === id ? null : id;
  showFabric();
}

function letGo() {
  const before = chosen;
  chosen = null;
  showFabric();
  if (before !== null) drawing.focus(before);
}

const THEMES = ["auto", "light", "dark"];

function theme(which) {
  document.documentElement.dataset.theme = which;
  $("theme").textContent = `Theme: ${which}`;
  matrix.draw();
}

function recall() {
  try {
    return localStorage.getItem("theme") ?? "auto";
  } catch {
    return "auto"; // nothing is kept in this browser
  }
}

$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  theme(next);
  try {
    localStorage.setItem("theme", next);
  } catch {
    // Then only as long as the page is open.
  }
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // in the address is the fabric
  $("fabric").focus();
});
$("close").addEventListener("click", letGo);
$("filter").addEventListener("input", showFabrics);
$("find").addEventListener("input", showTable);
document.addEventListener("keydown", (event) => event.key === "Escape" && chosen !== null && letGo());
addEventListener("hashchange", () => {
  chosen = null;
  listen();
});
addEventListener("resize", showFabric);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => matrix.draw());
setInterval(soon, REDRAW);
theme(recall());
listen();
