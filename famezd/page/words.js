// Numbers and times as people read them.

import { format } from "./d3.js";

const tenths = format(",.1f");
const whole = format(",.0f");
const large = format(".3s");

export function rate(value) {
  if (!value) return "0";
  if (value < 10) return tenths(value);
  return value < 1e5 ? whole(value) : large(value);
}

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export function time(seconds) {
  return clock.format(new Date(seconds * 1000));
}

export function moment(seconds) {
  return day.format(new Date(seconds * 1000));
}

// "3 alice", or "3" where the name is but the id.
export function peer(id, name) {
  return name && name !== String(id) ? `${id} ${name}` : String(id);
}
