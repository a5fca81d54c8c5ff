/** Every hostile file of fixtures/hostile through the real command line: one line that names it, the right exit code, and nothing left behind. */
import { execFileSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeEach, describe, expect, it } from 'vitest'
import { safetensors, soundModel, text } from '../fixtures/hostile/bytes.ts'
import { type Command, cases, type HostileCase } from '../fixtures/hostile/cases.ts'
import { type Ended, run } from './helpers/command-line.ts'
import { temporaryFolder } from './helpers/temporary-folder.ts'

const fixtures = fileURLToPath(new URL('../fixtures/hostile/', import.meta.url))
const root = temporaryFolder()
const textFile = join(root, 'text.txt')
fs.writeFileSync(textFile, text)

let folder = root
let outputs = root
let count = 0
beforeEach(() => {
  folder = join(root, String(count++), 'model')
  outputs = join(folder, '..', 'outputs')
  fs.mkdirSync(folder, { recursive: true })
  fs.mkdirSync(outputs)
})

const put = (files: HostileCase['files']): void => {
  for (const [name, content] of Object.entries(files)) fs.writeFileSync(join(folder, name), content)
}

const argv = (command: Command, output: string): readonly string[] => {
  const scheme = ['--group', '32', '--quiet', '-o', output]
  const windows = ['--seq-len', '16', '--threads', '1']
  if (command === 'inspect' || command === 'verify') return [command, folder]
  if (command === 'eval') return ['eval', folder, '--text', textFile, '--windows', '2', ...windows]
  if (command === 'rtn') return [folder, '--method', 'rtn', ...scheme]
  return [folder, '--calib', textFile, '--samples', '4', ...windows, ...scheme]
}

const runOn = (command: Command): Promise<Ended> => run(...argv(command, join(outputs, command)))

const unprintable = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u

/** One line of stderr, `error: …`, that a terminal cannot be driven with, and no output folder, finished or not. */
const expectRefusal = (
  { code, stderr, stdout }: Ended,
  { code: wanted, says, byTensor }: Pick<HostileCase, 'code' | 'says' | 'byTensor'>,
) => {
  const told = stderr.trimEnd().split('\n')
  const [error] = told.slice(-1) // before it at most the progress of eval, which has no --quiet
  expect(told.filter(line => line.startsWith('error: ') || !/^eval\b/.test(line))).toEqual([error])
  expect(error).toMatch(says)
  if (!byTensor) expect(error).toContain(folder)
  expect(error).not.toMatch(unprintable)
  expect(code).toBe(wanted)
  expect(stdout).toBe('')
  expect(fs.readdirSync(outputs)).toEqual([])
}

describe('the folder', () => {
  it('holds what make.ts writes, and nothing else', () => {
    const folders = fs.readdirSync(fixtures, { withFileTypes: true }).filter(entry => entry.isDirectory())
    expect(folders.map(({ name }) => name).sort()).toEqual(Object.keys(cases).sort())
    for (const [name, { files }] of Object.entries(cases)) {
      expect(fs.readdirSync(join(fixtures, name)).sort()).toEqual(Object.keys(files).sort())
      for (const [file, content] of Object.entries(files))
        expect(fs.readFileSync(join(fixtures, name, file)).equals(Buffer.from(content)), `${name}/${file}`).toBe(true)
    }
  })
})

it.each(['rtn', 'gptq', 'eval', 'inspect'] as const)(
  'the model that they are laid over is sound: %s',
  async command => {
    put(soundModel)
    expect(await runOn(command)).toMatchObject({ code: 0 })
  },
)

describe.each(Object.entries(cases))('%s', (name, hostile) => {
  it(`is refused by ${hostile.commands.join(', ')}`, async () => {
    if (hostile.over) put(soundModel)
    fs.cpSync(join(fixtures, name), folder, { recursive: true })
    for (const ended of await Promise.all(hostile.commands.map(runOn))) expectRefusal(ended, hostile)
  })
})

