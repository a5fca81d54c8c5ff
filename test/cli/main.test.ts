import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import type { Commands } from '../../src/cli/commands.ts'
import { main } from '../../src/cli/main.ts'
import type { QuantizeOptions } from '../../src/cli/parse.ts'
import type { ProcessLike } from '../../src/cli/process.ts'
import { type ErrorCode, exitCodes, QuantizeError } from '../../src/errors.ts'
import { FakeProcess, only } from './fake-process.ts'

type FakeOptions = ConstructorParameters<typeof FakeProcess>[1]

const runFake = async (line: string, commands: Partial<Commands> = {}, options?: FakeOptions): Promise<FakeProcess> => {
  const proc = new FakeProcess(
    line.split(' ').filter(word => word !== ''),
    options,
  )
  await main(proc, only(commands))
  return proc
}

const failing = (error: unknown): Partial<Commands> => ({
  quantize: async () => {
    throw error
  },
})

it('takes the real process', () => {
  const real: ProcessLike = process
  expect(real.argv).toBe(process.argv)
})

describe('dispatch', () => {
  it('gives each command its options, and exits with 0', async () => {
    const seen: unknown[] = []
    const commands: Partial<Commands> = {
      quantize: async options => void seen.push(['quantize', options.model, options.bits]),
      inspect: async options => void seen.push(['inspect', options.model, options.json]),
      eval: async options => void seen.push(['eval', options.model, options.text]),
    }
    for (const line of ['a --bits 3', 'inspect b --json', 'eval c --text d']) {
      const proc = await runFake(line, commands)
      expect([proc.exitCode, proc.stdout.text, proc.stderr.text, proc.listening]).toEqual([0, '', '', 0])
    }
    expect(seen).toEqual([
      ['quantize', 'a', 3],
      ['inspect', 'b', true],
      ['eval', 'c', 'd'],
    ])
  })

  it('has failed as long as a command is under way', async () => {
    let during: unknown
    const proc = new FakeProcess(['m'])
    const look: Commands['quantize'] = async () => {
      during = proc.exitCode
    }
    await main(proc, only({ quantize: look }))
    expect([during, proc.exitCode]).toEqual([70, 0])
  })

  it('prints the version of package.json', async () => {
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
    const proc = await runFake('--version')
    expect([proc.stdout.text, proc.stderr.text, proc.exitCode]).toEqual([`${version}\n`, '', 0])
  })

  it('prints help to stdout', async () => {
    const proc = await runFake('eval --help')
    expect(proc.stdout.text).toMatch(/^Usage: quantize eval <model> --text <file>/)
    expect([proc.stderr.text, proc.exitCode]).toEqual(['', 0])
  })
})

