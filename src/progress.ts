/**
 * What a long job says while it runs. Steps call a `Report`; only src/cli turns events into text.
 * Work is counted in one unit of the job's choice (flops, tokens, bytes): the time left is computed from it.
 */
export type ProgressEvent =
  | { readonly kind: 'start'; readonly totalWork: number; readonly title: string }
  /** `done` is cumulative, in the unit of `totalWork`; `label` names the step under way. */
  | { readonly kind: 'work'; readonly done: number; readonly label: string }
  /** One linear is finished: the `index`-th of `count`, counted from 1. */
  | {
      readonly kind: 'linear'
      readonly name: string
      readonly index: number
      readonly count: number
      readonly method: string
      readonly sqnrDb: number
      /** tr(ΔW·G·ΔWᵀ) / tr(W·G·Wᵀ); null when no statistics were collected. */
      readonly relativeOutputError: number | null
      readonly seconds: number
    }
  | { readonly kind: 'note'; readonly text: string }
  | { readonly kind: 'end' }

export type Report = (event: ProgressEvent) => void
