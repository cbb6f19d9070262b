// What is known, from events: see docs/page.md for what they are.

import { Rates } from "./rates.js";

const HAPPENINGS = 200;

export class Store {
  version = "";
  fabrics = new Map(); // briefs, by name
  fabric = null; // the one that is watched: its name, vectors, ports, port_ids and faults
  peers = new Map(); // of that, by id
  happenings = []; // the newest first
  rates = new Rates(); // by "src dst"
  rings = new Rates(); // by src, and by "" for all
  rung = new Rates(); // by dst
  vectors = new Rates(); // by "dst vector"

  state(told) {
    this.version = told.version;
    this.fabrics = new Map(told.fabrics.map((brief) => [brief.name, brief]));
    const same = this.fabric?.name === told.fabric?.name;
    this.fabric = told.fabric;
    this.peers = new Map((told.fabric?.peers ?? []).map((peer) => [peer.id, peer]));
    this.happenings = told.timeline.slice().reverse();
    if (!same) {
      for (const name of ["rates", "rings", "rung", "vectors"]) this[name] = new Rates();
    }
  }

  brief({ changed, gone }) {
    for (const brief of changed) this.fabrics.set(brief.name, brief);
    for (const name of gone) this.fabrics.delete(name);
    this.fabrics = new Map([...this.fabrics].sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  detail(told) {
    if (this.fabric) Object.assign(this.fabric, told);
  }

  change({ changed = [], gone = [] }, now) {
    for (const peer of changed) this.peers.set(peer.id, peer);
    for (const id of gone) this.peers.delete(id);
    // Ids are not used again where ports are fresh: a page that is open for months would keep those of all who left.
    if (gone.length) for (const rates of [this.rates, this.rings, this.rung, this.vectors]) rates.tidy(now);
  }

  ring({ pairs, vectors, total }, now) {
    for (const [src, dst, n] of pairs) {
      this.rates.add(`${src} ${dst}`, n, now);
      this.rings.add(src, n, now);
    }
    for (const [dst, vector, n] of vectors) {
      this.vectors.add(`${dst} ${vector}`, n, now);
      this.rung.add(dst, n, now);
    }
    this.rings.add("", total, now);
  }

  happen({ happenings }) {
    this.happenings = [...happenings.slice().reverse(), ...this.happenings].slice(0, HAPPENINGS);
  }

  name(id) {
    return this.peers.get(id)?.name ?? String(id);
  }

  // Peers but the switch, in the order of their ids.
  get others() {
    return [...this.peers.values()].filter((peer) => peer.kind !== "switch").sort((a, b) => a.id - b.id);
  }

  get switch() {
    return [...this.peers.values()].find((peer) => peer.kind === "switch") ?? null;
  }

  // The ids of all ports, taken or not; where an id is no port those of the peers.
  get ports() {
    return this.fabric?.port_ids ?? this.others.map((peer) => peer.id);
  }
}
