// The switch with its ports around it; doorbells go along the links as they are rung.

import { select } from "./d3.js";
import { peer, rate } from "./words.js";

const RADIUS = 330; // of the circle of ports
const HUB = 62;
const NAMED = 100; // ports up to which names are drawn
const ALL = 256; // ports up to which those are drawn on which nobody is
const TURNED = 24; // ports from which on their names are turned outwards
const LONGEST = 18; // letters of a name
const LETTER = 0.56; // width of one, of its height
const READABLE = 11.5; // pixels
const SMALLEST = 14; // and largest height of the name in the hub
const LARGEST = 26;
const FLIGHT = 700; // ms that a doorbell is under way
const LIT = 150; // ms that a port shows that it was rung
const PULSES = 120; // at once
const PER_SAMPLE = 40;

function cut(text, most) {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

export class Drawing {
  #svg;
  #store;
  #select;
  #links;
  #nodes;
  #pulses;
  #hub;
  #places = new Map(); // by id: x, y, angle
  #nodeOf = new Map(); // by id
  #flying = [];
  #frame = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");
  #focused = null;
  #font = 20;
  #letters = LONGEST;
  #shown = "";

  // `choose` is called with the id of a port that somebody wants to see, or null.
  constructor(element, store, choose) {
    this.#svg = select(element);
    this.#store = store;
    this.#select = choose;
    this.#links = this.#svg.append("g").attr("class", "links").attr("aria-hidden", "true");
    this.#pulses = this.#svg.append("g").attr("class", "pulses").attr("aria-hidden", "true");
    this.#hub = this.#svg.append("g").attr("class", "hub");
    this.#hub.append("circle").attr("r", HUB);
    this.#hub.append("text").attr("class", "what").attr("dy", "-0.2em");
    this.#hub.append("text").attr("class", "rate").attr("dy", "1.3em");
    this.#nodes = this.#svg.append("g").attr("class", "ports");
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  // Draws who is there, and who is chosen.
  draw(chosen) {
    const ports = this.#drawn();
    this.#place(ports);
    const hub = this.#store.switch;
    this.#hub.classed("peer", hub !== null);
    const size = Math.max(3.5, Math.min(17, (RADIUS * 2.2) / Math.max(ports.length, 1)));
    const links = ports.filter((port) => port.peer);
    this.#frameNames(ports.length, size);
    this.#name(hub ? hub.name : this.#store.fabric?.name ?? "");
    this.#svg.classed("many", ports.length > NAMED);
    this.#links
      .selectAll("line")
      .data(links, (port) => port.id)
      .join("line")
      .attr("x1", (port) => this.#at(port.id).x)
      .attr("y1", (port) => this.#at(port.id).y)
      .attr("class", (port) => (port.peer.link ? `link ${port.peer.link}` : "link"));
    const nodes = this.#nodes
      .selectAll("g.port")
      .data(ports, (port) => port.id)
      .join((enter) => this.#enter(enter))
      .order();
    nodes
      .attr("class", (port) => `port ${port.peer ? port.peer.kind : "free"}${port.id === chosen ? " chosen" : ""}`)
      .attr("transform", (port) => `translate(${this.#at(port.id).x},${this.#at(port.id).y})`)
      .attr("role", (port) => (port.peer ? "button" : null))
      .attr("aria-pressed", (port) => (port.peer ? String(port.id === chosen) : null))
      .attr("aria-hidden", (port) => (port.peer ? null : "true"))
      .attr("data-id", (port) => port.id);
    this.#nodeOf = new Map(nodes.nodes().map((node, i) => [ports[i].id, node]));
    nodes.select("circle").attr("r", size);
    nodes.select("title").text((port) => (port.peer ? peer(port.id, port.peer.name) : `port ${port.id}, free`));
    this.#label(nodes, ports.length, size);
    this.#rove(links.map((port) => port.id));
    this.rates(chosen);
  }

  // Shows how fast each rings and is rung now.
  rates(chosen) {
    const now = performance.now() / 1000;
    const { rings, rung, rates } = this.#store;
    this.#hub.select(".rate").text(this.#store.fabric ? `${rate(rings.of("", now))}/s` : "");
    const both = (id) => (chosen === null ? rings.of(id, now) + rung.of(id, now) : 0);
    const between = (id) => rates.of(`${chosen} ${id}`, now) + rates.of(`${id} ${chosen}`, now);
    const busy = (id) => (chosen === null ? both(id) : id === chosen ? rings.of(id, now) + rung.of(id, now) : between(id));
    this.#links.selectAll("line").each(function (port) {
      const much = busy(port.id);
      const shown = much ? Math.min(1, 0.25 + Math.log10(1 + much) / 5).toFixed(1) : "0";
      if (this.shown !== shown) this.style.setProperty("--busy", (this.shown = shown));
    });
    this.#nodes.selectAll("g.port").each(function (port) {
      if (!port.peer) return;
      const told = `${rate(rings.of(port.id, now))} rings and ${rate(rung.of(port.id, now))} rung a second`;
      const label = `port ${peer(port.id, port.peer.name)}, ${port.peer.kind}, ${told}`;
      if (this.label !== label) this.setAttribute("aria-label", (this.label = label));
    });
  }

  // Doorbells that were rung just now: of a peer that is chosen its own.
  ring(all, chosen) {
    const its = chosen === null ? all : all.filter(([src, dst]) => src === chosen || dst === chosen);
    const pairs = its.slice(0, PER_SAMPLE);
    for (const [, dst] of pairs) this.#light(dst);
    if (this.#calm.matches || document.hidden) return;
    const hub = this.#store.switch?.id;
    pairs.forEach(([src, dst, n], i) => {
      const from = src === hub ? { x: 0, y: 0 } : this.#places.get(src);
      const to = dst === hub ? { x: 0, y: 0 } : this.#places.get(dst);
      if (!from || !to || this.#flying.length >= PULSES) return;
      const node = this.#pulses.append("circle").attr("r", Math.min(9, 3.5 + Math.log10(n) * 1.6)).node();
      this.#flying.push({ node, from, to, began: performance.now() + (i % 20) * 10 });
    });
    if (!this.#frame && this.#flying.length) this.#frame = requestAnimationFrame((now) => this.#fly(now));
  }

  focus(id) {
    this.#nodeOf.get(id)?.focus();
  }

  #drawn() {
    const { ports, peers } = this.#store;
    const all = ports.map((id) => ({ id, peer: peers.get(id) }));
    return all.length <= ALL ? all : all.filter((port) => port.peer);
  }

  #place(ports) {
    const shown = ports.map((port) => port.id).join();
    if (shown === this.#shown) return;
    this.#shown = shown;
    this.#places = new Map(
      ports.map(({ id }, i) => {
        const angle = (2 * Math.PI * i) / ports.length - Math.PI / 2;
        return [id, { x: RADIUS * Math.cos(angle), y: RADIUS * Math.sin(angle), angle }];
      }),
    );
  }

  #at(id) {
    return this.#places.get(id) ?? { x: 0, y: 0, angle: 0 };
  }

  #enter(enter) {
    const node = enter.append("g").on("click", (event, port) => port.peer && this.#select(port.id));
    node.append("title");
    node.append("circle");
    node.append("text");
    return node;
  }

  #label(nodes, many, size) {
    const turned = many > TURNED;
    nodes
      .select("text")
      .text((port) => (port.peer && many <= NAMED ? cut(peer(port.id, port.peer.name), this.#letters) : ""))
      .attr("font-size", this.#font)
      .attr("transform", (port) => {
        const { angle } = this.#at(port.id);
        const out = size + 9;
        if (turned) {
          const degrees = (angle * 180) / Math.PI;
          const flip = Math.cos(angle) < -1e-9;
          return `rotate(${flip ? degrees + 180 : degrees}) translate(${flip ? -out : out},${this.#font / 3})`;
        }
        const down = Math.sin(angle) * (out + this.#font / 2) + this.#font / 3;
        return `translate(${Math.cos(angle) * out},${down})`;
      })
      .attr("text-anchor", (port) => {
        const across = Math.cos(this.#at(port.id).angle);
        return Math.abs(across) < 0.1 && !turned ? "middle" : across < -1e-9 ? "end" : "start";
      });
  }

  // Makes names large enough to be read, and leaves as much room around the ports as they need.
  #frameNames(many, size) {
    const scale = this.#svg.node().clientWidth / (2 * (RADIUS + 150)) || 0.5;
    const arc = (2 * Math.PI * RADIUS) / Math.max(many, 1);
    this.#font = Math.min(Math.max(20, READABLE / scale), many > TURNED ? 0.9 * arc : 40);
    this.#letters = Math.min(LONGEST, Math.floor(280 / (this.#font * LETTER)));
    const names = many > NAMED ? [] : this.#store.others.map((one) => cut(peer(one.id, one.name), this.#letters).length);
    const room = Math.max(2, ...names) * this.#font * LETTER + size + 16;
    const across = RADIUS + room;
    const down = many > TURNED ? across : RADIUS + size + 2 * this.#font;
    this.#svg.attr("viewBox", `${-across} ${-down} ${2 * across} ${2 * down}`);
  }

  // Writes the switch's name as large as it has room for.
  #name(text) {
    const room = (1.7 * HUB) / LETTER;
    const font = Math.max(SMALLEST, Math.min(this.#font, LARGEST, room / Math.max([...text].length, 1)));
    this.#hub.attr("font-size", font).select(".what").text(cut(text, Math.floor(room / font)));
  }

  #light(id) {
    const node = this.#nodeOf.get(id);
    if (!node) return;
    node.classList.add("lit");
    clearTimeout(node.unlit);
    node.unlit = setTimeout(() => node.classList.remove("lit"), LIT);
  }

  #fly(now) {
    this.#flying = this.#flying.filter(({ node, from, to, began }) => {
      const part = (now - began) / FLIGHT;
      if (part >= 1) {
        node.remove();
        return false;
      }
      const [point, far] = part < 0.5 ? [from, 1 - 2 * part] : [to, 2 * part - 1];
      node.setAttribute("cx", point.x * far);
      node.setAttribute("cy", point.y * far);
      node.setAttribute("opacity", part < 0 ? 0 : 1 - 0.5 * part);
      return true;
    });
    this.#frame = this.#flying.length ? requestAnimationFrame((next) => this.#fly(next)) : 0;
  }

  // One of the ports can be reached by Tab, the others from there by arrow keys.
  #rove(ids) {
    if (!ids.includes(this.#focused)) this.#focused = ids[0] ?? null;
    this.#nodes
      .selectAll("g.port")
      .attr("tabindex", (port) => (port.peer ? (port.id === this.#focused ? 0 : -1) : null));
  }

  #key(event) {
    const ids = this.#drawn()
      .filter((port) => port.peer)
      .map((port) => port.id);
    const at = ids.indexOf(Number(event.target.dataset?.id));
    if (at < 0) return;
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -at, End: ids.length - 1 - at };
    if (event.key === "Enter" || event.key === " ") {
      this.#select(ids[at]);
    } else if (event.key in steps) {
      this.#focused = ids[(at + steps[event.key] + ids.length) % ids.length];
      this.#rove(ids);
      this.focus(this.#focused);
    } else {
      return;
    }
    event.preventDefault();
  }
}
