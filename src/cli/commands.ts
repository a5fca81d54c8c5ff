import type {
  CalibrateOptions,
  CompareOptions,
  ConvertOptions,
  EvalOptions,
  FormatsOptions,
  InspectOptions,
  MethodsOptions,
  QuantizeOptions,
  VerifyOptions,
} from './parse.ts'
import type { Ui } from './ui.ts'

/**
 * What `main` runs. A command resolves when its work is done and written, throws QuantizeError for what is foreseen (`gate` after its
 * work is written), and looks at `ui.signal` between steps.
 */
export interface Commands {
  quantize(options: QuantizeOptions, ui: Ui): Promise<void>
  convert(options: ConvertOptions, ui: Ui): Promise<void>
  calibrate(options: CalibrateOptions, ui: Ui): Promise<void>
  inspect(options: InspectOptions, ui: Ui): Promise<void>
  eval(options: EvalOptions, ui: Ui): Promise<void>
  verify(options: VerifyOptions, ui: Ui): Promise<void>
  compare(options: CompareOptions, ui: Ui): Promise<void>
  methods(options: MethodsOptions, ui: Ui): Promise<void>
  formats(options: FormatsOptions, ui: Ui): Promise<void>
}
