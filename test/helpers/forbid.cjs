/**
 * A preload (`node --require`) under which nothing may open a socket, ask for a name, or start a process: each try is written into the file
 * named by FORBIDDEN_LOG, then fails. CommonJS, so that it is there before anything else, in worker threads too.
 */
const { appendFileSync } = require('node:fs')
const { syncBuiltinESMExports } = require('node:module')

const forbid = (owner, where, names) => {
  for (const name of names)
    if (typeof owner[name] === 'function')
      owner[name] = function forbidden() {
        appendFileSync(process.env.FORBIDDEN_LOG, `${where}.${name}\n`)
        throw new Error(`forbidden: ${where}.${name}`)
      }
}

const functionsOf = owner =>
  Object.keys(owner).filter(name => typeof owner[name] === 'function' && !/^[A-Z]/.test(name))

const modules = ['net', 'tls', 'http', 'https', 'http2', 'dgram', 'dns', 'dns/promises', 'child_process', 'cluster']
const harmless = /^(is|get|set|validate|check|convert)/ // tests of addresses, settings
for (const name of modules) {
  const owner = require(`node:${name}`)
  forbid(
    owner,
    name,
    functionsOf(owner).filter(key => !harmless.test(key)),
  )
}
const net = require('node:net')
forbid(net.Socket.prototype, 'net.Socket', ['connect'])
forbid(net.Server.prototype, 'net.Server', ['listen'])
forbid(require('node:dgram').Socket.prototype, 'dgram.Socket', ['bind', 'connect', 'send'])
forbid(require('node:child_process').ChildProcess.prototype, 'child_process.ChildProcess', ['spawn'])
forbid(globalThis, 'globalThis', ['fetch', 'WebSocket', 'EventSource'])
syncBuiltinESMExports()