describe('what git cannot hold', () => {
  const replaceBy = (name: string, make: (path: string) => void): void => {
    put(soundModel)
    fs.rmSync(join(folder, name))
    make(join(folder, name))
  }
  const linkOut = (name: string): void =>
    replaceBy(name, path => {
      const outside = join(folder, '..', `secret-${name}`)
      fs.writeFileSync(outside, soundModel[name])
      fs.symlinkSync(outside, path)
    })

  it.each(['model.safetensors', 'config.json', 'tokenizer.json'])('a FIFO in place of %s', async name => {
    replaceBy(name, path => execFileSync('mkfifo', [path]))
    expectRefusal(await runOn('gptq'), { code: 3, says: /is not a regular file/ })
  })

  it.each(['model.safetensors', 'config.json', 'tokenizer.json'])('a device in place of %s', async name => {
    replaceBy(name, path => fs.symlinkSync('/dev/zero', path))
    expectRefusal(await runOn('gptq'), { code: 3, says: /is not a regular file/ })
  })

  it.each(['model.safetensors', 'config.json', 'tokenizer.json'])('%s behind a link out of the folder', async name => {
    linkOut(name)
    expectRefusal(await runOn('gptq'), { code: 3, says: /is a link out of its folder, to .*secret-/ })
  })

  it('a shard behind a link out of the folder', async () => {
    put(soundModel)
    const map = JSON.stringify({ weight_map: { x: 'a.safetensors' } })
    fs.writeFileSync(join(folder, 'model.safetensors.index.json'), map)
    fs.renameSync(join(folder, 'model.safetensors'), join(folder, '..', 'secret.safetensors'))
    fs.symlinkSync('../secret.safetensors', join(folder, 'a.safetensors'))
    expectRefusal(await runOn('rtn'), { code: 3, says: /is a link out of its folder, to .*secret/ })
  })

  it('the Hub cache, all links into its blobs, is none of that', async () => {
    const cache = join(folder, '..', 'cache')
    fs.rmdirSync(folder)
    folder = join(cache, 'snapshots', 'abc')
    fs.mkdirSync(join(cache, 'blobs'), { recursive: true })
    fs.mkdirSync(folder, { recursive: true })
    for (const [name, content] of Object.entries({ ...soundModel, LICENSE: 'MIT' })) {
      fs.writeFileSync(join(cache, 'blobs', `blob-${name}`), content)
      fs.symlinkSync(`../../blobs/blob-${name}`, join(folder, name))
    }
    expect(await runOn('gptq')).toMatchObject({ code: 0 })
    expect(fs.readdirSync(join(outputs, 'gptq'))).toEqual(expect.arrayContaining(['LICENSE', 'tokenizer.json']))
  })

  it('another file behind a link out of the folder is not copied into the output', async () => {
    put(soundModel)
    fs.writeFileSync(join(folder, '..', 'secret'), 'a file of this machine')
    fs.symlinkSync('../secret', join(folder, 'tokenizer.model'))
    expect(await runOn('rtn')).toMatchObject({ code: 0 })
    expect(fs.readdirSync(join(outputs, 'rtn'))).toContain('tokenizer.json')
    expect(fs.readdirSync(join(outputs, 'rtn'))).not.toContain('tokenizer.model')
  })
})

describe('names that would drive a terminal', () => {
  const name = 'a\u001b[2J\u009b31m\u202e\nwarning: b'
  const quoted = JSON.stringify(`${name}.weight`)

  it.each([
    ['inspect'],
    ['--method', 'rtn', '--group', '32'],
    ['--method', 'rtn', '--group', '32', '--verbose'],
    ['--method', 'rtn', '--group', '32', '--dry-run'],
    ['--method', 'rtn', '--group', '24', '--unfit', 'keep', '--dry-run'],
    ['--method', 'rtn', '--group', '24', '--verbose'],
  ])('are shown, not obeyed: %s %s %s %s %s %s', async (...args) => {
    const tensor = `${quoted}:{"dtype":"F16","shape":[32,32],"data_offsets":[0,2048]}`
    put({ 'model.safetensors': safetensors(`{${tensor}}`, 2048), 'config.json': JSON.stringify({ model_type: name }) })
    fs.writeFileSync(join(folder, 'notes.gguf'), '')
    const target = args[0] === 'inspect' ? [...args, folder] : [folder, ...args, '-o', join(outputs, 'out')]
    const { stdout, stderr } = await run(...target)
    for (const line of `${stdout}${stderr}`.split('\n')) {
      expect(line).not.toMatch(unprintable)
      expect(line).not.toMatch(/^warning: b/)
    }
  })

  it('are cut when they are long', async () => {
    const long = JSON.stringify(`${' '.repeat(65_000)}.weight`)
    put({
      'model.safetensors': safetensors(`{${long}:{"dtype":"F16","shape":[1,24],"data_offsets":[0,48]}}`, 48),
    })
    const { code, stderr } = await run(folder, '--method', 'rtn', '--group', '32', '-o', join(outputs, 'out'))
    expect(code).toBe(4)
    expect(stderr.length).toBeLessThan(5000)
  })
})
