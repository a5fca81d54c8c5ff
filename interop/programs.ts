/** Running the built command line, and Python scripts that end in a line of JSON. */
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** @throws with `stderr` when the program fails */
const run = (program: string, args: readonly string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 28 })

const command = fileURLToPath(new URL('../bin/quantize.js', import.meta.url))

/** `quantize ...args`; what it wrote to stdout. */
export const quantize = (...args: readonly string[]): string => run(process.execPath, [command, ...args])

/** The JSON in the last line that a script printed. */
export const pythonJson = (python: string, script: URL, ...args: readonly string[]) =>
  JSON.parse(
    run(python, [fileURLToPath(script), ...args])
      .trim()
      .split('\n')
      .at(-1)!,
  )
