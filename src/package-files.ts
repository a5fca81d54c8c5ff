/**
 * A file of this package that is no module, by its path from src. Only this file knows where it lies: the build puts all modules into the root of dist, and
 * such files where they are in src (scripts/build.js).
 */
export const packageFile = (path: string): URL => new URL(path, import.meta.url)
