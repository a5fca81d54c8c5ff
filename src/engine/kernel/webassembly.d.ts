/** The part of WebAssembly's JavaScript interface that the kernels use; the DOM's declarations hold it, Node's do not. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array)
  }
  class Memory {
    constructor(descriptor: { initial: number; maximum: number; shared: true })
    readonly buffer: SharedArrayBuffer
    /** Grows by `pages` of 64 KiB; views of the earlier buffer stay valid and short. */
    grow(pages: number): number
  }
}