describe('errors', () => {
  it.each(Object.keys(exitCodes) as ErrorCode[])('%s is one line on stderr and its exit code', async code => {
    const proc = await runFake('m', failing(new QuantizeError(code, 'model.safetensors: bad\nthing')))
    expect(proc.exitCode).toBe(exitCodes[code])
    expect(proc.stderr.text).toBe('error: model.safetensors: bad thing\n')
    expect(proc.stdout.text).toBe('')
  })

  it.each(Object.keys(exitCodes) as ErrorCode[])('%s is one JSON document under --json', async code => {
    const proc = await runFake('m --json', failing(new QuantizeError(code, 'why')))
    expect(JSON.parse(proc.stdout.text)).toEqual({ error: { code, message: 'why', exitCode: exitCodes[code] } })
    expect(proc.stderr.text).toBe('error: why\n')
  })

  it('of usage exit with 2 and run nothing', async () => {
    const proc = await runFake('m --bist 4 --json')
    expect(proc.exitCode).toBe(2)
    expect(JSON.parse(proc.stdout.text).error).toMatchObject({ code: 'bad-option', exitCode: 2 })
    expect(proc.stderr.text).toBe('error: --bist: no such option; the nearest is --bits\n')
  })

  it('show their stack and cause under --verbose', async () => {
    const error = new QuantizeError('bad-input', 'why', { cause: new Error('the cause') })
    const { stderr } = await runFake('m --verbose', failing(error))
    expect(stderr.text).toMatch(/^error: why\nQuantizeError: why\n {4}at /)
    expect(stderr.text).toContain('caused by Error: the cause')
  })

  it('pass --quiet', async () => {
    const { stderr } = await runFake('m --quiet', failing(new QuantizeError('gate', 'why')))
    expect(stderr.text).toBe('error: why\n')
  })

  it('nobody foresaw are bugs: stack and exit code 70', async () => {
    const proc = await runFake('m --json', failing(new TypeError('x is not a function')))
    expect(proc.exitCode).toBe(70)
    expect(proc.stderr.text).toMatch(
      /^error: x is not a function\nTypeError: x is not a function\n {4}at [\s\S]*this is a bug in quantize/,
    )
    expect(JSON.parse(proc.stdout.text)).toEqual({
      error: { code: 'internal', message: 'x is not a function', exitCode: 70 },
    })
  })

  it('may be anything that can be thrown', async () => {
    const proc = await runFake('m', failing(undefined))
    expect([proc.exitCode, proc.stderr.text.split('\n')[0]]).toEqual([70, 'error: thrown: undefined'])
  })

  it.each([
    new RangeError('Array buffer allocation failed'),
    Object.assign(new Error('Worker terminated due to reaching memory limit'), { code: 'ERR_WORKER_OUT_OF_MEMORY' }),
    new Error(
      'Non-zero status code returned while running MatMul node.\nFailed to allocate memory for requested buffer of size 9',
    ),
  ])('of memory exit with 5: %s', async error => {
    const proc = await runFake('m', failing(error))
    expect([proc.exitCode, proc.stderr.text]).toEqual([5, expect.stringMatching(/^error: out of memory: .*\n$/)])
  })

  it('after the document leave the one document alone', async () => {
    const proc = await runFake('m --json', {
      quantize: async (_, ui) => {
        ui.json({ linears: 3 })
        throw new QuantizeError('gate', 'one linear fell back to rtn')
      },
    })
    expect(JSON.parse(proc.stdout.text)).toEqual({ linears: 3 })
    expect([proc.exitCode, proc.stderr.text]).toEqual([1, 'error: one linear fell back to rtn\n'])
  })

  it('a second document is a bug', async () => {
    const twice: Partial<Commands> = {
      quantize: async (_, ui) => {
        ui.json(1)
        ui.json(2)
      },
    }
    const proc = await runFake('m --json', twice)
    expect([proc.exitCode, proc.stdout.text]).toEqual([70, '1\n'])
  })

  it('that nobody caught end the process with 70', async () => {
    const proc = new FakeProcess(['m'])
    await main(proc, only({ quantize: async () => proc.emit('uncaughtException', new Error('in a callback')) }))
    expect(proc.endedWith).toBe(70)
    expect(proc.stderr.text).toMatch(/^error: in a callback\nError: in a callback\n/)
  })
})

describe('what a command says', () => {
  const talk: Partial<Commands> = {
    quantize: async (_: QuantizeOptions, ui) => {
      ui.report({ kind: 'start', totalWork: 1, title: 'working' })
      ui.warn('careful')
      ui.print(ui.style.bold('a table'))
      ui.report({ kind: 'end' })
      ui.data('data')
    },
  }

  it('goes as plain lines to a pipe', async () => {
    const { stdout, stderr } = await runFake('m', talk)
    expect([stdout.text, stderr.text]).toEqual(['data\n', 'working\nwarning: careful\na table\n'])
  })

  it('is only warnings under --quiet', async () => {
    for (const tty of [false, true]) {
      const { stdout, stderr } = await runFake('m --quiet', talk, { tty, env: { NO_COLOR: '1' } })
      expect([stdout.text, stderr.text]).toEqual(['data\n', 'warning: careful\n'])
    }
  })

  it('has colours and a bar on a terminal', async () => {
    const { stderr } = await runFake('m', talk, { tty: true, columns: 60 })
    expect(stderr.text).toContain('\x1b[1ma table')
    expect(stderr.text).toContain('\r\x1b[2K\x1b[36mworking  [')
  })

  it('has a bar without colours under NO_COLOR', async () => {
    const { stderr } = await runFake('m', talk, { tty: true, env: { NO_COLOR: '1' } })
    expect(stderr.text).toContain('\r\x1b[2Kworking')
    expect(stderr.text.replaceAll('\x1b[2K', '')).not.toContain('\x1b')
  })

  it('has colours where NO_COLOR is empty', async () => {
    const { stderr } = await runFake('m', talk, { tty: true, env: { NO_COLOR: '' } })
    expect(stderr.text).toContain('\x1b[1ma table')
  })

  it('is plain lines on a dumb terminal', async () => {
    const { stderr } = await runFake('m', talk, { tty: true, env: { TERM: 'dumb' } })
    expect(stderr.text).toBe('working\nwarning: careful\na table\n')
  })

  it('knows the width of the terminal', async () => {
    const say: Commands['quantize'] = async (_, ui) => ui.data(`${ui.columns}`)
    const { stdout } = await runFake('m', { quantize: say }, { tty: true, columns: 123 })
    expect(stdout.text).toBe('123\n')
    expect((await runFake('m', { quantize: say }, { tty: true, columns: 0 })).stdout.text).toBe('80\n')
  })
})

