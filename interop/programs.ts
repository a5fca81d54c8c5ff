/** Running the built command line, and loaders that answer JSON lines. */
import { execFileSync, spawn } from 'node:child_process'
import { tmpdir } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

/** @throws with `stderr` and `status` when the program fails */
const run = (program: string, args: readonly string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 2 ** 28 })

const command = fileURLToPath(new URL('../bin/quantize.js', import.meta.url))

/** What a run of the command line ended in, other than success. */
export class CommandError extends Error {
  constructor(
    readonly exitCode: number,
    message: string,
  ) {
    super(message)
  }
}

/** `quantize ...args`; what it wrote to stdout. @throws CommandError with the last line of stderr */
export const quantize = (...args: readonly string[]): string => {
  try {
    return run(process.execPath, [command, ...args])
  } catch (error) {
    const { status, stderr } = error as { readonly status?: number | null; readonly stderr?: string }
    throw new CommandError(status ?? -1, (stderr ?? String(error)).trim().split('\n').at(-1)!)
  }
}

/** The JSON in the last line that a script printed. */
export const pythonJson = (python: string, script: URL, ...args: readonly string[]) =>
  JSON.parse(
    run(python, [fileURLToPath(script), ...args])
      .trim()
      .split('\n')
      .at(-1)!,
  )

export interface LoaderRequest {
  readonly loader: string
  readonly folder: string
  readonly text?: string
  readonly seq?: number
  readonly windows?: number
  /** A folder of float32 weights to compare with. */
  readonly values?: string
}

export interface LoaderAnswer {
  readonly error?: string
  readonly perplexity?: number
  /** The coarsest dtype that weights or arithmetic pass through in the loader. */
  readonly precision?: 'float32' | 'float16' | 'bfloat16'
  /** Of the perplexity, where it needs another than its arithmetic says. */
  readonly tolerance?: number
  /** It quantizes what linears read. */
  readonly activations?: boolean
  readonly note?: string
  /** Largest difference of a weight, relative to the largest weight of its linear; of the worst linear. */
  readonly difference?: number
  readonly worst?: string
  /** Its ids of the first lines of the text, where it has a tokenizer of its own. */
  readonly tokens?: readonly (readonly number[])[]
  readonly linears?: number
}

/** A program that answers one JSON line for each. It is started by the first request, and again after it died. */
export class LoaderProcess {
  #child?: ReturnType<typeof spawn>
  #answered?: (answer: LoaderAnswer) => void

  constructor(
    readonly program: string,
    readonly args: readonly string[],
  ) {}

  ask(request: LoaderRequest): Promise<LoaderAnswer> {
    return new Promise(answered => {
      this.#answered = answered
      this.#child ??= this.#start()
      this.#child.stdin!.write(`${JSON.stringify(request)}\n`)
    })
  }

  #start() {
    // some packages leave files in the working directory
    const child = spawn(this.program, this.args, { stdio: ['pipe', 'pipe', 'ignore'], cwd: tmpdir() })
    createInterface({ input: child.stdout! }).on('line', line => this.#answered?.(JSON.parse(line)))
    const died = (why: string) => {
      if (this.#child !== child) return
      this.#child = undefined
      this.#answered?.({ error: `${this.program} ${why}` })
    }
    child.on('error', error => died(error.message))
    child.on('exit', (code, signal) => died(`ended with ${signal ?? code}`))
    child.stdin!.on('error', () => {})
    return child
  }

  close(): void {
    const child = this.#child
    this.#child = undefined
    child?.stdin?.end()
  }
}
