/**
 * Frequencies of rotary position embeddings (Su et al. 2021) from a config: default, linear and llama3 scaling, rounded to
 * float32 at the steps where transformers rounds. They reach the calibration statistics and so the codes of a checkpoint: only
 * + − × ÷ √ are used, never the host's pow.
 */
import type { Rope } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { type Config, checkFields, type FieldTable, fieldsOf, unsupported } from './config.ts'

const f32 = Math.fround

/** The degree-th root of value ≥ 1, to about an ulp of float64: square roots, then Newton's iteration from above. */
export const root = (value: number, degree: number): number => {
  if (degree === 1) return value
  if (degree % 2 === 0) return root(Math.sqrt(value), degree / 2)
  let estimate = value
  for (let covered = 2; covered <= degree; covered *= 2) estimate = Math.sqrt(estimate)
  for (;;) {
    let power = 1
    for (let factor = 1; factor < degree; factor++) power *= estimate
    const next = ((degree - 1) * estimate + value / power) / degree
    if (!(next < estimate)) return estimate
    estimate = next
  }
}

/** theta^(−i / half) for i < half, as float32 computes 1 / theta^(2i / headDim). */
const defaultFrequencies = (theta: number, headDim: number): number[] => {
  const half = headDim / 2
  const ratio = root(theta, half)
  const frequencies: number[] = []
  for (let i = 0, power = 1; i < half; i++, power *= ratio) frequencies.push(f32(1 / f32(power)))
  return frequencies
}

interface Llama3 {
  readonly factor: number
  readonly low: number
  readonly high: number
  readonly context: number
}

/** Llama 3.1: wavelengths beyond context / low are stretched by `factor`, those under context / high kept, between them a blend. */
const llama3 = (frequency: number, { factor, low, high, context }: Llama3): number => {
  const wavelength = f32(f32(2 * Math.PI) / frequency)
  if (wavelength > context / low) return f32(frequency / factor)
  if (wavelength < context / high) return frequency
  const smooth = f32(f32(f32(context / wavelength) - low) / (high - low))
  return f32(f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency))
}

const known = 'rope_type type rope_theta'
const sectionFields: FieldTable = {
  ...fieldsOf({ only: [1], want: '1' }, 'partial_rotary_factor'),
  ...fieldsOf({ only: [], want: 'one section for all layers' }, 'full_attention sliding_attention'),
  ...fieldsOf({ only: [], want: 'none' }, 'mrope_section'),
}
const fieldsByType: Readonly<Record<string, FieldTable>> = {
  default: fieldsOf('implemented', known),
  linear: fieldsOf('implemented', `${known} factor`),
  llama3: fieldsOf('implemented', `${known} factor low_freq_factor high_freq_factor original_max_position_embeddings`),
}

const factorRange = { min: 1e-3, max: 1e6 }
const contextRange = { min: 1, max: 2 ** 31 }

const readLlama3 = (config: Config, section: Config, maxPositions: number): Llama3 => {
  const context = section.integer('original_max_position_embeddings', contextRange, maxPositions)
  const low = section.number('low_freq_factor', factorRange)
  const high = section.number('high_freq_factor', factorRange)
  if (!(low < high)) {
    throw new QuantizeError(
      'bad-input',
      `${section.where}high_freq_factor ${high} must be above low_freq_factor ${low}`,
    )
  }
  return {
    factor: section.number('factor', factorRange),
    low,
    high,
    context: config.integer('original_max_position_embeddings', contextRange, context),
  }
}

/** `rope_scaling` (the older form) counts before `rope_parameters` unless it is empty, as in transformers 5. */
const ropeSection = (config: Config): Config | undefined => {
  const older = config.section('rope_scaling')
  return older && older.names.length > 0 ? older : config.section('rope_parameters')
}

/** Config fields that `readRope` reads. */
export const ropeFields: FieldTable = fieldsOf(
  'implemented',
  'rope_theta rope_scaling rope_parameters original_max_position_embeddings',
)

/**
 * The rope of a config, with notes on fields that its type does not read.
 * @throws QuantizeError unsupported for another type than default, linear, llama3; bad-input for missing or absurd values
 */
export const readRope = (
  config: Config,
  arch: string,
  headDim: number,
  maxPositions: number,
): { readonly rope: Rope; readonly notes: readonly string[] } => {
  if (headDim % 2 !== 0)
    throw new QuantizeError(
      'bad-input',
      `${config.where}head_dim ${headDim} is odd; rotary embeddings need an even one`,
    )
  const section = ropeSection(config)
  const type = section?.text('rope_type', section.text('type', 'default')) ?? 'default'
  if (section && !Object.hasOwn(fieldsByType, type))
    throw unsupported(section, 'rope_type', type, arch, Object.keys(fieldsByType).join(', '))
  const thetaRange = { min: 1, max: 1e12 }
  const outer = config.number('rope_theta', thetaRange, 10_000)
  const plain = defaultFrequencies(section?.number('rope_theta', thetaRange, outer) ?? outer, headDim)
  const notes = section ? checkFields(section, arch, fieldsByType[type], sectionFields) : []
  return { rope: { frequencies: scaled(plain, type, config, section, maxPositions), attentionFactor: 1 }, notes }
}

const scaled = (
  plain: readonly number[],
  type: string,
  config: Config,
  section: Config | undefined,
  maxPositions: number,
): readonly number[] => {
  if (!section || type === 'default') return plain
  if (type === 'linear') {
    const factor = section.number('factor', factorRange)
    return plain.map(frequency => f32(frequency / factor))
  }
  const settings = readLlama3(config, section, maxPositions)
  return plain.map(frequency => llama3(frequency, settings))
}
