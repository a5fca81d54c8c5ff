/** PLACEHOLDER to be written: see interface. */
export interface Files {
  /** Opens for reading ('read'), or creates a new file for reading and writing that must not exist ('create'). Returns a descriptor. */
  open(path: string, mode: 'read' | 'create' | 'update'): number
  close(descriptor: number): void
  /** Reads up to into.length bytes at `position`; returns how many. */
  readAt(descriptor: number, into: Uint8Array, position: number): number
  /** Writes all of `data` at `position`. */
  writeAt(descriptor: number, data: Uint8Array, position: number): void
  sync(descriptor: number): void
  syncFolder(path: string): void
  /** undefined when there is nothing. */
  stat(path: string): { readonly kind: 'file' | 'folder' | 'other'; readonly bytes: number } | undefined
  statOpen(descriptor: number): { readonly bytes: number }
  list(folder: string): string[]
  makeFolder(path: string): void
  rename(from: string, to: string): void
  /** Removes a file, or a folder with all in it; nothing there is no error. */
  remove(path: string): void
  realPath(path: string): string
  /** Whole text of a small file, UTF-8; throws QuantizeError bad-input over `maxBytes` or when it is not UTF-8. */
  readText(path: string, maxBytes: number): string
  writeText(path: string, text: string): void
}
