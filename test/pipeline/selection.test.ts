/** Which linears a run quantizes, and each with which scheme. */
import { readdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { loadModel } from '../../src/evaluate/load-model.ts'
import { nodeFiles } from '../../src/io/files.ts'
import { quantizeTo, readConfig, run, tinyLlama } from '../helpers/command-line.ts'
import { temporaryFolder } from '../helpers/temporary-folder.ts'

const folder = temporaryFolder()
let outputs = 0
const fresh = (): string => join(folder, `out${outputs++}`)

/** Round to nearest into the format that needs least. */
const quantize = (...options: string[]) =>
  quantizeTo(fresh(), tinyLlama, '--method', 'rtn', '--group', '64', '--format', 'gptq', ...options)
const refused = async (...options: string[]) => {
  const { code, stderr } = await run(tinyLlama, '--method', 'rtn', '--group', '64', '--format', 'gptq', ...options)
  return { code, said: stderr.trim() }
}

describe('what stands in the way of a run', () => {
  it('of one of several formats ends all before any work', async () => {
    const output = fresh()
    const args = ['--method', 'rtn', '--group', '64', '--bits', '3', '--format', 'compressed-tensors,bnb', '-o', output]
    const { code, stderr } = await run(tinyLlama, ...args)
    expect([code, stderr]).toEqual([4, expect.stringContaining('bitsandbytes stores integers of 8 bits')])
    expect(readdirSync(folder).filter(name => name.startsWith(basename(output)))).toEqual([])
  })

  it('is found by a dry run: a text or an importance matrix that is not there', async () => {
    const { code, stderr } = await run(tinyLlama, '--calib', 'none.txt', '--dry-run')
    expect([code, stderr.trim()]).toEqual([3, 'error: none.txt: no such file or folder'])
    const matrix = ['--method', 'rtn', '--format', 'gguf:q4_0', '--imatrix', 'none.gguf']
    expect((await run(tinyLlama, ...matrix, '--dry-run')).code).toBe(3)
  })
})

describe('--include and --exclude', () => {
  it('choose linears by name; the others are kept, with the reason', async () => {
    const { linears, kept } = await quantize('--include', '*.mlp.*,*.o_proj', '--exclude', 'model.layers.0.*')
    const names = linears.map(({ name }) => name)
    expect(names).toHaveLength(3 * 4)
    expect(names.every(name => /^model\.layers\.[123]\.(mlp|self_attn\.o_proj)/.test(name))).toBe(true)
    const reasonOf = (name: string) => kept.find(tensor => tensor.name === `${name}.weight`)?.reason
    expect(reasonOf('model.layers.0.mlp.up_proj')).toBe('--exclude model.layers.0.*')
    expect(reasonOf('model.layers.1.self_attn.q_proj')).toBe('not named by --include')
  })

  it.each([
    [['--include', '*.nothing'], /--include \*\.nothing: matches no linear/],
    [['--exclude', '*.q_porj'], /--exclude \*\.q_porj: matches no linear/],
    [['--override', 'lm_head=bits:8'], /--override lm_head: matches no linear/],
  ] as const)('%s: a pattern that matches nothing is an error', async (options, message) => {
    const { code, said } = await refused(...options)
    expect(code).toBe(2)
    expect(said).toMatch(message)
  })
})

describe('--override', () => {
  it('gives linears another scheme, the last that matches counts', async () => {
    const { linears } = await quantize(
      ...['--override', '*.down_proj=bits:8,group:128', '--override', 'model.layers.3.*.down_proj=bits:2,asym'],
    )
    const schemes = linears.filter(({ name }) => name.endsWith('down_proj'))
    expect(schemes.map(({ bits, group, symmetric }) => [bits, group, symmetric])).toEqual([
      ...Array(3).fill([8, 128, true]),
      [2, 128, false],
    ])
    expect(linears.filter(({ name }) => !name.endsWith('down_proj')).every(({ bits }) => bits === 4)).toBe(true)
  })

  it('must not part linears that runtimes fuse', async () => {
    const { code, said } = await refused('--override', '*.v_proj=bits:8')
    expect(code).toBe(4)
    expect(said).toMatch(/q_proj: runtimes fuse it with model\.layers\.0\.self_attn\.v_proj, and the schemes differ/)
    expect((await refused('--exclude', '*.k_proj')).said).toMatch(/k_proj, which stays unquantized/)
    const { linears } = await quantize('--exclude', '*.k_proj', '--unfit', 'keep')
    expect(linears.some(({ name }) => /[qkv]_proj$/.test(name))).toBe(false)
  })
})

describe('the head', () => {
  it('of a tied model becomes a weight of its own when it is quantized', async () => {
    const output = fresh()
    const report = await quantizeTo(
      output,
      ...[tinyLlama, '--method', 'rtn', '--group', '64', '--format', 'gptq', '--head-bits', '8'],
    )
    expect(report.linears.at(-1)).toMatchObject({ name: 'lm_head', tensor: 'model.embed_tokens.weight', bits: 8 })
    expect(report.kept.map(({ name }) => name)).toContain('model.embed_tokens.weight')
    expect(report.warnings.join()).toMatch(/the head was the embedding/)
    expect(readConfig(output)).toMatchObject({ tie_word_embeddings: false, quantization_config: { lm_head: true } })
    const { model, checkpoint } = loadModel(output, nodeFiles)
    expect(model.tied).toBe(false)
    checkpoint.close()
  })

  it('refuses another width for a head that is the embedding', async () => {
    const output = join(folder, 'shared-head')
    const options = ['--method', 'rtn', '--format', 'mlx', '-o', output]
    const { code, stderr } = await run(tinyLlama, ...options, '--head-bits', '8')
    expect(code).toBe(2)
    expect(stderr).toMatch(/--head-bits 8: the head is the embedding, which has 4 bits; --embed-bits sets both/)
    expect((await run(tinyLlama, ...options, '--embed-bits', '8', '--dry-run')).code).toBe(0)
  })

  it('and the embedding are refused where the format has no place for them', async () => {
    const { code, said } = await refused('--embed-bits', '4')
    expect(code).toBe(2)
    expect(said).toMatch(/--embed-bits: format gptq has no place for a quantized embedding/)
  })
})

describe('--dtype', () => {
  it('rounds what stays unquantized, and says so', async () => {
    const output = fresh()
    const report = await quantizeTo(
      output,
      ...[tinyLlama, '--method', 'rtn', '--group', '64', '--format', 'gptq', '--dtype', 'f32'],
    )
    expect(report.kept.every(({ reason }) => reason.endsWith('BF16 rounded to F32'))).toBe(true)
    expect(readConfig(output)).toMatchObject({ dtype: 'float32' })
    expect((await run('verify', output, '--source', tinyLlama)).code).toBe(0)
  })
})

it('a grid that the format does not store is refused, with what would fit', async () => {
  const { code, said } = await refused('--grid', 'nf4')
  expect(code).toBe(4)
  expect(said).toMatch(/GPTQ stores integers, not nf4; --grid int would fit/)
  expect((await refused('--grid', 'nf4', '--bits', '8')).said).toMatch(/grid nf4 has 4 bits/)
  expect((await refused('--grid', 'nf4', '--asym')).said).toMatch(/no zero point/)
})

describe('what is not said follows from format and grid', () => {
  const plan = async (...options: string[]) => {
    const { code, stdout } = await run(tinyLlama, '--method', 'rtn', '--dry-run', '--json', ...options)
    expect(code).toBe(0)
    const { recipe } = JSON.parse(stdout)
    return [recipe.format, recipe.grid, recipe.bits, recipe.group, recipe.symmetric]
  }

  it.each([
    [[], ['compressed-tensors', 'int', 4, 128, true]],
    [
      ['--grid', 'fp8'],
      ['compressed-tensors', 'fp8', 8, 'channel', true],
    ],
    [
      ['--format', 'fp8'],
      ['fp8', 'fp8', 8, 'block', true],
    ],
    [
      ['--grid', 'nf4'],
      ['bnb', 'nf4', 4, 64, true],
    ],
    [
      ['--format', 'bnb'],
      ['bnb', 'nf4', 4, 64, true],
    ],
    [
      ['--format', 'bnb', '--bits', '8'],
      ['bnb', 'int', 8, 'channel', true],
    ],
    [
      ['--format', 'mlx'],
      ['mlx', 'int', 4, 64, false],
    ],
    [
      ['--format', 'mlx', '--grid', 'mxfp4'],
      ['mlx', 'mxfp4', 4, 32, true],
    ],
    [
      ['--format', 'awq'],
      ['awq', 'int', 4, 128, false],
    ],
    [
      ['--format', 'onnx'],
      ['onnx', 'int', 4, 32, true],
    ],
    [
      ['--bits', '8', '--activations', 'int8'],
      ['compressed-tensors', 'int', 8, 'channel', true],
    ],
    [
      ['--scheme', 'FP8'],
      ['compressed-tensors', 'fp8', 8, 'channel', true],
    ],
  ] as const)('%s', async (options, expected) => expect(await plan(...options)).toEqual(expected))
})
