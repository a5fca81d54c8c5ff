/** A report to test with: a model of two blocks, as a run would describe it. */
import type { LinearScheme } from '../../src/contracts.ts'
import { formats } from '../../src/format/index.ts'
import type { LinearFacts, ReportFacts } from '../../src/report/build.ts'
import type { WeightError } from '../../src/report/measure.ts'

const scheme = (name: string, out: number, inputs: number): LinearScheme => ({
  name,
  role: 'linear',
  dtype: 'BF16',
  grid: 'int',
  out,
  in: inputs,
  bits: 4,
  symmetric: true,
  group: 64,
  groups: inputs / 64,
  actOrder: 'static',
})

const error = (sqnrDb: number | null): WeightError => ({
  weights: 1,
  mse: 1e-5,
  sqnrDb,
  maxAbsError: 0.01,
  energy: 100,
  errorEnergy: 1,
})

export const linearFacts = (
  name: string,
  out: number,
  inputs: number,
  sqnrDb: number | null,
  relativeOutputError: number | null,
): LinearFacts => ({
  scheme: scheme(name, out, inputs),
  tensor: `${name}.weight`,
  tensors: formats.gptq.layout(scheme(name, out, inputs)),
  method: 'gptq',
  fallback: null,
  error: error(sqnrDb),
  clippedFraction: 0.001,
  relativeOutputError,
  correction: null,
  damp: 0.01,
  deadChannels: 0,
  zeroedWeights: 0,
  zeroedActivations: 0,
  seconds: 0.25,
})

export const reportFacts: ReportFacts = {
  tool: { name: 'quantize-cli', version: '1.2.3' },
  recipe: { method: 'gptq', bits: 4, group: 64, damp: 0.01, calibration: { text: 'bundled', seed: 0 } },
  source: {
    path: 'in/model.safetensors',
    files: ['model.safetensors'],
    tensors: 7,
    bytes: 400_000,
    sha256: { 'model.safetensors': 'b'.repeat(64) },
  },
  calibration: {
    text: 'bundled',
    sha256: 'a'.repeat(64),
    documents: 12,
    samplesRequested: 8,
    samplesUsed: 8,
    tokensUsed: 4096,
    tokensDropped: 17,
    seqLen: 512,
    seed: 0,
  },
  statistics: { of: 'quantized prefix', file: null, sha256: null, texts: [] },
  transforms: [],
  linears: [
    linearFacts('model.layers.0.self_attn.q_proj', 128, 128, 20, 0.01),
    linearFacts('model.layers.0.mlp.down_proj', 128, 384, 22, 0.002),
    linearFacts('model.layers.1.self_attn.q_proj', 128, 128, 18, 0.03),
    { ...linearFacts('model.layers.1.mlp.down_proj', 128, 384, null, 0), method: 'rtn', fallback: 'too few tokens' },
  ],
  kept: [{ name: 'model.norm.weight', reason: 'a norm' }],
  corrected: [],
  dropped: [],
  warnings: ['groups of 48: vLLM 0.33 loads only 32, 64, 128 or channel'],
  outputs: {
    'model.safetensors': { bytes: 123, sha256: 'c'.repeat(64) },
    'config.json': { bytes: 45, sha256: 'b'.repeat(64) },
  },
  run: { weights: 200_000, bytesBefore: 400_000, bytesAfter: 210_000, seconds: 1.5, peakMemoryBytes: 2_000_000_000 },
}
