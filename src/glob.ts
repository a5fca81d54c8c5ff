/** Whether a name matches a glob as a whole: `*` stands for any characters, dots among them, `?` for one. Time |glob| · |name| at most. */
export const matchesGlob = (glob: string, name: string): boolean => {
  let [g, n] = [0, 0]
  let [star, resume] = [-1, 0] // the last star, and where what it swallowed ends
  while (n < name.length) {
    if (glob[g] === '*') {
      star = g++
      resume = n
    } else if (glob[g] === '?' || glob[g] === name[n]) {
      g++
      n++
    } else if (star >= 0) {
      g = star + 1
      n = ++resume
    } else return false
  }
  while (glob[g] === '*') g++
  return g === glob.length
}