describe('signals', () => {
  const untilAborted: Partial<Commands> = {
    quantize: (_, ui) =>
      new Promise((_resolve, reject) => {
        ui.signal.addEventListener('abort', () => reject(ui.signal.reason))
      }),
  }

  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])('%s unwinds the command and exits with %i', async (signal, exitCode) => {
    const proc = new FakeProcess(['m', '--json'])
    const done = main(proc, only(untilAborted))
    proc.emit(signal, signal)
    expect(proc.stderr.text).toBe(`warning: interrupted by ${signal}: stopping; once more to end at once\n`)
    await done
    expect([proc.exitCode, proc.endedWith, proc.listening]).toEqual([exitCode, undefined, 0])
    expect(proc.stderr.text.match(/\n/g)).toHaveLength(1)
    expect(JSON.parse(proc.stdout.text)).toEqual({
      error: { code: 'interrupted', message: `interrupted by ${signal}`, exitCode },
    })
  })

  it('a second one ends at once, with a clean line', async () => {
    const proc = new FakeProcess(['m'], { tty: true, env: { NO_COLOR: '1' } })
    void main(
      proc,
      only({
        quantize: async (_, ui) => {
          ui.report({ kind: 'start', totalWork: 1, title: 'T' })
          await new Promise(() => {})
        },
      }),
    )
    proc.emit('SIGINT', 'SIGINT')
    expect(proc.endedWith).toBeUndefined()
    proc.emit('SIGINT', 'SIGINT')
    expect(proc.endedWith).toBe(130)
    expect(proc.stderr.text.endsWith('\r\x1b[2K')).toBe(true)
  })

  it('a command that finishes or fails in its own way after the signal was still interrupted', async () => {
    for (const outcome of [undefined, new QuantizeError('bad-input', 'cut short'), new Error('worker ended')]) {
      const proc = new FakeProcess(['m'])
      await main(
        proc,
        only({
          quantize: async () => {
            proc.emit('SIGINT', 'SIGINT')
            if (outcome) throw outcome
          },
        }),
      )
      expect(proc.exitCode).toBe(130)
    }
  })
})

describe('output streams', () => {
  it('a closed pipe is no failure', async () => {
    const proc = new FakeProcess(['inspect', 'm'])
    const inspect: Commands['inspect'] = async (_, ui) => {
      ui.data('first')
      proc.stdout.fail('EPIPE')
      proc.stderr.fail('EPIPE')
      ui.data('second')
    }
    await main(proc, only({ inspect }))
    expect([proc.exitCode, proc.stderr.text]).toEqual([0, ''])
  })

  it('a full disk behind stdout is one, whenever it shows', async () => {
    const early = new FakeProcess(['inspect', 'm'])
    await main(early, only({ inspect: async () => early.stdout.fail('ENOSPC') }))
    expect([early.exitCode, early.stderr.text]).toEqual([5, 'error: stdout: write ENOSPC\n'])

    const late = await runFake('inspect m', { inspect: async (_, ui) => ui.data('x') })
    expect(late.exitCode).toBe(0)
    late.stdout.fail('ENOSPC')
    expect([late.exitCode, late.stderr.text]).toEqual([5, 'error: stdout: write ENOSPC\n'])
  })
})
