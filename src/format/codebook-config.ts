/** `quantization_config` of a codebook checkpoint: written here, and read back checked. */
import { z } from 'zod'
import type { ActivationScheme, AssembleFacts, Bits, Configs, LinearScheme } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'
import { codebookRefusal, groupCount } from './codebook-layout.ts'
import { declaredFields, type Fields, jsonText } from './config-fields.ts'
import { everyGrid } from './grid-storage.ts'

const formatVersion = 1

const size = z.int().positive()

const activationGrids = [
  'int4',
  'int8',
  'fp8',
  'nvfp4',
  'mxfp4',
  'mxfp8',
] as const satisfies readonly ActivationScheme['grid'][]

const activationsSchema = z.strictObject({
  grid: z.enum(activationGrids),
  symmetric: z.boolean(),
  granularity: z.union([z.literal('token'), z.literal('tensor'), size]),
  dynamic: z.boolean(),
  scale: z.number().positive().optional(),
  zero: z.number().optional(),
  globalScale: z.number().positive().optional(),
  outliers: z.number().positive().optional(),
})

const schemeSchema = z.strictObject({
  role: z.enum(['linear', 'head', 'embedding']),
  grid: z.enum(everyGrid),
  bits: z.int().min(1).max(8),
  symmetric: z.boolean(),
  group: z.union([size, z.literal('channel'), z.literal('tensor'), z.literal('block')]),
  act_order: z.enum(['none', 'static', 'g_idx']),
  dtype: z.enum(['F32', 'F16', 'BF16']),
  activations: activationsSchema.optional(),
  linears: z.array(z.strictObject({ name: z.string(), out: size, in: size })),
})

type StoredScheme = z.infer<typeof schemeSchema>

const configSchema = z.object({ schemes: z.array(schemeSchema) })

/** All that linears have in common; JSON leaves out what is undefined. */
const sharedOf = ({ role, grid, bits, symmetric, group, actOrder, dtype, activations }: LinearScheme) => ({
  ...{ role, grid, bits, symmetric, group },
  ...{ act_order: actOrder, dtype, activations },
})

const schemesOf = (linears: readonly LinearScheme[]): readonly Fields[] => {
  const schemes = new Map<string, StoredScheme>()
  for (const linear of linears) {
    const shared = sharedOf(linear)
    const key = JSON.stringify(shared)
    if (!schemes.has(key)) schemes.set(key, { ...shared, linears: [] })
    schemes.get(key)!.linears.push({ name: linear.name, out: linear.out, in: linear.in })
  }
  return [...schemes.values()]
}

/** Format.assemble. Without a source config (a lone weights file) the declaration is a file of its own. */
export const assembleCodebook = (source: Fields | undefined, facts: AssembleFacts): ReadonlyMap<string, string> => {
  const declaration = {
    quant_method: 'codebook',
    version: formatVersion,
    quantizer: `quantize-cli:${facts.version}`,
    schemes: schemesOf(facts.linears),
  }
  return source
    ? new Map([['config.json', jsonText({ ...source, quantization_config: declaration })]])
    : new Map([['quantize_config.json', jsonText(declaration)]])
}

const malformed = (field: string, problem: string): QuantizeError =>
  new QuantizeError('bad-input', `quantization config: ${printable(field)}: ${printable(problem)}`)

const parsed = (declared: Fields): readonly StoredScheme[] => {
  const { version } = declared
  if (!Number.isSafeInteger(version)) throw malformed('version', 'expected a whole number')
  if (version !== formatVersion)
    throw new QuantizeError('unsupported', `codebook version ${version} cannot be read; version ${formatVersion} can`)
  const result = configSchema.safeParse(declared)
  if (result.success) return result.data.schemes
  const [issue] = result.error.issues
  throw malformed(z.core.toDotPath(issue.path), issue.message)
}

const schemesFrom = (stored: readonly StoredScheme[]): ReadonlyMap<string, LinearScheme> => {
  const linears = new Map<string, LinearScheme>()
  for (const { linears: shapes, act_order: actOrder, bits, activations, ...shared } of stored) {
    const refusal = codebookRefusal({ grid: shared.grid, bits: bits as Bits })
    if (refusal) throw malformed('bits', refusal)
    for (const { name, out, in: inputs } of shapes) {
      if (linears.has(name)) throw malformed('schemes', `name ${name} twice`)
      const groups = groupCount({ group: shared.group, in: inputs })
      const scheme = { name, out, in: inputs, ...shared, bits: bits as Bits, groups, actOrder }
      linears.set(name, activations ? { ...scheme, activations } : scheme)
    }
  }
  return linears
}

/** Declarations already read: `unpack` asks for one linear after the other. */
const known = new WeakMap<Fields, ReadonlyMap<string, LinearScheme>>()

/**
 * @returns the declared linears by module name; undefined when the configs declare another format or none
 * @throws QuantizeError bad-input naming the field that is malformed; unsupported for another version
 */
export const declaredCodebook = (configs: Configs): ReadonlyMap<string, LinearScheme> | undefined => {
  const declared = declaredFields(configs, 'codebook')
  if (!declared) return undefined
  const linears = known.get(declared) ?? schemesFrom(parsed(declared))
  known.set(declared, linears)
  return linears
}
