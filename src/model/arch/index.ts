import type { Architecture } from './architecture.ts'
import { llama } from './llama.ts'
import { opt } from './opt.ts'

/** Every architecture; a new one is one file and one line here. */
export const architectures: readonly Architecture[] = [llama, opt]
