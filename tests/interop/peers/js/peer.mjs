// A js-libp2p node behind JSON lines (see ../jsonl.py): node peer.mjs --key FILE (a PrivateKey protobuf).
// Listens on 127.0.0.1, a free port. No bootstrap list, no UPnP: neither is even installed.
// --segment ADDRESS [--port N]: listens there, with mDNS on.
// --dht client|server [--dht-proto NAME]: a DHT, /ipfs/kad/1.0.0 unless named; takes any address.
// --autonat: AutoNAT v2, as client and server. --via: circuits over relays, and places there. --relay: is one.
// --dcutr: punches holes. --announce ADDRESS: one more of its own, which it offers then; else it has none that is proved.
// Commands: connect addr | handle proto [target] (no target: echo) | forward proto listen peer
//           open proto peer data | ping peer | protocols peer | peers | findpeer peer
//           discovered peer (once mDNS has found it) | verified (own addresses that AutoNAT has proved)
//           reserve relay (a place there)
// Ends when stdin closes.
import './node20.mjs' // first: module order is evaluation order
import { createLibp2p } from 'libp2p'
import { tcp } from '@libp2p/tcp'
import { noise } from '@libp2p/noise'
import { tls } from '@libp2p/tls'
import { yamux } from '@libp2p/yamux'
import { identify, identifyPush } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { once } from 'node:events'
import net from 'node:net'
import fs from 'node:fs'
import readline from 'node:readline'
import { parseArgs } from 'node:util'

const text = { type: 'string' }
const flag = { type: 'boolean' }
const switches = { autonat: flag, via: flag, relay: flag, dcutr: flag }
const known = { key: text, segment: text, port: text, dht: text, 'dht-proto': text, announce: text, ...switches }
const { values: options } = parseArgs({ options: known })
const discovery = options.segment == null ? [] : [(await import('@libp2p/mdns')).mdns()]
const services = { identify: identify(), identifyPush: identifyPush(), ping: ping() }
if (options.dht != null) {
  const { kadDHT, passthroughMapper } = await import('@libp2p/kad-dht')
  const protocol = options['dht-proto'] ?? '/ipfs/kad/1.0.0'
  // By default it drops private addresses, so all there are here, and waits for ever while it knows no server.
  const here = { peerInfoMapper: passthroughMapper, allowQueryWithZeroPeers: true }
  services.dht = kadDHT({ protocol, clientMode: options.dht === 'client', ...here })
}
if (options.autonat) services.autonat = (await import('@libp2p/autonat-v2')).autoNATv2({ startupDelay: 0 })
if (options.relay) services.relay = (await import('@libp2p/circuit-relay-v2')).circuitRelayServer()
if (options.dcutr) services.dcutr = (await import('@libp2p/dcutr')).dcutr()
const announced = options.announce == null ? [] : [options.announce]
const circuits = options.via ? [(await import('@libp2p/circuit-relay-v2')).circuitRelayTransport()] : []
const node = await createLibp2p({
  privateKey: privateKeyFromProtobuf(fs.readFileSync(options.key)),
  services,
  addresses: { listen: [`/ip4/${options.segment ?? '127.0.0.1'}/tcp/${options.port ?? 0}`], appendAnnounce: announced },
  peerDiscovery: discovery,
  transports: [tcp(), ...circuits],
  // The default drops more than 5 connections a second from one host: here everybody is one host.
  connectionManager: { inboundConnectionThreshold: 1000 },
  connectionEncrypters: [noise(), tls()],
  // The default (4 MiB) is below yamux's own largest window, and resets a stream whose reader is slow.
  streamMuxers: [yamux({ streamOptions: { maxReadBufferLength: 32 << 20 } })]
})

const discovered = new Set()
node.addEventListener('peer:discovery', event => discovered.add(`${event.detail.id}`))

const emit = message => process.stdout.write(JSON.stringify(message) + '\n')
const hostPort = address => { const part = address.split('/'); return { host: part[2], port: Number(part[4]) } }
const limits = { maxInboundStreams: 10000, maxOutboundStreams: 10000 }
const soon = () => ({ signal: AbortSignal.timeout(20000) })

