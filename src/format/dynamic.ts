/** Keys of `dynamic`, in which GPTQModel and vLLM look modules up (GPTQModel, quantization/config.py): `-:` or `+:` and a regular expression. */
import { fusedOf } from './fused.ts'

/** GPTQModel takes a pattern of the form ^literal$ as an exact name, which it looks up without running a regular expression. */
const exactly = (name: string): string => `^${name.replace(/[\\^$.|?*+()[\]{}/]/g, '\\$&')}$`

const keysOf = (sign: '-' | '+', names: readonly string[]): string[] =>
  [...names, ...fusedOf(names)].map(name => `${sign}:${exactly(name)}`)

/** Of modules that stay dense, and of fused ones all of whose parts do. */
export const denseKeys = (names: readonly string[]): string[] => keysOf('-', names)

/** Of modules that differ from the config's own scheme. */
export const differingKeys = (names: readonly string[]): string[] => keysOf('+', names)
