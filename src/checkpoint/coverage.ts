/** Which bytes of [0, bytes) were written: disjoint ranges, sorted. Mostly one, as writes mostly follow each other. */
export class Coverage {
  readonly #bytes: number
  #ranges: (readonly [start: number, end: number])[] = []

  constructor(bytes: number) {
    this.#bytes = bytes
  }

  add(start: number, end: number): void {
    if (start === end) return
    const before = this.#ranges.filter(range => range[1] < start)
    const after = this.#ranges.filter(range => range[0] > end)
    const touching = this.#ranges.slice(before.length, this.#ranges.length - after.length)
    const low = touching.length > 0 ? Math.min(start, touching[0][0]) : start
    const high = touching.length > 0 ? Math.max(end, touching[touching.length - 1][1]) : end
    this.#ranges = [...before, [low, high], ...after]
  }

  /** Whether all of [start, end) was written. */
  has(start: number, end: number): boolean {
    return start === end || this.#ranges.some(range => range[0] <= start && end <= range[1])
  }

  /** First byte that was not written, or undefined when all were. */
  firstGap(): number | undefined {
    const end = this.#ranges.length > 0 && this.#ranges[0][0] === 0 ? this.#ranges[0][1] : 0
    return end < this.#bytes ? end : undefined
  }
}