// Copy between a stream and a TCP socket, with back-pressure and half-close both ways. send, pause and
// resume throw on a dead stream: uncaught in an event handler, that would end this process.
function splice (stream, sock) {
  const guarded = call => {
    try { return call() } catch (error) { console.error('splice:', error.message); sock.destroy(); return true }
  }
  stream.addEventListener('message', event => {
    if (!sock.write(event.data.subarray())) {
      guarded(() => stream.pause())
      sock.once('drain', () => guarded(() => stream.resume()))
    }
  })
  stream.addEventListener('end', () => sock.end())
  stream.addEventListener('close', event => { if (event.error) sock.resetAndDestroy() })
  sock.on('data', data => {
    if (!guarded(() => stream.send(data))) {
      sock.pause()
      stream.addEventListener('drain', () => sock.resume(), { once: true })
    }
  })
  sock.on('end', () => stream.close().catch(() => {}))
  sock.on('error', error => guarded(() => stream.abort(error)))
}

function echo (stream) {
  stream.addEventListener('message', event => {
    try {
      if (!stream.send(event.data)) {
        stream.pause()
        stream.addEventListener('drain', () => stream.resume(), { once: true })
      }
    } catch (error) { stream.abort(error) }
  })
  stream.addEventListener('end', () => stream.close().catch(() => {}))
}

const commands = {
  connect: async ({ addr }) => { await node.dial(multiaddr(addr), soon()) },
  handle: async ({ proto, target }) => {
    // Listeners are attached before anything is awaited: data may follow at once.
    const serve = stream => target == null
      ? echo(stream)
      : splice(stream, net.connect({ ...hostPort(target), allowHalfOpen: true, noDelay: true }))
    await node.handle(proto, serve, { ...limits, force: true })
  },
  forward: async ({ proto, listen, peer }) => {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true, pauseOnConnect: true }, sock => {
      node.dialProtocol(peerIdFromString(peer), proto, { ...limits, ...soon() }).then(
        stream => { splice(stream, sock); sock.resume() },
        error => { console.error('forward:', error.message); sock.resetAndDestroy() })
    })
    await new Promise((resolve, reject) => { server.on('error', reject); server.listen(hostPort(listen), resolve) })
  },
  open: async ({ proto, peer, data }) => {
    const stream = await node.dialProtocol(peerIdFromString(peer), proto, { ...limits, ...soon() })
    let reply = ''
    const ended = new Promise((resolve, reject) => {
      stream.addEventListener('end', () => resolve())
      stream.addEventListener('close', event => event.error ? reject(event.error) : resolve())
    })
    stream.addEventListener('message', event => { reply += Buffer.from(event.data.subarray()).toString() })
    stream.send(new TextEncoder().encode(data))
    await stream.close()
    await ended
    return { reply }
  },
  discovered: async ({ peer }) => {
    while (!discovered.has(peer)) await once(node, 'peer:discovery', soon())
  },
  reserve: async ({ relay }) => {
    await node.components.transportManager.listen([multiaddr(`${relay}/p2p-circuit`)])
  },
  ping: async ({ peer }) => ({ ms: await node.services.ping.ping(peerIdFromString(peer), soon()) }),
  protocols: async ({ peer }) => {
    const known = await node.peerStore.get(peerIdFromString(peer))
    const agent = Buffer.from(known.metadata.get('AgentVersion') ?? '').toString()
    const addresses = known.addresses.map(({ multiaddr, isCertified }) => ({ addr: `${multiaddr}`, certified: isCertified }))
    return { protocols: known.protocols, agent, addresses }
  },
  verified: async () => ({
    addrs: node.components.addressManager.getAddressesWithMetadata()
      .filter(({ verified }) => verified).map(({ multiaddr }) => `${multiaddr}`)
  }),
  findpeer: async ({ peer }) => {
    for await (const event of node.services.dht.findPeer(peerIdFromString(peer), soon())) {
      if (event.name === 'FINAL_PEER') return { addrs: event.peer.multiaddrs.map(String) }
    }
    throw new Error('not found')
  },
  peers: async () => ({
    peers: node.getConnections().map(conn => ({
      id: `${conn.remotePeer}`, addr: `${conn.remoteAddr}`, direction: conn.direction, security: conn.encryption, muxer: conn.multiplexer
    }))
  })
}

// With AutoNAT a public address is told only once it is proved: here where it listens is meant.
const bound = () => node.components.transportManager.getAddrs().map(addr => `${addr}/p2p/${node.peerId}`)
emit({ id: `${node.peerId}`, addrs: options.autonat ? bound() : node.getMultiaddrs().map(String) })
const input = readline.createInterface({ input: process.stdin })
for await (const line of input) {
  const { cmd, ...args } = JSON.parse(line)
  try { emit({ ok: true, ...await commands[cmd](args) }) } catch (error) { emit({ ok: false, error: `${error.name}: ${error.message}` }) }
}
setTimeout(() => process.exit(0), 1000)
await node.stop()
process.exit(0)
