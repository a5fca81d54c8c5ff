/** The config files of the output. */
import type { AssembleFacts, Configs } from '../contracts.ts'
import { withLegacyRope } from '../model/legacy-rope.ts'
import type { Plan } from '../plan.ts'
import { version } from '../version.ts'

/** The model's config.json; undefined for a lone file. */
export type SourceConfig = Readonly<Record<string, unknown>> | undefined

/** The source's config without what it says of its own quantization, and with what the run changes: a head of its own, the dtype of what stays unquantized. */
const amended = (source: NonNullable<SourceConfig>, { untied, recipe: { restDtype } }: Plan): SourceConfig => {
  const { quantization_config, quantization, compression_config, ...config } = withLegacyRope(source)
  const names = { BF16: 'bfloat16', F16: 'float16', F32: 'float32' } as const
  const dtypeKey = Object.hasOwn(config, 'dtype') ? 'dtype' : 'torch_dtype'
  return {
    ...config,
    ...(untied ? { tie_word_embeddings: false } : {}),
    ...(restDtype ? { [dtypeKey]: names[restDtype] } : {}),
  }
}

const assembleFacts = ({ recipe, linears, kept, passed, model, untied }: Plan): AssembleFacts => ({
  linears: linears.map(({ scheme }) => scheme),
  kept: kept.map(({ name }) => name),
  rest: passed.map(({ stored }) => stored),
  model,
  untied,
  method: recipe.method,
  grid: recipe.grid,
  bits: recipe.bits,
  symmetric: recipe.symmetric,
  group: recipe.group === 'implied' ? 'channel' : recipe.group,
  actOrder: recipe.actOrder,
  damp: recipe.damp,
  clip: recipe.clip,
  version,
  shardBytes: recipe.shardBytes,
})

/** By name, as they are written. */
export const configsOf = (plan: Plan, source: SourceConfig): ReadonlyMap<string, string | Uint8Array> =>
  plan.format.assemble(source && amended(source, plan), assembleFacts(plan))

/** Those that are JSON, as their readers see them. */
export const parseConfigs = (configs: ReadonlyMap<string, string | Uint8Array>): Configs =>
  Object.fromEntries(
    [...configs].flatMap(([name, content]) => (typeof content === 'string' ? [[name, JSON.parse(content)]] : [])),
  )
