// The echo as npm's `frame-stream` sees it: PORT SIZE..

'use strict'

const crypto = require('crypto')
const net = require('net')
const frame = require('frame-stream')

const [port, ...sizes] = process.argv.slice(2).map(Number)
const payloads = sizes.map(size => crypto.randomBytes(size))
const expected = [...payloads, ...payloads, ...payloads]
let received = 0

const socket = net.connect(port, '127.0.0.1')
const encoder = frame.encode()
encoder.pipe(socket)
// In object mode, because a stream of bytes shows nobody an empty piece.
const decoder = frame.decode({ maxSize: Math.max(...sizes), readableObjectMode: true })
socket.pipe(decoder)

decoder.on('data', payload => {
  if (!payload.equals(expected[received])) {
    throw new Error(`${expected[received].length} bytes came back as ${payload.length} others`)
  }
  received += 1
  if (received < payloads.length) {
    encoder.write(payloads[received])
  } else if (received === payloads.length) {
    for (const again of [...payloads, ...payloads]) encoder.write(again)
  } else if (received === expected.length) {
    encoder.end()
  }
})
decoder.on('end', () => {
  if (received !== expected.length) throw new Error(`only ${received} frames came back`)
  const version = require('frame-stream/package.json').version
  console.log(`frame-stream ${version}, Node.js ${process.versions.node}: ` +
    `${received} frames of ${sizes[0]} to ${Math.max(...sizes)} bytes are equal`)
})
encoder.write(payloads[0])
