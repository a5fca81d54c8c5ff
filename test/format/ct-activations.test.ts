import { describe, expect, it } from 'vitest'
import type { ActivationScheme, Configs, GridName, StoredTensor } from '../../src/contracts.ts'
import { fromFloat32 } from '../../src/dtype/convert.ts'
import { formats } from '../../src/format/index.ts'
import { configsFor, expectFailure, linearFor, schemeWith, sourcesOf } from './storage-linears.ts'

const format = formats['compressed-tensors']

const schemes = {
  nvfp4: schemeWith({ grid: 'nvfp4', bits: 4, symmetric: true, out: 8, in: 64, group: 16 }),
  mxfp4: schemeWith({ grid: 'mxfp4', bits: 4, symmetric: true, out: 8, in: 64, group: 32 }),
  mxfp8: schemeWith({ grid: 'mxfp8', bits: 8, symmetric: true, out: 8, in: 64, group: 32 }),
  fp8: schemeWith({ grid: 'fp8', bits: 8, symmetric: true, out: 8, in: 64, group: 'channel' }),
} as const satisfies Partial<Record<GridName, unknown>>

/** The config of that scheme with input arguments, as llm-compressor writes them. */
const withInput = (grid: keyof typeof schemes, input: object): Configs => {
  const configs = structuredClone(configsFor(format, [schemes[grid]])) as {
    'config.json': { quantization_config: { config_groups: { group_0: object } } }
  }
  Object.assign(configs['config.json'].quantization_config.config_groups.group_0, { input_activations: input })
  return configs
}

const float = (name: string, value: number): StoredTensor => ({
  name,
  dtype: 'F32',
  shape: [1],
  bytes: 4,
  data: fromFloat32(Float32Array.of(value), 'F32'),
})

const activationsOf = (grid: keyof typeof schemes, input: object, extra: readonly StoredTensor[] = []) => {
  const linear = { ...linearFor(format, schemes[grid], 1), globalScale: 1 }
  const tensors = [...format.pack(schemes[grid], linear), ...extra]
  return format.detect(sourcesOf(tensors), withInput(grid, input))!.get('m')!.activations
}

const four = { num_bits: 4, type: 'float', symmetric: true }
const eight = { ...four, num_bits: 8 }
const nvfp4 = { ...four, strategy: 'tensor_group', group_size: 16, dynamic: 'local' }
const dynamic = { symmetric: true, dynamic: true } as const

describe('input_activations of compressed-tensors', () => {
  it.each<[string, keyof typeof schemes, object, ActivationScheme]>([
    ['NVFP4', 'nvfp4', nvfp4, { grid: 'nvfp4', ...dynamic, granularity: 16 }],
    [
      'MXFP4',
      'mxfp4',
      { ...four, strategy: 'group', group_size: 32, dynamic: true, scale_dtype: 'torch.uint8' },
      { grid: 'mxfp4', ...dynamic, granularity: 32 },
    ],
    [
      'MXFP8',
      'mxfp8',
      { ...eight, strategy: 'group', group_size: 32, dynamic: true, scale_dtype: 'torch.uint8' },
      { grid: 'mxfp8', ...dynamic, granularity: 32 },
    ],
    [
      'FP8 over groups of 32 with scales of any size',
      'fp8',
      { ...eight, strategy: 'group', group_size: 32, dynamic: true },
      { grid: 'fp8', ...dynamic, granularity: 32 },
    ],
  ])('%s', (_, grid, input, expected) => expect(activationsOf(grid, input)).toEqual(expected))

  it('NVFP4 under the stored divisor', () =>
    expect(activationsOf('nvfp4', nvfp4, [float('m.input_global_scale', 300)])).toEqual({
      grid: 'nvfp4',
      ...dynamic,
      granularity: 16,
      globalScale: 300,
    }))

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])('refuses a divisor of %d', value =>
    expectFailure(
      () => activationsOf('nvfp4', nvfp4, [float('m.input_global_scale', value)]),
      'bad-input',
      /input_global_scale/,
    ),
  )
})
