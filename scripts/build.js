/**
 * Builds the package: AssemblyScript kernels → src/engine/kernel/kernels.wasm and kernels.d.ts (both are ignored by git, and read by tests, which run
 * from src), then TypeScript → dist, with the files that the compiler does not copy beside it.
 * `node scripts/build.js --kernels` stops after the kernels.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'

const root = fileURLToPath(new URL('..', import.meta.url))
const kernelFolder = 'src/engine/kernel'
/** What dist needs beside the compiled TypeScript, relative to src. */
const copied = [
  'engine/kernel/kernels.wasm',
  'engine/kernel/worker.js',
  'text/tokenizer-worker.js',
  'text/whitespace.js',
]

/**
 * No runtime, no imports but the memory, no data segments: every worker instantiates the module over one shared memory, and a data
 * segment would be written into it again by each.
 */
const compilerOptions = [
  '--enable simd --enable threads --importMemory --sharedMemory --initialMemory 1 --maximumMemory 65536 --noExportMemory',
  '--runtime stub -O3 --noAssert --converge --use abort= --disableWarning 112 --bindings raw',
].flatMap(line => line.split(' '))

/** The compiler's declarations, as an interface that the host imports: a renamed kernel or argument breaks its type check. */
const exportsInterface = declarations => {
  const [, body] = /declare namespace __AdaptedExports \{\n([\s\S]*?)\n\}/.exec(declarations)
  return `/** Made by scripts/build.js from the kernels' exports. */\nexport interface KernelExports {\n${body.replaceAll('export function ', '')}\n}\n`
}

const buildKernels = async () => {
  const outputs = new Map()
  const { error, stderr } = await asc.main(
    [`${kernelFolder}/assembly/index.ts`, '--baseDir', root, '-o', `${kernelFolder}/kernels.wasm`, ...compilerOptions],
    { writeFile: (name, contents) => outputs.set(name, contents) },
  )
  if (error) throw new Error(`the kernels do not compile\n${stderr.toString()}`)
  writeFileSync(`${root}${kernelFolder}/kernels.wasm`, outputs.get(`${kernelFolder}/kernels.wasm`))
  writeFileSync(`${root}${kernelFolder}/kernels.d.ts`, exportsInterface(outputs.get(`${kernelFolder}/kernels.d.ts`)))
}

const buildTypeScript = () => {
  rmSync(`${root}dist`, { recursive: true, force: true })
  const compiler = createRequire(import.meta.url).resolve('typescript/bin/tsc')
  const { status } = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.build.json'], {
    cwd: root,
    stdio: 'inherit',
  })
  if (status !== 0) throw new Error('the TypeScript sources do not compile')
  for (const file of copied) copyFileSync(`${root}src/${file}`, `${root}dist/${file}`)
}

try {
  await buildKernels()
  if (!process.argv.includes('--kernels')) buildTypeScript()
} catch (error) {
  process.stderr.write(`build: ${error.message}\n`)
  process.exitCode = 1
}
