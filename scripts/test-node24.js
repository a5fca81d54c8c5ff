/**
 * All tests, and the README's first command, under Node 24: `npm run test:node24`. The binary comes from the package registry, as
 * node-<platform>-<arch>, and stays in node_modules/.cache.
 */
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const cache = join(root, 'node_modules/.cache/node24')
const windows = process.platform === 'win32'
const binaryPackage = `node-${windows ? 'win' : process.platform}-${process.arch}`
const node = join(cache, 'node_modules', binaryPackage, 'bin', windows ? 'node.exe' : 'node')

const run = (program, args, cwd = root) => {
  const { status, error } = spawnSync(program, args, { cwd, stdio: 'inherit', shell: windows && program === 'npm' })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}

mkdirSync(cache, { recursive: true })
writeFileSync(join(cache, 'package.json'), '{ "private": true }\n')
run('npm', ['install', '--no-audit', '--no-fund', '--silent', `${binaryPackage}@24`], cache)
run(node, ['--version'])
run(node, ['node_modules/vitest/vitest.mjs', 'run'])
const output = join(cache, 'tiny-llama')
rmSync(output, { recursive: true, force: true })
const model = 'fixtures/tiny-llama/model.safetensors'
run(node, ['bin/quantize.js', model, '--method', 'gptq', '--bits', '4', '--group', '128', '-o', output])
