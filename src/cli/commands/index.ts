import type { Commands } from '../commands.ts'
import { evalModel } from './eval.ts'
import { inspect } from './inspect.ts'
import { quantize } from './quantize.ts'
import { verifyOutput } from './verify.ts'

export const commands: Commands = { quantize, inspect, eval: evalModel, verify: verifyOutput }
