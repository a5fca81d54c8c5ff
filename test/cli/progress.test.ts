import { Chalk } from 'chalk'
import { describe, expect, it } from 'vitest'
import { createProgress, type ProgressOptions } from '../../src/cli/progress.ts'
import { duration, oneLine } from '../../src/cli/text.ts'
import type { ProgressEvent } from '../../src/progress.ts'

const linear = (changes: Partial<Extract<ProgressEvent, { kind: 'linear' }>> = {}): ProgressEvent => ({
  kind: 'linear',
  name: 'model.layers.0.mlp.down_proj',
  index: 3,
  count: 14,
  method: 'gptq',
  sqnrDb: 21.25,
  relativeOutputError: 0.01234,
  seconds: 0.5,
  ...changes,
})

const view = (changes: Partial<ProgressOptions> = {}) => {
  const state = { text: '', seconds: 0 }
  const progress = createProgress({
    write: text => {
      state.text += text
    },
    style: 'bar',
    verbose: false,
    chalk: new Chalk({ level: 0 }),
    columns: () => 100,
    now: () => state.seconds,
    ...changes,
  })
  /** What was written since the last call. */
  const written = (): string => {
    const { text } = state
    state.text = ''
    return text
  }
  return { state, written, ...progress }
}

const erase = '\r\x1b[2K'
const emptyBar = `${erase}T  [${' '.repeat(24)}]    0 %`

describe('bar', () => {
  it('shows percent, time left at the pace so far, and the step', () => {
    const { state, report, written } = view()
    report({ kind: 'start', totalWork: 200, title: 'quantizing' })
    expect(written()).toBe(`${erase}quantizing  [${' '.repeat(24)}]    0 %`)
    state.seconds = 10
    report({ kind: 'work', done: 50, label: 'block 1: o_proj' })
    expect(written()).toBe(`${erase}quantizing  [${'='.repeat(6)}${' '.repeat(18)}]   25 %  ETA 30 s  block 1: o_proj`)
    state.seconds = 300
    report({ kind: 'work', done: 100, label: 'block 2' })
    expect(written()).toContain(' 50 %  ETA 5 min 00 s  block 2')
    report({ kind: 'end' })
    expect(written()).toBe(erase)
  })

  it('redraws at most ten times a second', () => {
    const { state, report, written } = view()
    report({ kind: 'start', totalWork: 1000, title: 't' })
    written()
    for (let done = 1; done <= 1000; done++) {
      state.seconds = done / 1000
      report({ kind: 'work', done, label: 'x' })
    }
    const drawings = written().split(erase).length - 1
    expect(drawings).toBeGreaterThanOrEqual(8)
    expect(drawings).toBeLessThanOrEqual(10)
  })

  it('never wraps, whatever the label', () => {
    for (const columns of [1, 10, 40, 80]) {
      const { state, report, written } = view({ columns: () => columns })
      report({ kind: 'start', totalWork: 3, title: 'quantizing' })
      state.seconds = 1
      report({ kind: 'work', done: 1, label: 'x'.repeat(500) })
      for (const line of written().split(erase)) expect(line.length).toBeLessThan(Math.max(2, columns))
    }
  })

  it('prints notes and messages above the bar, linears only when verbose', () => {
    for (const verbose of [false, true]) {
      const { report, message, written } = view({ verbose })
      report({ kind: 'start', totalWork: 1, title: 'T' })
      written()
      report({ kind: 'note', text: 'a note' })
      expect(written()).toBe(`${erase}a note\n${emptyBar}`)
      message('two\nlines')
      expect(written()).toBe(`${erase}two\nlines\n${emptyBar}`)
      report(linear())
      expect(written().includes('down_proj')).toBe(verbose)
    }
  })

  it('never hides the cursor or changes a mode, and leaves a clean line', () => {
    const { report, clear, written } = view({ chalk: new Chalk({ level: 1 }) })
    report({ kind: 'start', totalWork: 1, title: 'T' })
    report({ kind: 'note', text: 'n' })
    clear()
    const text = written()
    expect(text).not.toContain('\x1b[?')
    expect(text.endsWith(erase)).toBe(true)
    clear()
    expect(written()).toBe('')
  })

  it('survives work beyond the total, an empty job and events out of order', () => {
    const { state, report, written } = view()
    report({ kind: 'work', done: 5, label: 'early' })
    report({ kind: 'end' })
    expect(written()).toBe('')
    report({ kind: 'start', totalWork: 0, title: 'nothing' })
    expect(written()).toContain('100 %')
    report({ kind: 'start', totalWork: 2, title: 'more' })
    state.seconds = 5
    report({ kind: 'work', done: 3, label: 'over' })
    expect(written()).toContain(`[${'='.repeat(24)}]  100 %  over`)
  })
})

describe('lines', () => {
  it('prints a line a linear, with no escape codes', () => {
    const { report, written } = view({ style: 'lines' })
    report({ kind: 'start', totalWork: 100, title: 'quantizing m' })
    report(linear())
    report(linear({ index: 14, relativeOutputError: null, method: 'rtn' }))
    report({ kind: 'note', text: 'verified' })
    report({ kind: 'end' })
    expect(written()).toBe(
      [
        'quantizing m',
        '[ 3/14] model.layers.0.mlp.down_proj gptq: SQNR 21.3 dB, output error 0.0123, 0.500 s',
        '[14/14] model.layers.0.mlp.down_proj rtn: SQNR 21.3 dB, 0.500 s',
        'verified',
        '',
      ].join('\n'),
    )
  })

  it('says work at most ten times, with the time left', () => {
    const { state, report, written } = view({ style: 'lines' })
    report({ kind: 'start', totalWork: 1000, title: 'eval' })
    written()
    for (let done = 1; done <= 1000; done++) {
      state.seconds = done / 10
      report({ kind: 'work', done, label: `window ${done}` })
    }
    const lines = written().trimEnd().split('\n')
    expect(lines).toHaveLength(10)
    expect(lines[3]).toBe(' 40 %  ETA 1 min 00 s  window 400')
    expect(lines[9]).toBe('100 %  window 1000')
  })

  it('shows control characters of a name instead of obeying them', () => {
    const { report, written } = view({ style: 'lines' })
    report(linear({ name: 'a\x1b[31m\nb\u202e' }))
    expect(written()).toContain('a\\u{1b}[31m b\\u{202e} gptq')
  })
})

describe('none', () => {
  it('lets messages through and nothing else', () => {
    const { report, message, written } = view({ style: 'none' })
    report({ kind: 'start', totalWork: 1, title: 'T' })
    report(linear())
    report({ kind: 'note', text: 'n' })
    message('warning')
    expect(written()).toBe('warning\n')
  })
})

describe('text', () => {
  it.each([
    [0, '0 s'],
    [59.4, '59 s'],
    [59.6, '1 min 00 s'],
    [3599, '59 min 59 s'],
    [3600, '1 h 00 min'],
    [7500, '2 h 05 min'],
  ])('%d seconds are %s', (seconds, text) => expect(duration(seconds)).toBe(text))
  it('is one line', () => expect(oneLine('a\n  b\tc')).toBe('a b\\u{9}c'))
})
