/** No command opens a socket, asks for a name or starts a process: the built command line runs under a preload that forbids them all. */
import { execFileSync, spawnSync } from 'node:child_process'
import fs from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { tinyLlama } from './helpers/command-line.ts'
import { temporaryFolder } from './helpers/temporary-folder.ts'

const root = fileURLToPath(new URL('..', import.meta.url))
const preload = fileURLToPath(new URL('./helpers/forbid.cjs', import.meta.url))
const folder = temporaryFolder()
const log = join(folder, 'forbidden')
const quantized = join(folder, 'quantized')

/** The package as it is shipped, built from these sources into a folder of its own. */
const build = (): void => {
  execFileSync(process.execPath, [join(root, 'scripts/build.js'), join(folder, 'dist')])
  for (const name of ['bin', 'data', 'package.json'])
    fs.cpSync(join(root, name), join(folder, name), { recursive: true })
  fs.symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
}

beforeAll(build, 120_000)

/** What was tried, in a Node process under the preload. */
const tried = (...args: readonly string[]) => {
  fs.writeFileSync(log, '')
  const { status, stderr } = spawnSync(process.execPath, ['--require', preload, ...args], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', FORBIDDEN_LOG: log },
  })
  return { status, stderr, forbidden: fs.readFileSync(log, 'utf8').split('\n').slice(0, -1) }
}

const text = join(tinyLlama, 'held.txt')
const windows = ['--seq-len', '64', '--threads', '2']

describe('without network and processes', () => {
  it.each<[string, readonly string[]]>([
    ['rtn', [tinyLlama, '--method', 'rtn', '-o', join(folder, 'rtn')]],
    ['gptq', [tinyLlama, '--samples', '8', ...windows, '-o', quantized]],
    ['eval', ['eval', quantized, '--text', text, '--windows', '2', '--reference', tinyLlama, ...windows]],
    ['inspect', ['inspect', quantized]],
    ['verify', ['verify', quantized, '--source', tinyLlama]],
  ])('%s does its work', (_, args) => {
    expect(tried(join(folder, 'bin/quantize.js'), ...args)).toMatchObject({ status: 0, forbidden: [] })
  })

  it.each([
    ["import('node:net').then(net => net.connect(1))", 'net.connect'],
    ["import('node:net').then(net => new net.Socket().connect(1))", 'net.Socket.connect'],
    ["import('node:dns').then(dns => dns.lookup('localhost', () => {}))", 'dns.lookup'],
    ["import('node:child_process').then(({ spawn }) => spawn('true'))", 'child_process.spawn'],
    ["import('node:child_process').then(({ execFileSync }) => execFileSync('true'))", 'child_process.execFileSync'],
    ["fetch('http://localhost')", 'globalThis.fetch'],
    ['new Worker("require(\'node:net\').connect(1)", { eval: true })', 'net.connect'],
  ])('the preload sees %s', (script, name) => {
    const program = `const { Worker } = require('node:worker_threads'); ${script}`
    expect(tried('--eval', program).forbidden).toEqual([name])
  })
})
