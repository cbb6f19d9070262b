// How fast things grow: each counter as a mean of the last seconds, in which what is older weighs less.

export const OVER = 2.5; // seconds, the mean age of what counts

export class Rates {
  #values = new Map();

  // `n` more of what `key` names.
  add(key, n, now) {
    const before = this.#values.get(key);
    const rest = before ? before.rate * Math.exp((before.at - now) / OVER) : 0;
    this.#values.set(key, { rate: rest + n / OVER, at: now });
  }

  // Per second.
  of(key, now) {
    const value = this.#values.get(key);
    if (!value) return 0;
    const rate = value.rate * Math.exp((value.at - now) / OVER);
    return rate < 0.05 ? 0 : rate;
  }

  // Forgets what does not grow any more.
  tidy(now) {
    for (const key of this.#values.keys()) if (!this.of(key, now)) this.#values.delete(key);
  }
}
