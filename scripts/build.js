/**
 * Builds the package: AssemblyScript kernels → src/engine/kernel/kernels.wasm and kernels.d.ts (both are ignored by git, and read by tests, which run
 * from src), then TypeScript → dist, with the files that are no modules beside it.
 * `node scripts/build.js --kernels` stops after the kernels; `node scripts/build.js FOLDER` fills FOLDER from the kernels that there are.
 *
 * dist is one module, with the packages in it that are many small files: opening 400 of them took a fifth of a second at every start.
 */
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import asc from 'assemblyscript/asc'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const kernelFolder = 'src/engine/kernel'
/** What dist needs beside the compiled TypeScript, relative to src. */
const copied = [
  'engine/kernel/kernels.wasm',
  'engine/kernel/worker.js',
  'text/tokenizer-worker.js',
  'text/whitespace.js',
]

/** Packages that are loaded where they are installed: native code, workers of their own, what only some runs need. */
const separate = [
  '@bufbuild/protobuf',
  '@huggingface/tokenizers',
  'onnx-buf',
  'onnxruntime-node',
  'ora',
  'tinypool',
  'yaml',
]

/** For packages of CommonJS in the bundle that require modules of Node. */
const requireOfBundled =
  "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);"

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

/** Folders of the packages whose files went into a bundle. */
const packagesOf = ({ inputs }) =>
  new Set(Object.keys(inputs).flatMap(path => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0] ?? []))

/** The licences of what a bundle took in, as they ask for it. */
const licencesOf = folders =>
  [...folders]
    .sort()
    .map(folder => {
      const file = readdirSync(join(root, folder)).find(name => /^licen[cs]e/i.test(name))
      if (!file) throw new Error(`${folder} has no licence`)
      const { name, version, license } = JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))
      return `${name} ${version}, ${license}\n\n${readFileSync(join(root, folder, file), 'utf8').trim()}\n`
    })
    .join('\n\n')

const buildModule = async out => {
  rmSync(out, { recursive: true, force: true })
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints: { main: 'src/cli/main.ts' },
    outdir: out,
    bundle: true,
    external: separate,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    metafile: true,
    logLevel: 'error',
    banner: { js: requireOfBundled },
  })
  writeFileSync(join(out, 'LICENCES.txt'), licencesOf(packagesOf(metafile)))
  for (const file of copied) {
    mkdirSync(dirname(join(out, file)), { recursive: true })
    copyFileSync(join(root, 'src', file), join(out, file))
  }
}

try {
  const [argument] = process.argv.slice(2)
  if (argument === undefined || argument === '--kernels') await buildKernels()
  if (argument !== '--kernels') await buildModule(argument ?? join(root, 'dist'))
} catch (error) {
  process.stderr.write(`build: ${error.message}\n`)
  process.exitCode = 1
}
