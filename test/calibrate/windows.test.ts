import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { sampleWindows } from '../../src/calibrate/windows.ts'

/** Documents whose tokens are all different: a token's number says where in the corpus it stood. */
function corpus(lengths: readonly number[]): Int32Array[] {
  let next = 0
  return lengths.map(length => Int32Array.from({ length }, () => next++))
}

const cases = fc
  .record({
    lengths: fc.array(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 12 }),
    seqLen: fc.integer({ min: 1, max: 20 }),
    seed: fc.integer({ min: 0, max: 0xffff_ffff }),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
  })
  .map(({ lengths, seqLen, seed, part }) => {
    const tokens = lengths.reduce((sum, length) => sum + length, 0)
    const available = Math.floor(tokens / seqLen)
    return {
      documents: corpus(lengths),
      tokens,
      available,
      options: { samples: Math.max(1, Math.floor(part * available)), seqLen, seed },
    }
  })
  .filter(({ available }) => available > 0)

describe('sampleWindows', () => {
  it('gives as many windows as asked, of the length asked, and no token twice', () => {
    fc.assert(
      fc.property(cases, ({ documents, tokens, options }) => {
        const { windows } = sampleWindows(documents, options)
        expect(windows.length).toBe(options.samples)
        for (const window of windows) expect(window.length).toBe(options.seqLen)
        const used = windows.flatMap(window => [...window])
        expect(new Set(used).size).toBe(used.length)
        for (const token of used) expect(token >= 0 && token < tokens).toBe(true)
      }),
    )
  })

  it('counts every token', () => {
    fc.assert(
      fc.property(cases, ({ documents, tokens, available, options }) => {
        const { report } = sampleWindows(documents, options)
        expect(report).toEqual({
          documents: documents.length,
          tokensAvailable: tokens,
          windowsAvailable: available,
          samplesUsed: options.samples,
          tokensUsed: options.samples * options.seqLen,
          tokensDropped: tokens - options.samples * options.seqLen,
        })
      }),
    )
  })

  it('keeps runs of a document whole: a token is followed by its successor, or a document ends', () => {
    fc.assert(
      fc.property(cases, ({ documents, options }) => {
        const ends = new Set(documents.flatMap(document => [...document.slice(-1)]))
        for (const window of sampleWindows(documents, options).windows)
          for (let i = 1; i < window.length; i++) {
            if (!ends.has(window[i - 1])) expect(window[i]).toBe(window[i - 1] + 1)
          }
      }),
    )
  })

  it('uses the first windows of a larger draw', () => {
    const documents = corpus(Array.from({ length: 40 }, (_, i) => 20 + i))
    const all = sampleWindows(documents, { samples: 60, seqLen: 16, seed: 5 }).windows
    expect(sampleWindows(documents, { samples: 16, seqLen: 16, seed: 5 }).windows).toEqual(all.slice(0, 16))
  })

  it('gives the same again for a seed, and other windows for another', () => {
    const documents = corpus([300, 10, 200, 77])
    const draw = (seed: number) => sampleWindows(documents, { samples: 10, seqLen: 16, seed }).windows
    expect(draw(9)).toEqual(draw(9))
    for (let seed = 0; seed < 20; seed++) expect(draw(seed)).not.toEqual(draw(seed + 1))
  })

  it('puts documents in any order', () => {
    const first = (seed: number) => {
      const { windows } = sampleWindows(corpus([8, 8, 8]), { samples: 3, seqLen: 8, seed })
      return windows.map(window => window[0] / 8).join()
    }
    const seen = new Set(Array.from({ length: 100 }, (_, seed) => first(seed)))
    expect(seen.size).toBe(6)
  })

  it('starts a single text anywhere within what the windows leave over', () => {
    const starts = new Set<number>()
    for (let seed = 0; seed < 200; seed++) {
      const { windows } = sampleWindows(corpus([10 + 3]), { samples: 2, seqLen: 5, seed })
      starts.add(Math.min(...windows.map(window => window[0])))
    }
    expect([...starts].sort()).toEqual([0, 1, 2, 3])
  })

  it('uses all of a text that holds exactly the windows asked', () => {
    const { report } = sampleWindows(corpus([7, 9]), { samples: 4, seqLen: 4, seed: 1 })
    expect(report.tokensDropped).toBe(0)
  })

  it('draws the windows recorded for seed 0', () => {
    const { windows } = sampleWindows(corpus([40, 5, 60, 21]), { samples: 4, seqLen: 8, seed: 0 })
    expect(windows.map(window => window[0])).toEqual([61, 77, 31, 101])
  })

  it('says how many windows there are when they are too few, and what would do', () => {
    const draw = () => sampleWindows(corpus([1000, 30]), { samples: 128, seqLen: 512, seed: 0 })
    expect(draw).toThrow(
      expect.objectContaining({
        code: 'bad-input',
        message:
          'calibration text has 1030 tokens: 2 windows of 512, and 128 were asked for; use --samples 2, or use --seq-len 8, or give --calib more text',
      }),
    )
    expect(() => sampleWindows([], { samples: 1, seqLen: 4, seed: 0 })).toThrow(
      /0 tokens: 0 windows of 4, and 1 were asked for; give --calib/,
    )
  })

  it.each([
    { samples: 0, seqLen: 4 },
    { samples: 1.5, seqLen: 4 },
    { samples: 1, seqLen: 0 },
    { samples: 1, seqLen: Number.NaN },
  ])('refuses %o', options => {
    const draw = () => sampleWindows(corpus([100]), { ...options, seed: 0 })
    expect(draw).toThrow(expect.objectContaining({ code: 'bad-option' }))
  })
})
